"""Which module's import has left a trace?

The traces are looked at before and after a module is loaded.  What is new belongs to the module whose code has run
since the last look: the innermost of those that are being loaded::

    shop ─ import ─► pandas ─ import ─► pyarrow.lib        a thread that is there after pyarrow.lib was loaded, and was
                                             │             not there before, is pyarrow.lib's, by way of pandas and shop
                                             └── thread

Only `rrmaster check --fork` has them looked at: it takes as long again as the import.
"""

from __future__ import annotations

import importlib._bootstrap
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from attrs import Factory, define

from .lost import lost_by_a_fork
from .sharing import shared_memory

_LOAD = "_load_unlocked"
"""The function of Python's own code for imports that loads one module; it is there in 3.11 to 3.15.  A finder or a
loader of our own would be seen by the application."""

Look = Callable[[], Mapping[str, object]]
"""The traces by their names in `safety.Finding.trace`, each with what tells it from another of that name."""


@define(eq=False)
class Origins:
    """Notes whose each trace is."""

    more: Look = dict
    """Traces that others note."""
    _loading: list[str] = Factory(list)
    """The modules that are being loaded, the outermost first."""
    _seen: dict[str, object] = Factory(dict)
    _mapped: tuple[str, tuple[str, ...]] = ("", ())
    """The size of this process's memory, in pages, and what it shared when it had that."""
    _of: dict[str, tuple[str, ...]] = Factory(dict)

    def of(self, trace: str) -> tuple[str, ...]:
        """The modules whose loading made it, the innermost first; empty if none did."""
        return self._of.get(trace, ())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the imports in the block."""
        self._look()
        load = getattr(importlib._bootstrap, _LOAD)
        setattr(importlib._bootstrap, _LOAD, self._watching(load))
        try:
            yield
        finally:
            setattr(importlib._bootstrap, _LOAD, load)
        self._look()

    def _watching(self, load: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @wraps(load)
        def watched(spec: Any) -> Any:
            with self._during(spec.name):
                return load(spec)

        return watched

    @contextmanager
    def _during(self, module: str) -> Iterator[None]:
        self._look()
        self._loading.append(module)
        try:
            yield
        finally:
            self._look()
            self._loading.pop()

    def _look(self) -> None:
        """What is new belongs to the innermost module that is being loaded."""
        now = self._all()
        for trace, identity in now.items():
            if trace not in self._seen or self._seen[trace] != identity:
                self._of[trace] = tuple(reversed(self._loading))
        self._seen = now

    def _all(self) -> dict[str, object]:
        threads: dict[str, object] = {f"thread {tid}": None for tid in _listed("/proc/self/task")}
        held = {f"descriptor {number}": _target(number) for number in _listed("/proc/self/fd")}
        shared: dict[str, object] = {f"memory {name}": None for name in self._shared_memory()}
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children: dict[str, object] = {"process": None} if file.read() else {}
        timed: dict[str, object] = {"timer": None} if any(signal.getitimer(which)[0] for which in (0, 1, 2)) else {}
        lost: dict[str, object] = {f"lost {what}": None for what in lost_by_a_fork()}
        return {**threads, **held, **shared, **children, **timed, **lost, **self.more()}

    def _shared_memory(self) -> tuple[str, ...]:
        """Read again only where the process has grown: to read thousands of mappings takes milliseconds."""
        with open("/proc/self/statm") as file:
            size = file.read().split()[0]
        if self._mapped[0] != size:
            self._mapped = size, shared_memory()
        return self._mapped[1]


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []  # there is no /proc, and the traces cannot be seen at all


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""  # the descriptor of the listing itself
