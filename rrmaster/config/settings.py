"""Which settings does a master have?  One frozen, validated class.

Each option is declared once, as a field in `declarations`, and is at the same time a flag, an environment variable
(``RRMASTER_<NAME>``), a key of ``rrmaster.toml`` or ``[tool.rrmaster]``, and a keyword argument of the library (see
`sources`).  Its default stands there and nowhere else.
"""

from __future__ import annotations

import attrs
from attrs import frozen

from ..protocol.launch import CONNECTIONS
from . import consistency
from .addresses import Bind, parse_bind
from .declarations.admin import AdminOptions
from .declarations.http import HttpOptions
from .declarations.process import ProcessOptions
from .declarations.serving import ServingOptions
from .declarations.supervision import SupervisionOptions
from .option import Option, SettingsError


# attrs takes the fields of the last class first.  Their order matters: it is that of --help, and `in_development` needs
# `reload` before the defaults that depend on it.
@frozen
class Settings(AdminOptions, ProcessOptions, SupervisionOptions, HttpOptions, ServingOptions):
    """The settings of one master: an application or a program, and the options, as keyword arguments.

    Immutable; compared by value.  A reload makes another one.  Times are in seconds and sizes in bytes; each value may
    also be a text as on the command line, such as "500ms" or "512MB".  `application` may be the application itself:
    then its import name is what is kept, because the workers import it.

    Raises SettingsError for a value that is wrong, or that does not fit the others.
    """

    def __attrs_post_init__(self) -> None:
        complaints = list(consistency.complaints(self, _OF_APPLICATIONS))
        if complaints:
            raise SettingsError(*complaints)

    @property
    def policy_name(self) -> str:
        """The policy, for people."""
        return self.policy if isinstance(self.policy, str) else getattr(self.policy, "__qualname__", repr(self.policy))

    @property
    def connections(self) -> int:
        """The most connections of one worker, before it has said that it has fewer places."""
        return self.worker_connections or CONNECTIONS

    @property
    def binds(self) -> tuple[Bind, ...]:
        """The addresses, parsed."""
        return tuple(parse_bind(text) for text in self.bind)


def options() -> dict[str, Option]:
    """Every option by the name of its field, in the order of --help."""
    return {f.name: f.metadata["option"] for f in attrs.fields(Settings) if "option" in f.metadata}


def changes_that_need_a_restart(current: Settings, new: Settings) -> list[str]:
    """The options that differ and act only at the start of the master: a reload cannot follow them."""
    return [
        name
        for name, option in options().items()
        if option.needs_restart and getattr(current, name) != getattr(new, name)
    ]


_OF_AN_APPLICATION = ("interface", "runtime", "factory", "preload", "park_after")

_OF_APPLICATIONS = {
    f.name: f.default
    for f in (
        *attrs.fields(HttpOptions),
        *(getattr(attrs.fields(ServingOptions), name) for name in _OF_AN_APPLICATION),
    )
}
"""The options that say how an application is served, with their defaults: a program decides that itself."""
