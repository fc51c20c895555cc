"""Does the application take a value without keeping it?

``os.environ.get("SECRET_KEY", secrets.token_hex())`` takes a random value each time, and uses it only where the
variable is missing.  Such lines are frequent, and on a server the variable is there.  And ``print(os.getpid())`` only
says it.  So the source is looked at: is the call that is under way in a frame in an argument of one of these?
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from itertools import islice
from types import FrameType

_ASKING = frozenset({"os.environ.get", "environ.get", "os.getenv", "getenv", "env", "config"})
"""Calls that ask for a variable; the last two are those of django-environ, environs, decouple and Starlette."""

_SAYING = frozenset({"debug", "info", "warning", "error", "critical", "log"})
"""The methods of loggers."""


def is_unused(frame: FrameType) -> bool:
    """Whether the value of the call under way in this frame is a default that is not used, or is only printed."""
    line, end_line, column, end_column = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None))
    if line is None or end_line is None or column is None or end_column is None:
        return False  # the interpreter was told to forget the places (-X no_debug_ranges)
    try:
        with open(frame.f_code.co_filename, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return False  # there is no source, or it is newer than the code that runs
    return any(
        (each.lineno, each.col_offset) <= (line, column)
        and (end_line, end_column) <= (each.end_lineno or 0, each.end_col_offset or 0)
        for each in _unused(tree)
    )


def _unused(tree: ast.Module) -> Iterator[ast.expr]:
    """The expressions whose values are not kept."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _asks_for_what_is_set(node):
            yield from node.args[1:]
            yield from (keyword.value for keyword in node.keywords)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _says(node.value.func):
            yield from node.value.args


def _asks_for_what_is_set(call: ast.Call) -> bool:
    if ast.unparse(call.func) not in _ASKING or not call.args:
        return False
    name = call.args[0]
    return isinstance(name, ast.Constant) and isinstance(name.value, str) and _is_set(name.value)


def _is_set(name: str) -> bool:
    # Not os.environ.get(): while an import is watched, that would note that it asks for the variable.
    environ: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return bool(environ.get(os.fsencode(name)))


def _says(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr in _SAYING
    return isinstance(function, ast.Name) and function.id == "print"
