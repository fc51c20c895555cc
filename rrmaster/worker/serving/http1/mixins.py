"""What both of uvicorn's protocols, that of HTTP and that of websockets, do as well."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...api import header_of
from ...deadlines.of_uvicorn import Watched
from ...load.requests import Requests

if TYPE_CHECKING:
    import asyncio

    from uvicorn.server import ServerState

CLOSE = (b"connection", b"close")
"""The default header of a worker that drains."""

FRAGMENTS = 1024
"""Fragments of a message that are kept one by one."""

PIECE = 4096
"""Bytes of a websocket that are parsed at once."""

HOLD_S = 0.002
"""Seconds for which pieces follow each other without another turn of the loop."""

BROKEN = 1006
"""The code of a websocket that ends without a Close (RFC 6455, 7.1.5)."""


class Counted:
    """A mix-in for both protocols: a request whose client has left is known as one without a connection."""

    requests: Requests

    def connection_lost(self, exc: Exception | None) -> None:
        # `scope` is that of a websocket; of HTTP it may be the next request's, which has not begun.
        cycle = getattr(self, "cycle", None)
        self.requests.lose_connection(cycle.scope if cycle is not None else getattr(self, "scope", None))
        super().connection_lost(exc)  # type: ignore[misc]


class WithProxyHeader:
    """A mix-in for both protocols: the addresses are those that the PROXY header has given."""

    client: tuple[str, int] | None
    server: tuple[str, int | None] | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        header = header_of(transport.get_extra_info("socket"))
        if header is not None and header.source is not None:
            self.client, self.server = header.source, header.destination


class Fragments:
    """A mix-in for uvicorn's websockets: fragments of a message are joined as they come.

    uvicorn keeps each as an object, and the limit of a message counts their bytes alone: 16 MB of fragments of one byte
    became 123 MB, and empty ones had no limit.
    """

    frames: list[bytes]
    _loose = 0
    """Fragments at the end of `frames` that are not joined yet."""

    def handle_cont(self, event: Any) -> None:
        """A further fragment has come."""
        if len(self.frames) == 1:  # the first is there
            self._loose = 0
        super().handle_cont(event)  # type: ignore[misc]
        self._loose += 1
        if self._loose == FRAGMENTS and self.frames:
            self.frames[-FRAGMENTS:] = [b"".join(self.frames[-FRAGMENTS:])]
            self._loose = 0


class Pieces:
    """A mix-in for uvicorn's websockets: what is read is parsed in pieces, as fast as the application takes messages.

    A read has up to 256 KiB, which can hold 40,000 messages of one byte: uvicorn parsed them all in one turn of the
    loop, and the application took them all in the next, while every other client of the worker waited for seconds.
    A piece has 700 at most.  What is larger passes as before: pieces follow each other at once for `HOLD_S`.
    """

    transport: Any
    loop: Any
    queue: asyncio.Queue[dict[str, Any]]
    read_paused: bool
    close_sent: bool
    _unread: bytes | memoryview = b""
    """What has been read and is not parsed yet; then reading is paused."""
    _feeds: bool = False
    """Whether `_feed` is due."""

    def data_received(self, data: bytes) -> None:
        """A read has brought this.  One may come after the reading has been paused."""
        if not self._unread and len(data) <= PIECE:
            super().data_received(data)  # type: ignore[misc]
            return
        self._unread = memoryview(bytes(self._unread) + data)
        self.transport.pause_reading()
        if not self._feeds:
            self._feed()

    def _feed(self) -> None:
        """Parse what the application has room for, and go on in the next turn of the loop."""
        self._feeds, until = False, perf_counter() + HOLD_S
        while self._unread and not self.transport.is_closing() and self._wants_more():
            piece, self._unread = bytes(self._unread[:PIECE]), self._unread[PIECE:]
            super().data_received(piece)  # type: ignore[misc]
            if perf_counter() > until:
                break
        if self.transport.is_closing():
            self._unread = b""
        elif self._unread:
            self._feed_soon()
        elif self._wants_more():
            self.read_paused = False
            self.transport.resume_reading()
        else:
            self.read_paused = True  # `receive` resumes it

    def _feed_soon(self) -> None:
        self.transport.pause_reading()  # uvicorn may have resumed it
        if self._wants_more() and not self._feeds:
            self._feeds = True
            self.loop.call_soon(self._feed)

    def _wants_more(self) -> bool:
        """Whether the application has taken all messages, or will take no more."""
        return self.close_sent or self.queue.empty()

    async def receive(self) -> dict[str, Any]:
        """The next message.  In the place of uvicorn's, which resumes the reading although something is unread."""
        message = await self.queue.get()
        if self.queue.empty() and self._unread:
            self._feed_soon()
        elif self.read_paused and self.queue.empty():
            self.read_paused = False
            self.transport.resume_reading()
        return message

    async def send(self, message: dict[str, Any]) -> None:
        """Send; after a Close the client's is still to be read."""
        await super().send(message)  # type: ignore[misc]
        if self.close_sent and self._unread:
            self._feed_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        super().connection_lost(exc)  # type: ignore[misc]


class WebSocket(Fragments, Pieces, Watched):
    """A mix-in for uvicorn's websockets.

    In a drain a handshake still says ``Connection: Upgrade`` alone.  A websocket that breaks ends with `BROKEN`; with
    uvicorn it is 1005, which is a Close without a code.
    """

    queue: asyncio.Queue[dict[str, Any]]

    def __init__(self, config: Any, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)  # type: ignore[call-arg]
        self.default_headers = [header for header in server_state.default_headers if header != CLOSE]

    def connection_lost(self, exc: Exception | None) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": BROKEN})  # behind the client's Close, if it came
        super().connection_lost(exc)
