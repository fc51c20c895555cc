"""Which of the environment variables that each worker has for itself does the import read?

A template has none of them.  Asked for one by its name, the environment has to look for it, and that is noted.  A copy
(``dict(os.environ)``) cannot be watched, and whole environments are read for other ends by most libraries of settings.
So what counts is that the application's sources name such a variable, too, or search the names for one (`searching`).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ....protocol.template_wire import OWN_TO_EACH
from .callers import Callers, Owner
from .searching import searched_for

_NAMES_ONE = re.compile("|".join([*OWN_TO_EACH, "RRMASTER_WORKER_(?![A-Z])", "['\"]RRMASTER_['\"]"]))
"""A source that names such a variable, or the beginning of one."""

_AS_FIELD = re.compile("|".join([*map(str.lower, OWN_TO_EACH), "['\"]RRMASTER_['\"]"]))
"""The same for a library of settings, which reads the whole environment: a field (pydantic's), or a prefix."""

_COPYING = frozenset({"os", "_collections_abc", "collections.abc", "copy"})
"""The modules between a copy of the environment and its caller."""


class OwnEnvironment:
    """Watches the environment."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._asked: list[str] = []
        self._copied_in: set[str] = set()
        self._copied_by_a_library = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note what is read in the block."""
        environ, environb = os.environ, os.environb
        plain = environ._data  # type: ignore[attr-defined]  # what both are a view of
        watching = _Watching(plain, self)
        environ._data = environb._data = watching  # type: ignore[attr-defined]
        try:
            yield
        finally:
            plain.clear()
            plain.update(dict.items(watching))
            environ._data = environb._data = plain  # type: ignore[attr-defined]
            self._look_for_names()

    def asked(self) -> tuple[str, ...]:
        """The variables that it has read."""
        return tuple(self._asked)

    def note_missing(self, name: str) -> None:
        """The environment was asked for a variable that it does not have."""
        if name in OWN_TO_EACH and name not in self._asked:
            self._asked.append(name)

    def note_copied(self) -> None:
        """The whole environment was read."""
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_globals.get("__name__") in _COPYING:
            frame = frame.f_back
        if self._callers.owner(frame) is Owner.APPLICATION:
            self._copied_in.add(frame.f_code.co_filename)
        else:
            self._copied_by_a_library = True

    def _look_for_names(self) -> None:
        if not self._copied_in and not self._copied_by_a_library:
            return
        # A module whose import has failed is not among the loaded ones, but it may be the one that copied.
        for source in map(_text, self._copied_in | set(self._applications_files())):
            found = _NAMES_ONE.search(source) if self._copied_in else None
            if found is None and self._copied_by_a_library:
                found = _AS_FIELD.search(source)
            if found is not None:
                name = found[0].upper()
                self.note_missing(name if name in OWN_TO_EACH else OWN_TO_EACH[0])
            elif self._copied_in:
                self.note_missing(searched_for(source))

    def _applications_files(self) -> Iterator[str]:
        for name, module in list(sys.modules.items()):
            file = getattr(getattr(module, "__spec__", None), "origin", None)
            if file and file.endswith(".py") and self._callers.owner_of(file, name) is Owner.APPLICATION:
                yield file


class _Watching(dict[bytes, bytes]):
    """The environment, as `os.environ` keeps it."""

    def __init__(self, plain: dict[bytes, bytes], watcher: OwnEnvironment) -> None:
        super().__init__(plain)
        self._watcher = watcher

    def __missing__(self, key: bytes) -> bytes:
        self._watcher.note_missing(os.fsdecode(key))
        raise KeyError(key)

    def __iter__(self) -> Iterator[bytes]:
        self._watcher.note_copied()
        return super().__iter__()


def _text(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:
            return opened.read()
    except OSError:
        return ""  # compiled elsewhere, without its source
