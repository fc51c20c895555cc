"""Does a source search names of variables in a way that finds one which each worker has for itself?

``[v for k, v in {**os.environ}.items() if k.endswith("_SLOT")]`` has RRMASTER_WORKER_SLOT in a worker that imports the
application, and nothing in a template.  What the code does with a copy of the environment cannot be watched.  So each
comparison in the source with a fixed text is tried on the names: does it hold for one of them?

A condition that is put together while it runs (``k.endswith(suffix)``) is not found.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from ....protocol.template_wire import OWN_TO_EACH

Holds = Callable[[str, str], bool]
"""Whether a comparison of a name with a text holds."""

_LEAST = 3
"""The letters of the shortest text that counts: ``_ID``."""

_ANY = "ZZ9"
"""A condition that holds for this, too, tells no names apart."""


def searched_for(source: str) -> str:
    """The first of the variables that a condition in this source holds for; empty if there is none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    conditions = [condition for node in ast.walk(tree) for condition in _conditions(node)]
    return next((name for name in OWN_TO_EACH if any(holds(name, text) for holds, text in conditions)), "")


def _conditions(node: ast.AST) -> Iterator[tuple[Holds, str]]:
    """What this node compares with which texts."""
    holds, expressions = _comparison(node)
    for text in (text for expression in expressions for text in _texts(expression)):
        if len(text) >= _LEAST and not holds(_ANY, text):
            yield holds, text


def _comparison(node: ast.AST) -> tuple[Holds, Sequence[ast.expr]]:
    match node:
        case ast.Call(func=ast.Attribute(attr=method), args=[text, *_]) if method in _METHODS:
            return _METHODS[method], [text]
        case ast.Call(func=function, args=arguments):
            called = ast.unparse(function)
            return _PATTERNS.get(called, _never), arguments
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()]):
            return _is_part, [left]
        case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq()], comparators=[right]):
            return _is_a_word, [left, right]
    return _never, []


def _texts(expression: ast.expr) -> Iterator[str]:
    """The texts that are written there."""
    match expression:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Constant(value=bytes(data)):
            yield data.decode("ascii", "replace")
        case ast.Tuple(elts=elements):
            for element in elements:
                yield from _texts(element)


def _never(name: str, text: str) -> bool:
    return False


def _is_part(name: str, text: str) -> bool:
    return text in name


def _is_a_word(name: str, text: str) -> bool:
    """Whether it is what ``name.split("_")[-1]`` may be."""
    return f"_{text}_" in f"_{name}_"


def _finds(name: str, pattern: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


_METHODS: dict[str, Holds] = {
    "endswith": str.endswith,
    "removesuffix": str.endswith,
    "startswith": str.startswith,
    "removeprefix": str.startswith,
}

_PATTERNS: dict[str, Holds] = {
    **dict.fromkeys(("re.search", "re.match", "re.fullmatch", "re.findall", "re.compile"), _finds),
    **dict.fromkeys(
        ("fnmatch", "fnmatchcase", "fnmatch.fnmatch", "fnmatch.fnmatchcase", "fnmatch.filter"), fnmatchcase
    ),
}
"""The functions that find by a pattern, as sources call them."""
