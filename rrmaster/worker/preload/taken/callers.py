"""Does the application ask, or a library for its own ends?

Many modules ask for their process's id while they are imported: to notice a fork later, for the name of a temporary
file, for a line of a log.  What they do with it is right after a fork.  What the application itself takes while it is
imported is its workers' identity: a lock's owner, a consumer's name, a machine's number.

So the frames of the call decide, from the innermost one outwards.  The application's own frame: it asks.  An `import`
statement: a library asks, while it is imported itself.  A library's frame: it depends on what is asked for, see
`place`.
"""

from __future__ import annotations

import os
from collections.abc import Container
from enum import Enum
from types import FrameType

_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_THIS_PACKAGE = __file__.rpartition("/worker/preload/")[0] + os.sep

_INSTALLED = ("/site-packages/", "/dist-packages/", ".whl/", ".egg/")
"""What the path of an installed library has in it; the latter two in bundles such as those of PEX."""


class Owner(Enum):
    """The owners of a frame's code."""

    APPLICATION = "application"
    LIBRARY = "library"
    IMPORT = "import"
    """The interpreter, which carries out an `import` statement."""


class Callers:
    """Tells an application's frames from those of libraries."""

    def __init__(self, application: str, directory: str) -> None:
        """`application` as the user names it (``shop.main:app``); `directory`: paths in messages begin there."""
        module = application.rpartition(":")[0]
        # Its package is the application's also where it is installed among the libraries.
        self._package = "" if module.endswith(".py") else module.partition(".")[0]
        self._directory = os.path.join(os.path.abspath(directory), "")
        self._owners: dict[str, Owner] = {}

    def place(self, frame: FrameType | None, passing: Container[str] | None = None) -> str:
        """Where the application asks, as ``file:line``; empty if it is not the application.

        `passing`: the libraries, by the names of modules (``random``) or of functions (``random.seed``), that hand what
        they get on to their callers.  None: all do.
        """
        while frame is not None:
            owner = self.owner(frame)
            if owner is Owner.APPLICATION:
                return f"{frame.f_code.co_filename.removeprefix(self._directory)}:{frame.f_lineno}"
            if owner is Owner.IMPORT or (passing is not None and not _is_among(frame, passing)):
                return ""
            frame = frame.f_back
        return ""

    def owner(self, frame: FrameType) -> Owner:
        """The owner of a frame's code."""
        file = frame.f_code.co_filename
        if file.startswith("<") and not file.startswith("<frozen "):  # generated code, such as an __init__ of attrs
            file = str(frame.f_globals.get("__file__") or file)
        found = self._owners.get(file)
        if found is None:
            found = self._owners[file] = self.owner_of(file, str(frame.f_globals.get("__name__")))
        return found

    def owner_of(self, file: str, module: str) -> Owner:
        """The owner of a file, which is the source of this module."""
        if file.startswith(("<frozen importlib", "<frozen runpy", "<frozen zipimport", _THIS_PACKAGE)):
            return Owner.IMPORT
        if self._package and module.partition(".")[0] == self._package:
            return Owner.APPLICATION
        installed = file.startswith(("<", _STANDARD_LIBRARY)) or any(part in file for part in _INSTALLED)
        return Owner.LIBRARY if installed else Owner.APPLICATION


def _is_among(frame: FrameType, names: Container[str]) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return module in names or f"{module}.{frame.f_code.co_name}" in names
