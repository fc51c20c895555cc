"""How often does the project's prose use an idiom that a reader stumbles over?  ``python -m tests.prose [PATH ...]``

Prose is what a person reads: docstrings, comments and messages of the package, docstrings and comments of bench and
tests, and the pages.  Code in a page is not prose.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

IDIOMS = re.compile(
    r"\b(?:who|whom|who(?:m)?ever|nobody|somebody|everybody|anybody|(?:is|are) to be|so many|any more|likewise)\b",
    re.IGNORECASE,
)

MOST = 2.0
"""Idioms in 1,000 words."""

WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")


def python_files() -> list[Path]:
    return [file for folder in ("rrmaster", "bench", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]


def pages() -> list[Path]:
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")]
    return sorted(file for file in files if file.name != "CHANGELOG.md")


@cache
def prose_of(file: Path) -> str:
    """The prose of a file."""
    return "\n".join(_of_a_page(file.read_text()) if file.suffix == ".md" else _of_a_module(file))


def _of_a_page(text: str) -> Iterator[str]:
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    yield re.sub(r"`[^`]*`|<!--.*?-->", "", text, flags=re.DOTALL)


def _of_a_module(file: Path) -> Iterator[str]:
    source = file.read_text()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    messages = (ROOT / "rrmaster") in file.parents
    for node in ast.walk(tree):
        said = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if said and (id(node) in docstrings or (messages and node.value.count(" ") > 1)):
            yield node.value


def census(files: list[Path]) -> tuple[int, Counter[str]]:
    """The number of words in these files, and the count of each idiom."""
    words, found = 0, Counter[str]()
    for file in files:
        prose = prose_of(file)
        words += len(WORD.findall(prose))
        found.update(idiom.lower() for idiom in IDIOMS.findall(re.sub(r"\s+", " ", prose)))
    return words, found


def density(files: list[Path]) -> float:
    """Idioms in 1,000 words."""
    words, found = census(files)
    return 1000 * found.total() / max(words, 1)


def main(arguments: list[str]) -> None:
    chosen = [Path(argument).resolve() for argument in arguments]
    files = [f for f in [*python_files(), *pages()] if not chosen or any(f == c or c in f.parents for c in chosen)]
    for file in sorted(files, key=lambda file: -density([file])):
        words, found = census([file])
        if found:
            counts = ", ".join(f"{idiom} {count}" for idiom, count in found.most_common())
            print(f"{density([file]):6.1f}  {words:6}  {file.relative_to(ROOT)}: {counts}")
    words, found = census(files)
    print(f"{density(files):6.1f}  {words:6}  in all: {found.total()} idioms")


if __name__ == "__main__":
    main(sys.argv[1:])
