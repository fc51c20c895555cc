"""How is an option declared, and what is said of one that is wrong?

An option is a field of `Settings`; what is to be known of it from outside, an `Option`, is in the field's metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from attrs import frozen

from .parsing import parse_switch


class SettingsError(Exception):
    """The configuration is wrong.  The message names the option as the user wrote it, and what to write instead."""


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


def named(parse: Callable[[Any], Any]) -> Any:
    """The parser as a converter whose complaint names the field."""

    def convert(value: Any, field: attrs.Attribute[Any]) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise SettingsError(f"{field.name}: {error}") from None

    return attrs.Converter(convert, takes_field=True)


def option(default: Any, parse: Callable[[Any], Any], group: str, metavar: str, about: str, **more: Any) -> Any:
    """A field of `Settings`: its default, how it is spelled, and how it looks from outside."""
    return attrs.field(
        default=default,
        converter=named(parse),
        kw_only=True,
        metadata={"option": Option(about, group, metavar, parse, **more)},
    )


def flag(name: str) -> str:
    """The long flag of an option."""
    return "--" + name.replace("_", "-")
