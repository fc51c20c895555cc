"""What is released: the files of the wheel and the sdist, the changelog's fragments, and the Pythons of the CI.

The session `build` of noxfile.py builds both and checks them, and a program against the installed wheel with mypy.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

import attrs
import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from rrmaster import __version__
from rrmaster.status.model import ListenerStatus, Snapshot, TemplateStatus, WorkerStatus
from tests.pages import ROOT
from tests.test_docs import anchors, flags_in, our_flags

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FRAGMENTS = sorted(file for file in (ROOT / "newsfragments").iterdir() if file.name != "README.md")
TYPES = [kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]]


def files_in(builder: WheelBuilder | SdistBuilder) -> set[str]:
    return {included.distribution_path for included in builder.recurse_included_files()}


PAPERS = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "newsfragments/README.md")]
"""The pages that tests/test_docs.py does not read."""


# --- files


def test_the_wheel_promises_types_and_holds_the_package_alone():
    files = files_in(WheelBuilder(str(ROOT)))
    assert "rrmaster/py.typed" in files
    assert {name.partition("/")[0] for name in files} == {"rrmaster"}
    pages = {
        f"rrmaster/admin/page/{name}" for name in ("page.html", "content.html", "action.html", "page.css", "page.js")
    }
    assert {name for name in files if not name.endswith(".py")} == {"rrmaster/py.typed", *pages}


def test_the_sdist_holds_what_builds_tests_and_documents_the_package():
    files = files_in(SdistBuilder(str(ROOT)))
    assert {"rrmaster/py.typed", "tests/test_release.py", "docs/index.md", "bench/README.md"} <= files
    for wanted in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]:
        assert wanted in files or any(name.startswith(f"{wanted}/") for name in files), wanted
    assert not [
        name for name in files if "__pycache__" in name or name.startswith(("dist/", "site/", ".git/", ".nox/"))
    ]


# --- the changelog


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda file: file.name)
def test_a_news_fragment_has_a_name_that_towncrier_understands_and_is_a_few_sentences(fragment):
    assert re.fullmatch(rf"(?:\d+|\+[a-z0-9-]+)\.(?:{'|'.join(TYPES)})(?:\.\d+)?\.md", fragment.name)
    text = fragment.read_text()
    assert text.endswith(".\n")
    assert text.count("\n") <= 6
    assert not re.search(r"^\s*(?:#|[-*] )", text, re.MULTILINE), "no headings and no lists: it becomes an item of one"


def test_the_types_of_fragments_are_explained():
    explained = re.findall(r"^\| `(\w+)` \|", (ROOT / "newsfragments" / "README.md").read_text(), re.MULTILINE)
    assert explained == TYPES


def test_the_changelog_has_this_version_and_room_for_the_next():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.count(PROJECT["tool"]["towncrier"]["start_string"]) == 1
    assert re.search(rf"^## {re.escape(__version__)}\b", changelog, re.MULTILINE)


# --- versions of Python


def test_the_hosted_ci_runs_the_suite_with_each_python_that_is_promised():
    named = [text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", text)]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", workflow, re.MULTILINE)
    assert re.findall(r'"([\d.]+)"', matrix) == named
    assert f"- **Python**: {named[0]} to {named[-1]}." in (ROOT / "docs" / "versioning.md").read_text()


def test_each_version_of_python_that_is_promised_is_allowed():
    assert PROJECT["project"]["requires-python"] == ">=3.11"
    assert "Programming Language :: Python :: 3.11" in PROJECT["project"]["classifiers"]


# --- pages


@pytest.mark.parametrize("page", PAPERS, ids=lambda page: page.name)
def test_every_link_of_the_other_pages_leads_to_a_file_and_a_heading(page):
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]*)\)", page.read_text())):
        if "://" not in target:
            led = (page.parent / target).resolve() if target else page
            assert led.exists(), target
            assert not anchor or anchor in anchors(led), f"{target}#{anchor}"


SECURITY = (ROOT / "SECURITY.md").read_text()


def test_every_option_in_the_threat_model_exists():
    others = {"--upgrade", "--seconds", "--sessions", "--repo"}
    assert flags_in(SECURITY) - our_flags() <= others


def test_every_file_of_the_repository_that_the_threat_model_names_exists():
    named = set(re.findall(r"`((?:tests|docs|\.github)/[\w./-]+\.\w+)`", SECURITY))
    assert len(named) > 10
    assert {path for path in named if not (ROOT / path).is_file()} == set()


def test_every_field_in_the_table_of_silent_failures_is_one_of_the_status():
    table = SECURITY.partition("## Which failures are silent")[2].partition("\n## ")[0]
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    kinds = (Snapshot, ListenerStatus, WorkerStatus, TemplateStatus)
    assert len(named) > 10
    assert named <= {field.name for kind in kinds for field in attrs.fields(kind)}


# --- publishing


def test_a_release_is_built_once_and_published_without_a_stored_password():
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    build, _, publish = workflow.partition("\n  publish:")
    assert "nox --sessions build sbom" in build
    assert "id-token: write" not in build, "what runs the build's dependencies cannot publish"
    assert "id-token: write" in publish
    assert "secrets." not in workflow
    assert "password" not in publish


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_each_session_that_a_workflow_runs_exists(path):
    sessions = set(re.findall(r"^def (\w+)\(session: ", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    lines = re.findall(r"nox --sessions (.+)$", path.read_text(), re.MULTILINE)
    named = {word.partition("-")[0] for line in lines for word in re.sub(r"\$\{\{.*?\}\}|\"", "", line).split()}
    assert named
    assert named <= sessions
