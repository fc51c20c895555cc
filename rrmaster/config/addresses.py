"""How are the addresses to serve written, and those of trusted proxies?

A parser returns the value, or raises ValueError with a message that says what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from attrs import frozen

from .quantities import whole

DEFAULT_PORT = 8000
"""The port of an address that names none, as in gunicorn and uvicorn."""


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


def parse_bind(text: str) -> Bind:
    """HOST:PORT, HOST, :PORT, [v6]:PORT, unix:PATH or fd://N."""
    if text.startswith("unix:"):
        return _unix(text.removeprefix("unix:"))
    if text.startswith("fd://"):
        return Inherited(whole(text.removeprefix("fd://"), "fd:// needs a descriptor's number, such as fd://3", 0))
    match = re.fullmatch(r"\[([0-9A-Fa-f:.%\w]+)\](?::(.*))?|([^:\s/]*)(?::(.*))?", text)
    if match is None or not text or "://" in text:
        raise ValueError(_not_an_address(text))
    v6, v6_port, host, port = match.groups()
    if port is None and host is not None and host.isdigit():
        raise ValueError(f"{text!r} is no host; for the port write :{text} (all addresses) or 127.0.0.1:{text}")
    number = v6_port if v6 is not None else port
    return Tcp(v6 if v6 is not None else host, DEFAULT_PORT if number is None else parse_port(number))


def parse_admin(value: object) -> str | None:
    """The address of the admin server: HOST:PORT with its port, or unix:PATH.  It stays as it was written."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(_not_an_admin_address(value))
    try:
        bind = parse_bind(value)
    except ValueError:
        raise ValueError(_not_an_admin_address(value)) from None
    if isinstance(bind, Inherited) or (isinstance(bind, Tcp) and not re.search(r":\d+$", value)):
        raise ValueError(_not_an_admin_address(value))
    return value


def _not_an_admin_address(value: object) -> str:
    return f"{value!r} is no address for the admin server; write HOST:PORT, such as 127.0.0.1:9000, or unix:PATH"


def is_remote(bind: Bind) -> bool:
    """Whether other machines reach an address."""
    if not isinstance(bind, Tcp):
        return False
    try:
        return not ipaddress.ip_address(bind.host).is_loopback
    except ValueError:
        return bind.host != "localhost"


def _unix(path: str) -> Unix:
    if not path:
        raise ValueError("unix: needs a path, such as unix:/run/app.sock")
    # unix:///run/app.sock, as URLs have it, is the same path.
    return Unix("/" + path.lstrip("/") if path.startswith("//") else path)


def _not_an_address(value: object) -> str:
    return f"{value!r} is not an address; write HOST:PORT, [v6]:PORT, unix:PATH or fd://N"


def parse_port(value: object) -> int:
    """0 (any free one) to 65535."""
    return whole(value, f"{value!r} is not a port; write a number from 0 to 65535", 0, 65535)


def parse_binds(value: object) -> tuple[str, ...]:
    """One address or several; in one text, separated by commas.  They are checked, and stay as they were written."""
    if isinstance(value, str):
        items = [part.strip() for part in value.split(",")]
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        items = list(value)
    else:
        raise ValueError(_not_an_address(value))
    if not items:
        raise ValueError("no address is given; write at least one, such as 127.0.0.1:8000")
    for item in items:
        if not isinstance(item, str):
            raise ValueError(_not_an_address(item))
        parse_bind(item)
    if len(set(items)) != len(items):
        raise ValueError("the same address is given twice; write each one once")
    return tuple(items)


def parse_proxies(value: object) -> str:
    """Addresses and networks of trusted proxies, separated by commas; ``*`` is every address, an empty text is none."""
    complaint = f"{value!r} does not name proxies; write addresses or networks, such as 127.0.0.1,10.0.0.0/8, or *"
    if not isinstance(value, str):
        raise ValueError(complaint)
    words = [word.strip() for word in value.split(",") if word.strip()]
    for word in words:
        try:
            ipaddress.ip_network(word, strict=True) if word != "*" else None
        except ValueError:
            raise ValueError(complaint) from None
    return ",".join(words)
