"""Does the documentation agree with the code?  Names, options, links, and what is generated.

What a page tells its reader to do is done in whole/test_stories.py."""

import argparse
import ast
import inspect
import re
import textwrap
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import uvicorn

import rrmaster
from rrmaster.cli.arguments import CHECK_WORDS, VERBS, make_parser
from rrmaster.cli.commands import COMMANDS, Verb
from tests.pages import DOCS, GENERATED, PAGES, ROOT, blocks, name, renewed

OTHERS = {
    "--editable": "pip",
    "--now": "systemctl and rrmaster stop",
    "--kill-whom": "systemctl",
    "--signal": "systemctl",
    "--init": "docker",
    "--file": "docker",
    "--from": "docker",
    "--interval": "docker",
    "--read-only": "docker",
    "--start-interval": "docker",
    "--start-period": "docker",
    "--timeout": "docker",
    "--tmpfs": "docker",
    "--no-cache-dir": "pip",
    "--requirement": "pip",
    "--stop-timeout": "docker",
    "--tag": "docker",
    "--strict": "zensical",
    "--watch": "PM2",
    "--limit-request-": "gunicorn",
    "--unix-socket": "curl",
    "--deploy-hook": "certbot",
    "--wokers": "none: a mistake on purpose",
}
"""Options that the pages name and that are not ours, each with its owner."""

TABLE_OF_OTHERS = DOCS / "from-gunicorn.md"


def by_name(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=name)


def flags_in(text: str) -> set[str]:
    """``--the-options`` in a text."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text))


def our_flags() -> set[str]:
    parsers = [make_parser(), *map(parser_of, COMMANDS.values())]
    return {flag for parser in parsers for action in parser._actions for flag in action.option_strings} | {*CHECK_WORDS}


def parser_of(verb: Verb) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    verb.arguments(parser)
    return parser


# --- what is generated


@pytest.mark.parametrize("mark", GENERATED)
def test_what_is_generated_is_as_the_code_has_it(mark):
    """To renew it: python -m tests.pages."""
    page, _ = GENERATED[mark]
    assert (DOCS / page).read_text() == renewed(mark)


# --- names


@by_name([page for page in PAGES if page != TABLE_OF_OTHERS])
def test_every_option_that_is_named_exists(page):
    assert flags_in(page.read_text()) - our_flags() - OTHERS.keys() == set()


def test_the_table_of_options_has_gunicorns_uvicorns_and_ours_each_in_its_column():
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in TABLE_OF_OTHERS.read_text().partition("##")[0].splitlines()
        if row.startswith("|")
    ][2:]
    assert len(rows) > 20
    uvicorns = {flag for parameter in uvicorn.main.params for flag in parameter.opts}
    for row in rows:
        assert flags_in(row[1]) <= uvicorns
        assert flags_in(row[2]) <= our_flags()


OWNERS = {
    "rrmaster": rrmaster,
    "master": rrmaster.Master,
    "worker": rrmaster.Worker,
    "me": rrmaster.CurrentWorker,
}
"""What a name before a dot stands for, on all pages."""

THEIRS = {"worker.kill(signal)", "worker.disconnect()", "worker.send(message)", "worker.process.pid",
          "worker.isConnected()", "worker.exitedAfterDisconnect", "worker.output", "worker.access"}  # fmt: skip
"""Names of Node's API, and events of the log."""

MODULES = {"demo", "lifecycle", "rollout", "toml", "py", "service", "sock", "settings", "example"}
"""``rrmaster.demo:hello`` and ``rrmaster.toml`` are no public names."""


def dotted_names(text: str) -> set[tuple[str, str]]:
    """``master.scale`` and the like, in code between backticks."""
    inline = set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)))
    found = set()
    for code in inline - THEIRS:
        found |= set(re.findall(rf"(?<![\w./:-])({'|'.join(OWNERS)})\.([a-z_A-Z]+)", code))
    return found


@by_name(PAGES)
def test_every_name_on_a_page_exists(page):
    for owner, attribute in dotted_names(page.read_text()):
        if owner == "rrmaster" and attribute in MODULES:
            continue
        if owner == "me" and attribute in {field.name for field in rrmaster.CurrentWorker.__attrs_attrs__}:
            continue
        assert hasattr(OWNERS[owner], attribute), f"{owner}.{attribute}"


@by_name(PAGES)
def test_every_verb_that_is_named_exists(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`rrmaster ([a-z][a-z-]+)(?=[ `])", text))
    assert named <= set(VERBS)


# --- the reference


def test_every_public_name_is_in_the_reference_once():
    told = Counter(re.findall(r"^::: rrmaster\.(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE))
    assert told == Counter(set(rrmaster.__all__) - {"__version__"})


def undocumented(thing: type) -> set[str]:
    """The public attributes and methods of a class that have no docstring."""
    body = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0].body
    bare = set()
    for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        match statement:
            case ast.AnnAssign(target=ast.Name(id=called)):
                told = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            case ast.FunctionDef(name=called) | ast.AsyncFunctionDef(name=called):
                told = ast.get_docstring(statement) is not None
            case _:
                continue
        if not told and not called.startswith("_"):
            bare.add(called)
    return bare


@pytest.mark.parametrize("public", sorted(set(rrmaster.__all__) - {"__version__"}))
def test_every_public_name_says_what_it_is(public):
    thing = getattr(rrmaster, public)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing) and thing is not rrmaster.Settings:  # its options have help texts
        assert undocumented(thing) == set()


# --- the site


def pages_in(entries: list[object]) -> list[str]:
    """The pages of the navigation, in their order."""
    found: list[str] = []
    for entry in entries:
        for content in entry.values() if isinstance(entry, dict) else [entry]:
            found += pages_in(content) if isinstance(content, list) else [str(content)]
    return found


def test_every_page_is_in_the_navigation_once_and_no_other():
    navigation = pages_in(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(navigation) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@by_name(PAGES)
def test_every_link_leads_to_a_page_and_a_heading(page):
    for target, _, anchor in (link.partition("#") for link in links_in(page.read_text())):
        led = file_behind(target, page)
        if led is None:
            continue
        assert led.exists(), target
        if anchor:
            assert anchor in anchors(led), f"{target}#{anchor}"


def links_in(text: str) -> list[str]:
    """The targets of links and images."""
    return re.findall(r"\]\(([^)\s]*)\)", text)


HERE = (
    "https://github.com/rrmaster/rrmaster/blob/main/",
    "https://github.com/rrmaster/rrmaster/tree/main/",
    "https://raw.githubusercontent.com/rrmaster/rrmaster/main/",
)
"""Addresses of this repository's files."""


def file_behind(target: str, page: Path) -> Path | None:
    """The file of this repository that a link on `page` leads to.  None for an address elsewhere."""
    for base in HERE:
        if target.startswith(base):
            return ROOT / target.removeprefix(base)
    if "://" in target:
        return None
    return (page.parent / target).resolve() if target else page


def test_the_readmes_links_are_absolute():
    """It is the description of the package on the index too, where a relative link leads nowhere."""
    readme = (ROOT / "README.md").read_text()
    assert [target for target in links_in(readme) if "://" not in target] == []
    assert sum(file_behind(target, ROOT / "README.md") is not None for target in links_in(readme)) > 10


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("https://github.com/rrmaster/rrmaster/blob/main/docs/no_page.md", "docs/no_page.md"),
        ("https://raw.githubusercontent.com/rrmaster/rrmaster/main/bench/plots/no.svg", "bench/plots/no.svg"),
        ("https://www.python.org/", None),
    ],
)
def test_an_address_of_this_repository_is_checked_as_a_file_of_it(target, file):
    assert file_behind(target, ROOT / "README.md") == (ROOT / file if file else None)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_name(PAGES)
def test_every_block_says_what_it_is(page):
    assert all(block.language for block in blocks(page.read_text()))
