"""What does an import do that its traces do not tell: which temporary names does it take, which locks does it want?

A directory of `tempfile` looks like any other, and a lock that another process holds leaves no trace, although each
worker would ask for it again.  So some functions of the standard library take notes while the application is imported.
(An audit hook would do that too, and could never be removed: each `open` would pay for it.)
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

from attrs import Factory, define

from ...protocol.forks.safety import Finding, file_locked, made_temporary


@define(eq=False)
class Notes:
    """The deeds of one import."""

    _made: list[str] = Factory(list)
    _wanted: dict[int, str] = Factory(dict)
    """The files whose locks it asked for and has not given back, by their descriptors."""
    _over: bool = False

    def findings(self) -> tuple[Finding, ...]:
        """The deeds that make a fork unsafe, as far as they last."""
        wanted = [
            Finding(file_locked(path, number), trace=f"descriptor {number}")
            for number, path in self._wanted.items()
            if _target(number) == path
        ]
        return (*wanted, *(Finding(made_temporary(path), trace=f"name {path}") for path in self.temporary()))

    def traces(self) -> dict[str, None]:
        """The temporary names, as traces."""
        return {f"name {path}": None for path in self._made}

    def temporary(self) -> list[str]:
        """The files and directories with temporary names that it has left."""
        return [path for path in self._made if os.path.lexists(path)]

    def end(self) -> None:
        """Take no more notes."""
        self._over = True

    def directory(self, _: tuple[Any, ...], made: Any) -> None:
        """`tempfile.mkdtemp` has returned this, or None if it failed."""
        if made is not None and not self._over:
            self._made.append(os.fsdecode(made))

    def file(self, _: tuple[Any, ...], made: Any) -> None:
        """`tempfile.mkstemp` has returned this."""
        self.directory((), made and made[1])

    def whole_lock(self, arguments: tuple[Any, ...], _: Any) -> None:
        """`fcntl.flock` was called.  A lock that others may have too makes no leader, and each worker has its own."""
        if not arguments[1] & fcntl.LOCK_SH:
            self.lock(arguments, _)

    def lock(self, arguments: tuple[Any, ...], _: Any) -> None:
        """`fcntl.flock` or `fcntl.lockf` was called with these arguments; the lock may be another process's."""
        file, operation = arguments[:2]
        number = file if isinstance(file, int) else file.fileno()
        if operation & fcntl.LOCK_UN:
            self._wanted.pop(number, None)
        elif not self._over:
            self._wanted[number] = _target(number)


def _target(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return "it is closed"


@contextmanager
def taking_notes(notes: Notes) -> Iterator[None]:
    """Note what the import does in this block."""
    with ExitStack() as stack:
        stack.callback(notes.end)
        stack.enter_context(_watched(tempfile, "mkdtemp", notes.directory))
        stack.enter_context(_watched(tempfile, "mkstemp", notes.file))
        stack.enter_context(_watched(fcntl, "flock", notes.whole_lock))
        stack.enter_context(_watched(fcntl, "lockf", notes.lock))
        yield


@contextmanager
def _watched(module: ModuleType, name: str, note: Callable[[tuple[Any, ...], Any], None]) -> Iterator[None]:
    """Tell `note` of each call of a function: the arguments, and the result or None if the kernel refused.

    A module that has imported the function by its name keeps the watched one.
    """
    function = getattr(module, name)

    @wraps(function)
    def watched(*arguments: Any, **named: Any) -> Any:
        try:
            result = function(*arguments, **named)
        except OSError:
            note(arguments, None)
            raise
        note(arguments, result)
        return result

    setattr(module, name, watched)
    try:
        yield
    finally:
        if getattr(module, name) is watched:
            setattr(module, name, function)
