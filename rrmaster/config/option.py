"""How is an option declared, and what is raised for a wrong value?

An option is a field of `Settings`.  All that the command line, the environment and the documentation need to know of it
is an `Option` in the field's metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs
from attrs import frozen

from .names import parse_switch


class SettingsError(Exception):
    """The configuration is wrong.

    Raised by `Settings` and by whatever reads a source of settings, before anything is opened or started.  Each of its
    arguments is a mistake, and one line of the message; all that are known are told at once.  A line names
    the option as the user wrote it (``--workers``, ``RRMASTER_WORKERS``, ``rrmaster.toml: workers``, or the keyword
    argument) and says what to write instead.
    """

    def __str__(self) -> str:
        return "\n".join(self.args)


class Scope(Enum):
    """What has to be started again before a change of an option takes effect."""

    RELOAD = "reload"
    """The workers: a reload is enough."""
    MASTER = "master"
    """The master.  The option acts once, when the master's process begins."""


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
    optional_value: bool = False
    """It is a switch that may have a value: ``--the-name``, ``--the-name=VALUE``, ``--no-the-name``."""
    shown: str | None = None
    """The default as --help shows it, where the value itself says too little."""
    scope: Scope = Scope.RELOAD

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off: ``--the-name`` and ``--no-the-name``."""
        return self.parse is parse_switch

    @property
    def note(self) -> str:
        """What --help and the documentation say of a changed value; empty if a reload follows it."""
        return "restart to change" if self.needs_restart else ""

    @property
    def needs_restart(self) -> bool:
        """Whether a changed value takes effect only after a restart of the master."""
        return self.scope is Scope.MASTER


def named(parse: Callable[[Any], Any]) -> Any:
    """The parser as an attrs converter.  Its ValueError becomes a `SettingsError` that names the field."""

    def convert(value: Any, field: attrs.Attribute[Any]) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise SettingsError(f"{field.name}: {error}") from None

    return attrs.Converter(convert, takes_field=True)


def option(default: Any, parse: Callable[[Any], Any], group: str, metavar: str, about: str, **more: Any) -> Any:
    """A field of `Settings`: its default, its parser, the group of --help that it belongs to, and its help text.

    `more` are further fields of `Option`.  This is the only place of a default: other modules take the value from
    `Settings`, and have none of their own.
    """
    return attrs.field(
        default=default,
        converter=named(parse),
        kw_only=True,
        metadata={"option": Option(about, group, metavar, parse, **more)},
    )


def in_development(value: Any, otherwise: Any) -> Any:
    """A default that is `value` with --reload: a developer waits for nothing, and has one worker, as with uvicorn.

    The field must stand after `reload`, because attrs fills fields in their order.
    """
    return attrs.Factory(lambda self: value if self.reload else otherwise, takes_self=True)


def flag(name: str) -> str:
    """The long flag of an option."""
    return "--" + name.replace("_", "-")
