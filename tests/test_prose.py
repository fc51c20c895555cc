"""The project's prose is plain English: few idioms in all, in each room, and none that the counter overlooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import prose
from tests.prose import MOST, ROOT, census, density, pages, python_files

IDIOMS = (
    "who", "whom", "whoever", "whomever", "nobody", "somebody", "everybody", "anybody", "is to be", "are to be",
    "so many", "any more", "likewise",
)  # fmt: skip


def room(file: Path) -> str:
    """A folder of the package or of the tests; all of the bench; all of the pages."""
    folders = file.relative_to(ROOT).parts[:-1]
    if not folders or folders[0] == "docs":
        return "pages"
    return "/".join(folders[:2]) if folders[0] in ("rrmaster", "tests") else folders[0]


FILES = [*python_files(), *pages()]
ROOMS = sorted({room(file) for file in FILES})


def test_the_whole_project_has_few_idioms():
    assert density(FILES) <= MOST, census(FILES)


@pytest.mark.parametrize("name", ROOMS)
def test_each_room_has_few_idioms(name):
    files = [file for file in FILES if room(file) == name]
    assert density(files) <= MOST, {str(f.relative_to(ROOT)): found for f in files if (found := census([f])[1])}


# --- the counter


def counted(tmp_path: Path, name: str, text: str) -> dict[str, int]:
    file = tmp_path / name
    file.write_text(text)
    return dict(census([file])[1])


@pytest.mark.parametrize("idiom", IDIOMS)
def test_the_counter_finds_each_idiom_in_docstrings_comments_and_pages(tmp_path, idiom):
    sentence = f"A worker and {idiom.capitalize()}, two words."
    once = {idiom: 1}
    assert counted(tmp_path, "docstring.py", f'"""{sentence}"""\n') == once
    assert counted(tmp_path, "attribute.py", f'LIMIT = 3\n"""{sentence}"""\n') == once
    assert counted(tmp_path, "comment.py", f"# {sentence}\n") == once
    assert counted(tmp_path, "page.md", f"# Title\n\n{sentence}\n") == once


@pytest.mark.parametrize("idiom", [idiom for idiom in IDIOMS if " " in idiom])
def test_an_idiom_that_is_broken_over_two_lines_is_found(tmp_path, idiom):
    first, rest = idiom.split(" ", 1)
    assert counted(tmp_path, "page.md", f"There {first}\n{rest} of them.\n") == {idiom: 1}


def test_code_is_no_prose(tmp_path):
    page = "Text.\n\n```python\nnobody = 1  # whoever\n```\n\n~~~\nsomebody\n~~~\n\n`any more` <!-- likewise -->\n"
    assert counted(tmp_path, "page.md", page) == {}
    assert counted(tmp_path, "module.py", "nobody = 'so many words'\nwho = nobody\n") == {}


def test_a_part_of_a_word_is_no_idiom(tmp_path):
    assert counted(tmp_path, "page.md", "The whole is to become anything; whose many is it?\n") == {}


def test_messages_of_the_package_are_prose_and_strings_of_tests_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / "rrmaster").mkdir()
    (tmp_path / "tests").mkdir()
    message = "def f(port):\n    return f'{port}: nobody listens there'\n"
    assert counted(tmp_path, "rrmaster/module.py", message) == {"nobody": 1}
    assert counted(tmp_path, "tests/module.py", message) == {}
