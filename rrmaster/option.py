"""How does a setting look from outside: as a flag, in the help, in the documentation?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from .spelling import parse_switch


@frozen
class Option:
    """How a field of `Settings` looks from outside."""

    help: str
    group: str
    metavar: str
    parse: Callable[[object], Any]
    flags: tuple[str, ...] = ()
    """Short flags and other names; ``--the-name`` is always one."""
    repeatable: bool = False
    shown: str | None = None
    """The default as --help shows it, where the value itself says too little."""

    @property
    def is_switch(self) -> bool:
        """It is on or off: ``--the-name`` and ``--no-the-name``."""
        return self.parse is parse_switch
