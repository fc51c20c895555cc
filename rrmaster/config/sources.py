"""Where does the value of a setting come from?  A flag wins over the environment, that over the file and the default.

`read` puts the sources together and remembers where each value came from.  This module only parses: it opens no file
and does not look at the environment.  Its callers pass the contents of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from ..protocol import template_wire
from ..protocol.family import lineage
from ..protocol.launch import is_program
from .names import parse_application, parse_arguments, suggestion
from .option import SettingsError, flag
from .settings import Settings, options

WORKER_VARIABLES = (*template_wire.OWN_TO_EACH, "RRMASTER_GENERATION", lineage.VARIABLE)
"""Variables that a master sets for its workers.  They are not options, but a master that is started by a worker of
another master finds them in its environment."""

TOKEN_VARIABLE = "RRMASTER_ADMIN_TOKEN"
"""The token for --admin-actions.  It is no option, which would have a flag, and arguments are seen by all users."""


@frozen
class Source:
    """Values from one place, and the spelling of their names there."""

    name: str
    values: Mapping[str, object]
    spell: Callable[[str], str] = flag
    platform: bool = False
    """Whether it is the platform, which sets the same variables for any program."""
    hides_application: bool = False
    """Whether an unknown option there, which may take a value, leaves it open which word is the application."""
    mistakes: tuple[str, ...] = ()
    """What is written there and is no setting; the values are the others."""


def from_environment(environ: Mapping[str, str]) -> tuple[Source, list[str]]:
    """The options set in the environment, and a warning for each variable that looks like one and is not."""
    values: dict[str, object] = {}
    warnings = []
    names = {variable(name): name for name in options()}
    for key in sorted(environ):
        if key in names:
            values[names[key]] = environ[key]
        elif key.startswith("RRMASTER_") and key not in (*WORKER_VARIABLES, TOKEN_VARIABLE):
            warnings.append(f"{key} is not a setting of rrmaster and is ignored{suggestion(key, names)}")
    return Source("environment", values, variable), warnings


def variables_of_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that `from_environment` and `conventions` read, and no other: those are not ours to tell of."""
    names = {variable(name) for name in options()} | set(_CONVENTIONS.values())
    return {name: environ[name] for name in names if name in environ}


def conventions(environ: Mapping[str, str]) -> Source:
    """The variables of platforms: WEB_CONCURRENCY, PORT and FORWARDED_ALLOW_IPS, as gunicorn and uvicorn read them."""
    values: dict[str, object] = {}
    if environ.get("WEB_CONCURRENCY"):
        values["workers"] = environ["WEB_CONCURRENCY"]
    if environ.get("PORT"):
        values["bind"] = [f"0.0.0.0:{environ['PORT']}"]
    if environ.get("FORWARDED_ALLOW_IPS"):
        values["forwarded_allow_ips"] = environ["FORWARDED_ALLOW_IPS"]
    return Source("environment", values, _CONVENTIONS.__getitem__, platform=True)


_CONVENTIONS = {"workers": "WEB_CONCURRENCY", "bind": "PORT", "forwarded_allow_ips": "FORWARDED_ALLOW_IPS"}


def from_table(table: Mapping[str, object], file: str) -> Source:
    """The options in the table of a TOML file, keys with - or _."""
    known = {*options(), "application", "arguments"}
    values: dict[str, object] = {}
    spelled: dict[str, str] = {}
    mistakes: list[str] = []
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            mistakes.append(f"{file}: there is no setting {key!r}{suggestion(name, known)}")
        elif name in values:
            mistakes.append(f"{file}: {spelled[name]} and {key} are the same setting")
        elif name in _OCTAL and isinstance(value, int):
            # TOML reads 440 as decimal, which is 0o670: permissions that nothing would show to be wrong.
            mistakes.append(f'{file}: {key}: write the mode as text, such as "660"')
        else:
            values[name], spelled[name] = value, key
    return Source(file, values, lambda name: f"{file}: {spelled[name]}", mistakes=tuple(mistakes))


_OCTAL = ("unix_mode", "umask")

FOUND_BY_PROGRAMS = ("bind", "forwarded_allow_ips")
"""Options whose platform variables a program reads for itself, because it opens its own addresses."""


def variable(name: str) -> str:
    """The environment variable of an option."""
    return "RRMASTER_" + name.upper()


def read(sources: Sequence[Source]) -> tuple[Settings, dict[str, str]]:
    """The settings from these sources, and the origin of each value.  The first source that has a value wins.

    Raises SettingsError with all mistakes, each of which names the option as the source at fault spells it.
    """
    parsers: dict[str, Callable[[object], Any]] = {"application": parse_application, "arguments": parse_arguments}
    parsers |= {name: option.parse for name, option in options().items()}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(parsers, "default")
    mistakes = [mistake for source in sources for mistake in source.mistakes]
    for name, parse in parsers.items():
        source = next((s for s in sources if name in s.values), None)
        if source is None or (
            name in FOUND_BY_PROGRAMS and source.platform and is_program(values.get("application", ""))
        ):
            continue
        try:
            values[name] = parse(source.values[name])
        except ValueError as error:
            mistakes.append(f"{source.spell(name)}: {error}")
        origins[name] = source.name
    if not any("application" in source.values or source.hides_application for source in sources):
        mistakes.append("nothing to serve: name an application, module:attribute (try rrmaster.demo:hello)")
    if mistakes:
        raise SettingsError(*mistakes)
    return Settings(**values), origins
