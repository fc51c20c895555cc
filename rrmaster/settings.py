"""What is to be served, where and how: one frozen, validated class.

Each option is declared once, as a field of `Settings`, and is flag, environment variable (``RRMASTER_<NAME>``), key of
``rrmaster.toml`` or ``[tool.rrmaster]``, and keyword argument of the library at the same time.  `read` puts the
sources together, flags before environment before file before default, and remembers where each value came from.

This module parses; it opens no file, reads no environment and knows no processors: all that is handed to it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from .balance import MAX_WINDOW, POLICIES

LOG_LEVELS = ("debug", "info", "warning", "error")

LOG_FORMATS = ("text", "json")

WORKER_VARIABLES = ("RRMASTER_WORKER_SLOT", "RRMASTER_WORKER_ID", "RRMASTER_WORKER_COUNT", "RRMASTER_GENERATION")
"""Set by the master for its workers, and no options: a master started by a worker of another sees them."""


class SettingsError(Exception):
    """The configuration is wrong.  The message names the option as the user wrote it, and what to write instead."""


@frozen
class Tcp:
    """``HOST:PORT``.  An empty host, ``*`` or ``[::]`` is every address, IPv4 and IPv6 on one socket."""

    host: str
    port: int


@frozen
class Unix:
    """``unix:PATH``."""

    path: str


@frozen
class Inherited:
    """``fd://N``: a listening socket that was open when the master started."""

    fd: int


Bind = Tcp | Unix | Inherited


# --- parsers: what the user wrote -> the value, or ValueError that says what to write


def parse_bind(text: str) -> Bind:
    """HOST:PORT, HOST, :PORT, [v6]:PORT, unix:PATH or fd://N."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        if not path:
            raise ValueError("unix: needs a path, such as unix:/run/app.sock")
        return Unix(path)
    if text.startswith("fd://"):
        return Inherited(_whole(text.removeprefix("fd://"), "fd:// needs a descriptor's number, such as fd://3", 0))
    match = re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(.*))?|([^:\s/]*)(?::(.*))?", text)
    if match is None or not text or "://" in text:
        raise ValueError(f"{text!r} is no address; write HOST:PORT, [v6]:PORT, unix:PATH or fd://N")
    v6, v6_port, host, port = match.groups()
    number = v6_port if v6 is not None else port
    if number is None:
        number = "8000"
    return Tcp(v6 if v6 is not None else host, parse_port(number))


def parse_port(value: object) -> int:
    """0 (any free one) to 65535."""
    return _whole(value, f"{value!r} is no port; write a number from 0 to 65535", 0, 65535)


def parse_binds(value: object) -> tuple[str, ...]:
    """One address or several; in the environment, separated by commas."""
    if isinstance(value, str):
        items = [part.strip() for part in value.split(",")]
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        items = list(value)
    else:
        raise ValueError(f"{value!r} is no address or list of addresses")
    if not items:
        raise ValueError("there is no address")
    for item in items:
        if not isinstance(item, str):
            raise ValueError(f"{item!r} is no address; write HOST:PORT, [v6]:PORT, unix:PATH or fd://N")
        parse_bind(item)
    if len(set(items)) != len(items):
        raise ValueError("the same address stands there twice")
    return tuple(items)


@frozen
class Between:
    """``LEAST:MOST``: as many workers as the load asks for, within these bounds."""

    least: int
    most: int


def parse_workers(value: object) -> int | Between | None:
    """A number of workers, or bounds; ``auto`` (None) is one for each processor this process may use."""
    if value is None or value == "auto":
        return None
    if isinstance(value, Between):
        return value
    complaint = f"{value!r} is no number of workers; write 1 to 1024, bounds such as 2:8, or auto"
    if isinstance(value, str) and ":" in value:
        least, _, most = value.partition(":")
        bounds = Between(_whole(least, complaint, 1, 1024), _whole(most, complaint, 1, 1024))
        if bounds.least > bounds.most:
            raise ValueError(complaint)
        return bounds
    return _whole(value, complaint, 1, 1024)


def parse_surge(value: object) -> int | float:
    """How many more workers may live during a reload: a number, or a share of the fleet such as "25%"."""
    complaint = f"{value!r} is no surge; write a number from 1 to 1024, or a share from 1% to 100%"
    if isinstance(value, float):
        if 0 < value <= 1:
            return value
        raise ValueError(complaint)
    if isinstance(value, str) and value.strip().endswith("%"):
        return _whole(value.strip()[:-1], complaint, 1, 100) / 100
    return _whole(value, complaint, 1, 1024)


def parse_share(value: object) -> float:
    """A share: "70%" or 0.7."""
    complaint = f"{value!r} is no share; write 1% to 100%"
    if isinstance(value, float) and 0 < value <= 1:
        return value
    if isinstance(value, str) and value.strip().endswith("%"):
        return _whole(value.strip()[:-1], complaint, 1, 100) / 100
    raise ValueError(complaint)


def parse_probe(value: object) -> str | None:
    """tcp, http:/path, or module:attribute of a callable."""
    if (
        value is None
        or value == "tcp"
        or (isinstance(value, str) and value.startswith("http:/") and value.isprintable())
    ):
        return None if value is None else str(value)
    if isinstance(value, str) and _is_name(value):
        return value
    raise ValueError(f"{value!r} is no probe; write tcp, http:/path or module:callable")


_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}


def parse_duration(value: object) -> float:
    """Seconds: 30, "30s", "500ms", "2m"."""
    complaint = f"{value!r} is no duration; write 500ms, 30s, 2m or a number of seconds"
    if isinstance(value, bool):
        raise ValueError(complaint)
    if isinstance(value, int | float):
        seconds = float(value) if value < 1e12 else math.inf  # TOML's integers are not bounded
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)\s*", value) if isinstance(value, str) else None
        if match is None or match[2] not in _UNITS:
            raise ValueError(complaint)
        seconds = float(match[1]) * _UNITS[match[2]]
    if not 0 <= seconds < math.inf:
        raise ValueError(complaint)
    return seconds


def positive_duration(value: object) -> float:
    """A duration above zero."""
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError("must be above zero")
    return seconds


_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(value: object) -> int:
    """Bytes: 1048576, "512MB", "1GiB"."""
    match = re.fullmatch(r"\s*(\d{1,15})\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if match is not None and match[2].upper() in _SIZES:
        return int(match[1]) * _SIZES[match[2].upper()]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60:
        return value
    raise ValueError(f"{value!r} is no size; write 512MB, 1GiB or a number of bytes")


def parse_mode(value: object) -> int:
    """File permissions in octal, as chmod takes them: "660".  TOML's 0o660 is a number already."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777:
        return value
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{1,4}", value) and int(value, 8) <= 0o777:
        return int(value, 8)
    raise ValueError(f"{value!r} is no file mode; write it in octal, such as 660")


def parse_umask(value: object) -> int | None:
    """As for parse_mode; None leaves it as it is."""
    return None if value is None else parse_mode(value)


def parse_policy(value: object) -> str:
    """One of the four, or module:attribute of a callable."""
    if value in POLICIES or (isinstance(value, str) and _is_name(value)):
        return str(value)
    raise ValueError(_not_one_of(value, "policy", (*POLICIES, "module:callable")))


def parse_level(value: object) -> str:
    """How much is logged."""
    if value in LOG_LEVELS:
        return str(value)
    raise ValueError(_not_one_of(value, "log level", LOG_LEVELS))


def parse_log_format(value: object) -> str:
    """How a line of the log looks."""
    if value in LOG_FORMATS:
        return str(value)
    raise ValueError(_not_one_of(value, "log format", LOG_FORMATS))


def parse_application(value: object) -> str:
    """module:attribute."""
    if isinstance(value, str) and _is_name(value):
        return value
    raise ValueError(f"{value!r} names no application; write module:attribute, such as shop.main:app")


def parse_text(value: object) -> str | None:
    """Text, not empty."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{value!r} is no text")


def parse_own_name(value: object) -> str | None:
    """A master's name; it becomes part of a file's."""
    if value is None or (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", value)):
        return value
    raise ValueError(f"{value!r} is no name; write up to 64 letters, digits, and _ . - (not first)")


def from_to(least: int, most: int) -> Callable[[object], int]:
    """A whole number within bounds."""
    return lambda value: _whole(value, f"{value!r} is out of range; write a number from {least} to {most}", least, most)


def _whole(value: object, complaint: str, least: int, most: int = 2**31 - 1) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,10}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(complaint)
    return value


def _is_name(text: str) -> bool:
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")])


def _not_one_of(value: object, what: str, choices: Sequence[str]) -> str:
    return f"{value!r} is no {what}; write {', '.join(choices[:-1])} or {choices[-1]}{suggestion(str(value), choices)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


# --- the options


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


def _named(parse: Callable[[Any], Any]) -> Any:
    """The parser as a converter whose complaint names the field."""

    def convert(value: Any, field: attrs.Attribute[Any]) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise SettingsError(f"{field.name}: {error}") from None

    return attrs.Converter(convert, takes_field=True)


def _option(default: Any, parse: Callable[[Any], Any], group: str, metavar: str, about: str, **more: Any) -> Any:
    return attrs.field(
        default=default,
        converter=_named(parse),
        kw_only=True,
        metadata={"option": Option(about, group, metavar, parse, **more)},
    )


_WHERE, _WHO, _HOW = "where to serve", "workers", "which worker gets a connection"
_RELOAD, _RENEW = "reload and health", "recycling and scaling"
_PATIENCE, _PROCESS, _OTHER = "how long to wait", "process", "configuration and output"


@frozen
class Settings:
    """What `rrmaster` is told.  Times are in seconds; texts such as "500ms" are taken too.

    Raises SettingsError for a value that cannot be.
    """

    application: str = attrs.field(converter=_named(parse_application))  # type: ignore[misc]  # the plugin wants a name
    """``module:attribute`` of an ``async def handler(stream)``."""

    bind: tuple[str, ...] = _option(
        ("127.0.0.1:8000",),
        parse_binds,
        _WHERE,
        "ADDRESS",
        "HOST:PORT, [v6]:PORT, unix:PATH or fd://N; port 0 takes a free one; may be given several times",
        flags=("-b",),
        repeatable=True,
        shown="127.0.0.1:8000, or 0.0.0.0:$PORT where PORT is set",
    )
    unix_mode: int = _option(
        0o666,
        parse_mode,
        _WHERE,
        "MODE",
        "permissions of unix sockets, in octal; the default lets a web server of another user in",
        shown="666",
    )
    # gunicorn's and uvicorn's; net.core.somaxconn caps it.
    backlog: int = _option(
        2048,
        from_to(1, 65535),
        _WHERE,
        "N",
        "connections that may wait in the kernel: the only queue there is",
    )

    workers: int | Between | None = _option(  # noqa: RUF009  # it sees a dataclass in the union
        None,
        parse_workers,
        _WHO,
        "N|auto|LEAST:MOST",
        "worker processes; auto: one for each processor this process may use; 2:8: as many as the load asks for",
        flags=("-w",),
        shown="$WEB_CONCURRENCY, else auto",
    )
    app_dir: str | None = _option(
        None,
        parse_text,
        _WHO,
        "DIR",
        "where to import the application from",
        shown="the working directory",
    )
    env_file: str | None = _option(
        None, parse_text, _WHO, "FILE", "more environment for the workers, as NAME=VALUE lines; read again at a reload"
    )
    chdir: str | None = _option(None, parse_text, _WHO, "DIR", "change to this directory before anything else")

    policy: str = _option(
        "least-loaded",
        parse_policy,
        _HOW,
        "POLICY",
        "least-loaded, round-robin, random-two, ip-hash, or module:callable of your own, "
        "called with (candidates, peer)",
    )
    # 8: a trio worker takes batches of up to 8, so it is never idle for want of one; and no more than 8 wait behind
    # a blocked one for the few milliseconds until they are recalled.
    window: int = _option(
        8,
        from_to(1, MAX_WINDOW),
        _HOW,
        "N",
        "connections that may wait in a worker's letterbox",
    )
    recall_after: float = _option(
        0.005,
        positive_duration,
        _HOW,
        "TIME",
        "take connections back from a worker that has taken none for so long, while others are idle",
        shown="5ms",
    )
    # The descriptor limit is the real bound, and a worker minds it by itself; this one keeps a fleet without such a
    # limit from growing for ever.
    worker_connections: int = _option(
        10_000,
        from_to(1, 10_000_000),
        _HOW,
        "N",
        "open connections of one worker; when all have so many, new ones wait in the backlog",
    )

    ready_timeout: float = _option(
        30.0,
        positive_duration,
        _PATIENCE,
        "TIME",
        "a worker must be ready by then, or it counts as failed",
    )
    graceful_timeout: float = _option(
        30.0,
        parse_duration,
        _PATIENCE,
        "TIME",
        "what a stopping worker has to finish its connections",
    )
    hang_timeout: float = _option(
        30.0,
        parse_duration,
        _PATIENCE,
        "TIME",
        "a worker whose loop has not reported for so long is killed and replaced, its stacks in the log; 0: never",
    )
    heartbeat: float = _option(
        0.5,
        positive_duration,
        _PATIENCE,
        "TIME",
        "a worker reports at least so often",
        shown="500ms",
    )

    # The whole generation at once: then the old is untouched until the new has proved itself, and that is the rollback.
    # It needs the memory of twice the fleet for some seconds; lean machines say 1.
    surge: float = _option(
        1.0,
        parse_surge,
        _RELOAD,
        "N|P%",
        "how many more workers than usual may live during a reload; with less than 100% there is no way back from "
        "its second half",
        shown="100%",
    )
    probation: float = _option(
        2.0, parse_duration, _RELOAD, "TIME", "what new workers have to stand in a reload without traffic"
    )
    soak: float = _option(
        2.0, parse_duration, _RELOAD, "TIME", "and then with their share of it, before the old ones go"
    )
    reload_timeout: float = _option(600.0, positive_duration, _RELOAD, "TIME", "for a whole reload")
    probe: str | None = _option(
        None,
        parse_probe,
        _RELOAD,
        "PROBE",
        "tcp, http:/path or module:callable: put to each worker before it serves, and then on; who fails is replaced",
    )
    probe_interval: float = _option(10.0, positive_duration, _RELOAD, "TIME", "between two probes of a worker")
    probe_timeout: float = _option(2.0, positive_duration, _RELOAD, "TIME", "for its answer")
    probe_failures: int = _option(3, from_to(1, 1000), _RELOAD, "N", "failures in a row that make a worker unwell")

    max_requests: int = _option(
        0,
        from_to(0, 2**31),
        _RENEW,
        "N",
        "replace a worker that has served so many connections, 10 % more or less; 0: never",
    )
    max_age: float = _option(
        0.0, parse_duration, _RENEW, "TIME", "replace a worker that has served for so long, 10 % more or less; 0: never"
    )
    max_memory: int = _option(
        0, parse_size, _RENEW, "SIZE", "replace a worker whose resident memory stays above this; 0: never"
    )
    # Kubernetes' names and numbers, where it has them; see `autoscale`.
    target_busy: float = _option(
        0.7,
        parse_share,
        _RENEW,
        "P%",
        "with --workers LEAST:MOST, the share of workers that should be busy",
        shown="70%",
    )
    scale_up_window: float = _option(
        3.0, parse_duration, _RENEW, "TIME", "more workers only if so many were wanted for so long"
    )
    scale_down_window: float = _option(300.0, parse_duration, _RENEW, "TIME", "and fewer likewise")

    user: str | None = _option(None, parse_text, _PROCESS, "NAME|UID", "become this user once the addresses are bound")
    group: str | None = _option(None, parse_text, _PROCESS, "NAME|GID", "and this group")
    umask: int | None = _option(None, parse_umask, _PROCESS, "MODE", "file mode creation mask, in octal")
    pid: str | None = _option(None, parse_text, _PROCESS, "FILE", "write the master's process id there")
    name: str | None = _option(
        None,
        parse_own_name,
        _PROCESS,
        "NAME",
        "what `rrmaster status` and the other verbs know this master by",
        shown="default",
    )
    control: str | None = _option(
        None,
        parse_text,
        _PROCESS,
        "PATH",
        "the unix socket through which they reach it",
        shown="NAME.sock in $XDG_RUNTIME_DIR/rrmaster, or see docs/control.md",
    )

    log_level: str = _option(
        "info",
        parse_level,
        _OTHER,
        "LEVEL",
        "debug, info, warning or error",
    )
    log_format: str = _option(
        "text",
        parse_log_format,
        _OTHER,
        "FORMAT",
        "text for people, json (one object a line) for programs",
    )
    log_file: str | None = _option(
        None,
        parse_text,
        _OTHER,
        "FILE",
        "log there; stderr gets the master's own warnings and errors; reopened on USR1",
        shown="stderr",
    )
    # 20 MB and 5: with the living one 120 MB, which any disk has, and days of an ordinary log.
    log_max_size: int = _option(
        20_000_000,
        parse_size,
        _OTHER,
        "SIZE",
        "begin a new log file before this one grows larger; 0: never, something else rotates it",
        shown="20MB",
    )
    log_keep: int = _option(
        5,
        from_to(0, 10_000),
        _OTHER,
        "N",
        "how many old log files to keep, FILE.1 the youngest; 0: none",
    )

    def __attrs_post_init__(self) -> None:
        if self.hang_timeout and self.hang_timeout < 2 * self.heartbeat:
            raise SettingsError(
                f"a hang timeout of {self.hang_timeout:g} s would kill workers that report every "
                f"{self.heartbeat:g} s; make it at least twice the heartbeat"
            )

    @property
    def binds(self) -> tuple[Bind, ...]:
        """The addresses, parsed."""
        return tuple(parse_bind(text) for text in self.bind)


def options() -> dict[str, Option]:
    """Every option by the name of its field, in the order of the help."""
    return {f.name: f.metadata["option"] for f in attrs.fields(Settings) if "option" in f.metadata}


def flag(name: str) -> str:
    """The long flag of an option."""
    return "--" + name.replace("_", "-")


# --- the sources


@frozen
class Source:
    """Some values, and how their names are spelled there."""

    name: str
    values: Mapping[str, object]
    spell: Callable[[str], str] = flag


def from_environment(environ: Mapping[str, str]) -> tuple[Source, list[str]]:
    """The options set in the environment, and complaints about variables that look like ones and are none."""
    values: dict[str, object] = {}
    complaints = []
    names = {variable(name): name for name in options()}
    for key in sorted(environ):
        if key in names:
            values[names[key]] = environ[key]
        elif key.startswith("RRMASTER_") and key not in WORKER_VARIABLES:
            complaints.append(f"{key} is no setting of rrmaster and is ignored{suggestion(key, names)}")
    return Source("environment", values, variable), complaints


def conventions(environ: Mapping[str, str]) -> Source:
    """What platforms set: WEB_CONCURRENCY and PORT (as gunicorn and uvicorn read them)."""
    values: dict[str, object] = {}
    if environ.get("WEB_CONCURRENCY"):
        values["workers"] = environ["WEB_CONCURRENCY"]
    if environ.get("PORT"):
        values["bind"] = [f"0.0.0.0:{environ['PORT']}"]
    return Source("environment", values, {"workers": "WEB_CONCURRENCY", "bind": "PORT"}.__getitem__)


def from_table(table: Mapping[str, object], file: str) -> Source:
    """The table of a TOML file.  Keys may be written with - or _.  Raises SettingsError for an unknown one."""
    known = {*options(), "application"}
    values: dict[str, object] = {}
    spelled: dict[str, str] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise SettingsError(f"{file}: there is no setting {key!r}{suggestion(name, known)}")
        if name in values:
            raise SettingsError(f"{file}: {spelled[name]} and {key} are the same setting")
        if name in _OCTAL and isinstance(value, int):
            # 440 would be taken for 0o670, and nobody would know.
            raise SettingsError(f'{file}: {key}: write the mode as text, such as "660"')
        values[name], spelled[name] = value, key
    return Source(file, values, lambda name: f"{file}: {spelled[name]}")


_OCTAL = ("unix_mode", "umask")


def variable(name: str) -> str:
    """The environment variable of an option."""
    return "RRMASTER_" + name.upper()


def read(sources: Sequence[Source]) -> tuple[Settings, dict[str, str]]:
    """The settings from these sources, the first that knows a value wins; and where each value came from.

    Raises SettingsError, naming the option as it is spelled in the source at fault.
    """
    parsers = {name: option.parse for name, option in options().items()} | {"application": parse_application}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(parsers, "default")
    for name, parse in parsers.items():
        source = next((s for s in sources if name in s.values), None)
        if source is None:
            continue
        try:
            values[name] = parse(source.values[name])
        except ValueError as error:
            raise SettingsError(f"{source.spell(name)}: {error}") from None
        origins[name] = source.name
    if "application" not in values:
        raise SettingsError("nothing to serve: name an application, module:attribute (try rrmaster.demo:hello)")
    return Settings(**values), origins
