"""The blocks of code in a page of the documentation, in reading order.

A block in an HTML comment is read like any other: it holds what the page's test needs and its reader does not.

``python -m tests.pages`` renews the generated parts of the pages.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen

from rrmaster.cli.arguments import default_of
from rrmaster.config.option import flag
from rrmaster.config.settings import options
from rrmaster.rules.kernel_errors import LAWS, name_of
from rrmaster.rules.lifecycle import as_table
from rrmaster.status.tables import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)

_MARK = re.compile(r"<!-- (?P<mark>\w+)(?:: [^>]*)? -->\n\Z")

_NAME = re.compile(r"# (?P<name>[\w./-]+\.(?:py|toml|env))(?::.*)?$")


@frozen
class Block:
    """A fenced block."""

    language: str
    text: str
    page: str = ""
    line: int = 0
    mark: str = ""
    """A word in a comment before it: ``<!-- serves -->``, ``<!-- parsed: it needs a certificate -->``."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if its first line says so: ``# shop.py``."""
        named = _NAME.match(self.text.splitlines()[0]) if self.text.strip() else None
        return named["name"] if named else None

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """The commands of a console, each with the lines of output that follow it.

        Where any line begins with ``$ ``, only such lines are typed; otherwise all lines are.  Comments are dropped.
        """
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        prompted = any(line.startswith("$ ") for line in lines)
        typed: list[tuple[str, list[str]]] = []
        for line in lines:
            if not prompted or line.startswith("$ "):
                command = re.sub(r"\s+#\s.*$", "", line.removeprefix("$ "))
                typed.append((command, []))
            elif typed:
                typed[-1][1].append(line)
        yield from typed


def name(page: Path) -> str:
    """The page's path in the repository: ``docs/tutorial.md``."""
    return str(page.relative_to(ROOT))


def blocks(text: str, page: str = "") -> list[Block]:
    """The blocks of a page, including those in comments."""
    return [
        Block(
            found["language"].strip(),
            textwrap.dedent(found["text"]),
            page,
            text[: found.start()].count("\n") + 1,
            (_MARK.search(text, 0, found.start()) or {"mark": ""})["mark"],
        )
        for found in _FENCE.finditer(text)
    ]


# --- what is generated


def options_in_tables() -> str:
    """All options with their defaults, from their declarations."""
    groups: dict[str, list[str]] = {}
    for option_name, option in options().items():
        flags = ", ".join(f"`{short}`" for short in option.flags)
        value = html.escape(option.metavar).replace("|", "&#124;")
        spelled = f"<code>{flag(option_name)}{' ' * bool(value)}{value}</code>"
        default = html.escape(option.shown or default_of(option_name)).replace("|", "&#124;")
        about = "; ".join(filter(None, (option.help, option.note)))
        about = html.escape(about, quote=False).replace("|", "&#124;").replace("*", "&#42;")
        row = f"| {', '.join(filter(None, (flags, spelled)))} | {default} | {about} |"
        groups.setdefault(option.group, []).append(row)
    head = "| | default | |\n|---|---|---|"
    sections = ((f"## {group[0].upper()}{group[1:]}\n", head, *rows) for group, rows in groups.items())
    return "\n\n".join(map("\n".join, sections))


def columns_in_a_table() -> str:
    """The columns of `rrmaster status` with their meanings, from their declarations."""
    return "\n".join(["| | |", "|---|---|", *(f"| {column.title} | {column.about} |" for column in COLUMNS)])


def errors_in_a_table() -> str:
    """What each error of the kernel costs, by call, from the laws."""

    def named(numbers: Iterable[int]) -> str:
        return ", ".join(sorted(name_of(number) for number in numbers))

    rows = []
    for call, law in LAWS.items():
        costs = "; ".join(f"{cost.value}: {named(numbers)}" for numbers, cost in law.costs)
        rows.append(f"| {call} | {costs or '-'} | {law.otherwise.value} |")
    return "\n".join(["| call | costs | any other error |", "|---|---|---|", *rows])


GENERATED = {
    "law": ("architecture.md", as_table),
    "errors": ("architecture.md", errors_in_a_table),
    "columns": ("control.md", columns_in_a_table),
    "options": ("options.md", options_in_tables),
}
"""The generated parts of pages, between ``<!-- name -->`` and ``<!-- end of name -->``."""


def renewed(mark: str) -> str:
    """The text of the page with this part, which is made anew."""
    page, generate = GENERATED[mark]
    before, rest = (DOCS / page).read_text().split(f"<!-- {mark} -->\n")
    _, after = rest.split(f"<!-- end of {mark} -->")
    return f"{before}<!-- {mark} -->\n{generate().strip()}\n<!-- end of {mark} -->{after}"


if __name__ == "__main__":
    for part, (name, _) in GENERATED.items():
        (DOCS / name).write_text(renewed(part))
