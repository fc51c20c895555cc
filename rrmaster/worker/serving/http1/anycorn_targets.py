"""Which paths does anycorn hand to the application?  All, as the other runtimes do.

anycorn answers 400 to a path with a stray ``%``, or whose bytes are no UTF-8 (``/caf%E9``).  Links like that are about,
and frameworks have routes and pages for what they do not know, so uvicorn lets the application see U+FFFD, with the
bytes in ``raw_path``.  Here such a path is *wrapped* into one that anycorn lets through, and unwrapped before the
application is called: ``%`` and the path, with each ``%`` written as ``%25``.  No client can send one that looks
wrapped, because what begins neither with ``/`` nor is ``*`` is refused.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import h11
from anycorn.events import Event, RawData
from anycorn.protocol.h2 import H2Protocol
from anycorn.protocol.h11 import H2CProtocolRequiredError, H2ProtocolAssumedError, H11Protocol
from anycorn.utils import InvalidRequestPathError, decode_asgi_path
from attrs import define, field
from h2.errors import ErrorCodes
from h2.events import PriorityUpdated, RequestReceived
from hpack import Encoder

from ..asgi import Message
from .h11_requests import Connection
from .handshake import is_handshake

_WRAPPED = b"%25"

TABLE = 4096
"""Bytes of headers that an encoder of HTTP/2 remembers: the size that each client has room for (RFC 9113, 6.5.2)."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A method (RFC 9110, 9.1).  h11 refuses others; h2 lets them through, and anycorn fails with those beyond ASCII."""

_REFUSED = b"%"
"""A path to which anycorn answers 400."""


def wrapped(target: bytes) -> bytes:
    """The target of a request, as anycorn lets it through.  The query stays as it is."""
    path, mark, query = target.partition(b"?")
    if path[:1] != b"/" and path != b"*":
        return _REFUSED
    try:
        decode_asgi_path(path)
    except InvalidRequestPathError:
        return (b"%" + path).replace(b"%", _WRAPPED) + mark + query
    return target


def unwrap(scope: Message) -> None:
    """Let the application see the path that the client has sent."""
    raw: bytes = scope["raw_path"]
    if raw.startswith(_WRAPPED):
        scope["raw_path"] = path = raw.replace(_WRAPPED, b"%")[1:]
        scope["path"] = unquote(path.decode("latin-1"))


class _Http1(H11Protocol):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.connection = Connection(h11.SERVER, self.config.h11_max_incomplete_size)

    async def _create_stream(self, request: h11.Request) -> None:
        target, headers, version = wrapped(request.target), list(request.headers), request.http_version
        asked = next((value.lower() for name, value in headers if name == b"upgrade"), b"")
        if asked == b"websocket" and not is_handshake(request.method.decode(), version.decode(), asked, headers):
            headers = [(name, value) for name, value in headers if name != b"upgrade"]  # or anycorn makes one of it
        if target != request.target or len(headers) != len(request.headers):
            request = h11.Request(method=request.method, target=target, headers=headers, http_version=version)
        await super()._create_stream(request)


class _Encoder(Encoder):
    """Writes the headers of answers.  Its table has `TABLE` bytes at most, whatever the client has room for.

    hpack takes the client's number, keeps each header of each answer up to that, and searches them all for the next
    one: with two gigabytes, a client's thousandth request costs a hundred times its first.
    """

    @property
    def header_table_size(self) -> int:
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self.header_table.maxsize = min(value, TABLE)
        if self.header_table.resized:
            self.table_size_changes.append(self.header_table.maxsize)


class _Http2(H2Protocol):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.connection.encoder = _Encoder()

    async def _priority_updated(self, event: PriorityUpdated) -> None:
        """Nothing: RFC 9113 (5.3) has given this up.  All answers have the same weight.

        anycorn keeps a tree of what clients say, which a thousand frames fill, and which fails with the next one.
        """

    async def _create_stream(self, request: RequestReceived) -> None:
        headers = [(name, wrapped(value) if name == b":path" else value) for name, value in request.headers or ()]
        if not _TOKEN.fullmatch(dict(headers)[b":method"]):
            self.connection.reset_stream(request.stream_id, ErrorCodes.PROTOCOL_ERROR)  # flushed with what follows
            return
        await super()._create_stream(RequestReceived(stream_id=request.stream_id, headers=headers))


@define(eq=False)
class Protocol:
    """The protocol of one connection: HTTP/1.1 or HTTP/2, as the client wishes.  It stands for anycorn's wrapper."""

    _made_with: tuple[Any, ...]
    """What anycorn makes a protocol with: the application, configuration, context, task group, state, addresses, the
    function that sends, and facts of TLS."""
    is_http2: bool
    """Whether HTTP/2 was agreed on by ALPN."""
    protocol: H11Protocol | H2Protocol = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.protocol = (_Http2 if self.is_http2 else _Http1)(*self._made_with)

    @property
    def task_group(self) -> Any:
        """The tasks of the connection."""
        return self.protocol.task_group

    async def initiate(self) -> None:
        """Begin; with HTTP/2 the settings are sent."""
        await self.protocol.initiate()

    async def handle(self, event: Event) -> None:
        """Handle what has come.  A client may begin HTTP/2 without TLS, by its preface or by an upgrade."""
        try:
            await self.protocol.handle(event)
        except H2ProtocolAssumedError as error:
            await self._become_http2(error.data)
        except H2CProtocolRequiredError as error:
            await self._become_http2(error.data, error.headers, error.settings)

    async def _become_http2(self, data: bytes, *upgrade: Any) -> None:
        self.protocol = protocol = _Http2(*self._made_with)
        await protocol.initiate(*upgrade)
        if data:
            await protocol.handle(RawData(data=data))
