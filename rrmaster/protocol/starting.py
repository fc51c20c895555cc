"""May a master be started in this process?  Not while it imports the application that it serves, nor in its program.

A worker, a template and a child of `multiprocessing` (method "spawn") import the module of a program that runs a
master.  A call of `rrmaster.run` that stands at the module's level would run again there: on a fixed port it finds the
port taken by its own master, and on port 0 each master starts another without end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_forbidden: list[str] = []
"""Why not; the innermost reason is the last."""


class StartedTwice(RuntimeError):
    """A master is started by code that runs in its own workers, too.  The message says what to write instead."""


@contextmanager
def importing() -> Iterator[None]:
    """Let no master be started in the block, which imports the application."""
    _forbidden.append('while a worker imports it, too; guard the call with `if __name__ == "__main__":`')
    try:
        yield
    finally:
        _forbidden.pop()


def forbid_in_program(name: str) -> None:
    """Let no master be started in this process from now on: it runs a program, as a worker."""
    _forbidden.append(f"in a worker of another master; run {name} with python, or serve its application by name")


def check_may_start() -> None:
    """Raises StartedTwice if no master may be started here."""
    why = _forbidden[-1] if _forbidden else ""
    spawned = sys.modules.get("multiprocessing.process")
    if not why and spawned is not None and getattr(spawned.current_process(), "_inheriting", False):
        why = 'while a child process imports it, too; guard the call with `if __name__ == "__main__":`'
    if why:
        raise StartedTwice(f"{_where(sys._getframe(1))} starts a master {why}")


def _where(frame: FrameType | None) -> str:
    """The line at the level of a module that led here."""
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}," if frame is not None else "the application"
