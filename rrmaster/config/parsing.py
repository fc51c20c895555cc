"""How the values of options are written, and what they mean: addresses, numbers, durations, sizes, shares, names.

A parser takes what the user wrote, on the command line, in the environment or in TOML, and returns the value, or raises
ValueError that says what to write instead.  A value already parsed is taken, too.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from attrs import frozen

from ..protocol.launch import CERT_REQS, MODULE, is_program

POLICIES = ("least-loaded", "round-robin", "random-two", "ip-hash")

LOG_LEVELS = ("debug", "info", "warning", "error")

LOG_FORMATS = ("text", "json")


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


def parse_policy(value: object) -> str | Callable[..., Any]:
    """One of the four, or module:attribute of a callable, or the callable itself."""
    if callable(value):
        return value
    if value in POLICIES or (isinstance(value, str) and _is_name(value)):
        return str(value)
    raise ValueError(_not_one_of(value, "policy", (*POLICIES, "module:callable")))


def one_of(what: str, choices: Sequence[str]) -> Callable[[object], str]:
    """One of these words."""

    def parse(value: object) -> str:
        if value in choices:
            return str(value)
        raise ValueError(_not_one_of(value, what, choices))

    return parse


def parse_switch(value: object) -> bool:
    """On or off: TOML's true and false, and in the environment what people write for them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    raise ValueError(f"{value!r} is neither on nor off; write true or false")


_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_root_path(value: object) -> str:
    """A path without its last slash, or nothing."""
    if value == "" or (isinstance(value, str) and re.fullmatch(r"(/[^/\s?#]+)+", value)):
        return str(value)
    raise ValueError(f"{value!r} is no root path; write it from its first slash to before its last, such as /shop")


def parse_proxies(value: object) -> str:
    """Addresses and networks, separated by commas; ``*`` is all of them.  Empty: none."""
    complaint = f"{value!r} names no proxies; write addresses or networks, such as 127.0.0.1,10.0.0.0/8, or *"
    if not isinstance(value, str):
        raise ValueError(complaint)
    words = [word.strip() for word in value.split(",") if word.strip()]
    for word in words:
        try:
            ipaddress.ip_network(word, strict=True) if word != "*" else None
        except ValueError:
            raise ValueError(complaint) from None
    return ",".join(words)


def parse_cert_reqs(value: object) -> str:
    """none, optional or required; or gunicorn's number for it."""
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value) in ("0", "1", "2"):
        return CERT_REQS[int(value)]
    return one_of("requirement", CERT_REQS)(value)


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
    """module:attribute, or the application itself, which travels by its name; or a program, FILE.py or -m MODULE."""
    if callable(value):
        return import_name(value)
    if isinstance(value, str) and (_is_name(value) or _is_in_file(value) or _is_program(value)):
        return value
    raise ValueError(
        f"{value!r} names no application; write module:attribute, such as shop.main:app, or shop/main.py:app, or a "
        "program that opens its own addresses, such as server.py or -m shop.server"
    )


def _is_program(text: str) -> bool:
    if text.startswith(MODULE):
        return all(part.isidentifier() for part in text.removeprefix(MODULE).split("."))
    return is_program(text) and "\0" not in text


def parse_arguments(value: object) -> tuple[str, ...]:
    """The arguments of a program, one by one."""
    if isinstance(value, list | tuple) and all(isinstance(item, str) and "\0" not in item for item in value):
        return tuple(value)
    raise ValueError(f'{value!r} are no arguments; write a list of texts, such as ["--port", "8000"]')


def import_name(target: Callable[..., Any]) -> str:
    """The name by which another process can import this.  Raises ValueError, saying why it cannot."""
    module, path = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if module is None or path is None:
        raise ValueError(f"{target!r} has no name of its own to import it by; write module:attribute")
    if "<lambda>" in path or "<locals>" in path:
        raise ValueError(
            f"{target!r} cannot be imported by a worker, because it is made inside a function; define it in a module, "
            "or write module:attribute"
        )
    if module == "__main__":
        module = _main_module(target)
    return f"{module}:{path}"


def _main_module(target: Callable[..., Any]) -> str:
    """The name under which the program's own module can be imported."""
    names: Mapping[str, Any] = getattr(target, "__globals__", {})
    spec, file = names.get("__spec__"), names.get("__file__")
    if spec is not None:
        return str(spec.name)  # python -m
    if not isinstance(file, str) or not file.endswith(".py"):
        raise ValueError(
            f"{target!r} is of a program without a file (an interactive session, or python -c), so no worker can "
            "import it; put it into a module"
        )
    return file


def parse_text(value: object) -> str | None:
    """Text, not empty."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{value!r} is no text")


def parse_texts(value: object) -> tuple[str, ...]:
    """Several texts, or none; in one text, separated by commas."""
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if isinstance(items, list | tuple) and all(isinstance(item, str) and item for item in items):
        return tuple(dict.fromkeys(items))
    raise ValueError(f"{value!r} is no list of texts")


def parse_globs(value: object) -> tuple[str, ...]:
    """Globs such as *.html, templates/* or generated."""
    globs = parse_texts(value)
    for glob in globs:
        if not PurePath(glob).parts:
            raise ValueError(f"{glob!r} fits no file; write a glob such as *.html")
    return globs


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


def _is_in_file(text: str) -> bool:
    file, _, attribute = text.rpartition(":")
    return file.endswith(".py") and all(part.isidentifier() for part in attribute.split("."))


def _not_one_of(value: object, what: str, choices: Sequence[str]) -> str:
    return f"{value!r} is no {what}; write {', '.join(choices[:-1])} or {choices[-1]}{suggestion(str(value), choices)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
