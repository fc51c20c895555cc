"""How does a request become one line of the access log?

A format is compiled once, into a function for each atom and one template for the text between them; a request then
costs the calls of these functions.  What a client has sent is escaped as in nginx's log: no control character, no quote
and no backslash is left in it, so it ends neither a quotation nor the line.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from attrs import Factory, define

from ...protocol.access_format import Atom
from ..duty import Identity

LONGEST = 3900
"""Bytes of a line: the master cuts a worker's output at 4 KiB.  A longer line loses its end; in JSON, the ends of its
longest values."""

SHORTENED = 400
"""Characters that are left of a value in a line of JSON that would be too long."""


@define(eq=False)
class Exchange:
    """A request and its answer, as far as the log tells of them.  What is known of its connection belongs here too."""

    scope: Mapping[str, Any]
    """ASGI's; of a stream handler's connection it has nothing but ``client``."""
    status: int = 500
    """That of the answer; 500 if the application gave none."""
    size: int = 0
    """Bytes of the body, as the application has sent them."""
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Of the answer."""
    seconds: float = 0.0
    """How long it took."""
    _began: float = Factory(perf_counter)

    def note(self, message: Mapping[str, Any]) -> bool:
        """Note what a message of ASGI says of the answer; returns whether it is its last part."""
        kind = message["type"]
        if kind == "http.response.body":
            self.size += len(message.get("body", b""))
            return not message.get("more_body")
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status, self.headers = message["status"], message.get("headers", ())
        elif kind == "websocket.accept":
            self.status, self.headers = 101, message.get("headers", ())
        return False

    def end(self) -> Exchange:
        """It is over: note how long it took."""
        self.seconds = perf_counter() - self._began
        return self


PARKED = "rrmaster.parked"
"""A key of the scope of a request whose connection was parked before it came to this worker."""

Get = Callable[[Exchange], Any]
"""The value of an atom: a text that is not escaped yet, a number, or None."""

_is_plain = re.compile(r"[ !#-\[\]-~]*").fullmatch
_is_word = re.compile(r"[!#-\[\]-~]*").fullmatch


def escaped(text: str) -> str:
    """A text without control characters, quotes and backslashes; what is no ASCII is escaped by its bytes."""
    return text if _is_plain(text) else _escape(text, _is_plain)


def word(text: str) -> str:
    """The same without spaces: of a request line each part must be one word."""
    return text if _is_word(text) else _escape(text, _is_word)


def _escape(text: str, is_harmless: Callable[[str], object]) -> str:
    octets = text.encode("latin-1", "backslashreplace") if not text.isascii() else text.encode()
    return "".join(chr(byte) if is_harmless(chr(byte)) else f"\\x{byte:02X}" for byte in octets)


def compiled(pieces: Sequence[str | Atom], identity: Identity) -> Callable[[Exchange], str]:
    """The function that makes a line of text, without its newline."""
    template = "".join("%s" if isinstance(piece, Atom) else piece.replace("%", "%%") for piece in pieces)
    getters = tuple(_as_text(piece, _getter(piece, identity)) for piece in pieces if isinstance(piece, Atom))

    def line(exchange: Exchange) -> str:
        return (template % tuple([get(exchange) for get in getters]))[:LONGEST]

    return line


def compiled_as_json(pieces: Sequence[str | Atom], identity: Identity) -> Callable[[Exchange], str]:
    """The function that makes an object of JSON, with a field for each atom; a value that is not known is null."""
    getters = {piece.field: _getter(piece, identity) for piece in pieces if isinstance(piece, Atom)}
    spell = json.JSONEncoder(separators=(",", ":")).encode

    def line(exchange: Exchange) -> str:
        values = {name: get(exchange) for name, get in getters.items()}
        text = spell(values)
        return text if len(text) <= LONGEST else _shortened(values, spell)

    return line


def _shortened(values: Mapping[str, Any], spell: Callable[[Any], str]) -> str:
    most = SHORTENED
    while True:  # a character may take six bytes
        text = spell({name: v[:most] if isinstance(v, str) else v for name, v in values.items()})
        if len(text) <= LONGEST or not most:
            return text
        most //= 2


# --- the atoms


def _as_text(atom: Atom, get: Get) -> Callable[[Exchange], str]:
    """An atom's value in a line of text; a dash if it is not known."""
    kind = atom.kind
    if kind in _HARMLESS:
        return get
    if kind == "p":
        return lambda x: f"<{get(x)}>"  # gunicorn's spelling
    if kind == "t":
        return lambda x: f"[{_clock()}]"
    if kind == "r":
        return _request_line_escaped
    if kind == "b":
        return lambda x: str(x.size or "-")
    if kind == "L":
        return lambda x: f"{x.seconds:.6f}"
    if kind == "ms":
        return lambda x: f"{x.seconds * 1000:.1f}"
    if kind == "client":
        return lambda x: word(_client(x) or "-")

    def text(exchange: Exchange) -> str:
        value = get(exchange)
        return "-" if value is None else escaped(value)

    return text


_HARMLESS = {"s", "B", "T", "D", "M", "worker", "generation", "parked"}
"""Atoms that are numbers."""


def _getter(atom: Atom, identity: Identity) -> Get:
    if atom.kind == "i":
        return _header(atom.name)
    if atom.kind == "o":
        name = atom.name.lower().encode("latin-1", "replace")
        return lambda x: _found(x.headers, name)
    if atom.kind == "e":
        return _environ(atom.name)
    constants = {"p": os.getpid(), "worker": identity.slot, "generation": identity.generation, "l": None}
    if atom.kind in constants:
        value = constants[atom.kind]
        return lambda x: value
    return _GETTERS[atom.kind]


def _header(name: str) -> Get:
    key = name.lower().encode("latin-1", "replace")
    return lambda x: _found(x.scope.get("headers", ()), key)


def _found(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> str | None:
    for key, value in headers:
        if key == name or key.lower() == name:  # of an answer, they are as the application writes them
            return value.decode("latin-1")
    return None


def _client(x: Exchange) -> str | None:
    client = x.scope.get("client")
    return f"{client[0]}:{client[1]}" if client else None


def _host(x: Exchange) -> str | None:
    client = x.scope.get("client")
    return str(client[0]) if client else None


def _user(x: Exchange) -> str | None:
    """The name that Basic authentication gives; it is not checked here."""
    kind, _, encoded = (_authorization(x) or "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode("latin-1").partition(":")[0] or None
    except (binascii.Error, ValueError):
        return None


_authorization = _header("authorization")


def _method(x: Exchange) -> str | None:
    return x.scope.get("method", "WEBSOCKET") if "type" in x.scope else None


def _path(x: Exchange) -> str | None:
    path: bytes = x.scope.get("raw_path") or x.scope.get("path", "").encode()
    return path.decode("latin-1") or None


def _query(x: Exchange) -> str | None:
    query: bytes = x.scope.get("query_string", b"")
    return query.decode("latin-1")


def _protocol(x: Exchange) -> str | None:
    version = x.scope.get("http_version")
    return f"HTTP/{version}" if version else None


def _target(x: Exchange) -> str:
    path, query = _path(x) or "", _query(x)
    return f"{path}?{query}" if query else path


def _request_line(x: Exchange) -> str | None:
    method = _method(x)
    return f"{method} {_target(x)} {_protocol(x) or '-'}" if method else None


def _request_line_escaped(x: Exchange) -> str:
    method = _method(x)
    return f"{word(method)} {word(_target(x))} {_protocol(x) or '-'}" if method else "-"


_ENVIRON: Mapping[str, Get] = {
    "REMOTE_ADDR": _host, "REQUEST_METHOD": _method, "PATH_INFO": lambda x: x.scope.get("path"),
    "RAW_URI": _target, "QUERY_STRING": _query, "SERVER_PROTOCOL": _protocol,
    "SCRIPT_NAME": lambda x: x.scope.get("root_path"), "wsgi.url_scheme": lambda x: x.scope.get("scheme"),
    "CONTENT_TYPE": _header("content-type"), "CONTENT_LENGTH": _header("content-length"),
}  # fmt: skip


def _environ(name: str) -> Get:
    """A variable as WSGI names it, for ASGI too; any other is one of the process, as in Apache's log."""
    if name in _ENVIRON:
        return _ENVIRON[name]
    if name.startswith("HTTP_"):
        return _header(name[5:].replace("_", "-"))
    value = os.environ.get(name)
    return lambda x: value


_clock_at: tuple[int, str] = (0, "")


def _clock() -> str:
    """The time as CLF writes it, to the second: most lines of a busy log have the second of the one before."""
    global _clock_at
    now = int(time.time())
    if _clock_at[0] != now:
        # Not strftime's %b, which speaks the locale's language.
        local = time.localtime(now)
        month = "JanFebMarAprMayJunJulAugSepOctNovDec"[3 * local.tm_mon - 3 : 3 * local.tm_mon]
        _clock_at = now, time.strftime(f"%d/{month}/%Y:%H:%M:%S %z", local)
    return _clock_at[1]


def _rfc3339(x: Exchange) -> str:
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"


_GETTERS: Mapping[str, Get] = {
    "h": _host, "u": _user, "t": _rfc3339, "r": _request_line, "m": _method, "U": _path, "q": _query, "H": _protocol,
    "s": lambda x: x.status, "B": lambda x: x.size, "b": lambda x: x.size, "f": _header("referer"),
    "a": _header("user-agent"), "T": lambda x: int(x.seconds), "D": lambda x: int(x.seconds * 1e6),
    "M": lambda x: int(x.seconds * 1e3), "L": lambda x: round(x.seconds, 6), "ms": lambda x: round(x.seconds * 1e3, 1),
    "client": _client, "parked": lambda x: int(PARKED in x.scope),
}  # fmt: skip
