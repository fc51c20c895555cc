"""The deadlines of anycorn's connections (see `law`).  What one waits for, and how it is closed, is its own to tell.

A stream of HTTP/2 whose client gives it no room has a deadline of its own, because its connection may be well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping
from itertools import chain
from typing import Any

import h11
import trio
from anycorn.protocol.events import StreamClosed
from anycorn.protocol.h2 import BUFFER_HIGH_WATER, H2Protocol, StreamBuffer
from anycorn.protocol.http_stream import HTTPStream
from attrs import Factory, define, field
from h2.stream import StreamState

from ..duty import Duty
from .full import FullLog
from .law import ENOUGH, Deadlines, Waiting
from .reading import bytes_read, drop_unread
from .requests import ASGI, RequestTimeout, timed_by_scopes


async def keep_deadlines(connections: Collection[Any], deadlines: Deadlines, duty: Duty, timed: RequestTimeout) -> None:
    """Look at the connections, and close those whose time is over, until cancelled."""
    log = FullLog()
    async with trio.open_nursery() as nursery:  # in tasks: a client that does not read must delay no other
        while True:
            await trio.sleep(deadlines.period)
            now, full = trio.current_time(), log.is_full(duty, deadlines)
            streams = chain.from_iterable(stalled_in(connection) for connection in connections)
            overdue = deadlines.look([*connections, *streams], now, full)
            log.looked(full, duty, deadlines, len(overdue), now)
            for client, waiting in overdue:
                nursery.start_soon(client.expire, waiting)
            timed.look()


PIECE = 262_144
"""Bytes that are sent at once.  Only the end of a piece shows that a client on a unix socket reads."""


@define(eq=False)
class Outgoing:
    """Sends, one task at a time.  The connection owns the stream."""

    stream: Any
    broken: Callable[[], None]
    """Called when the client is gone."""
    waiting_since: float | None = None
    """Since when something is being sent; None: nothing is."""
    _sent: int = 0
    _lock: trio.Lock = Factory(trio.Lock)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            # Shielded: a cancelled application must not leave half a frame on the connection.
            async with self._lock:
                with trio.CancelScope(shield=True):
                    await self._send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken()

    async def _send(self, data: bytes) -> None:
        self.waiting_since = trio.current_time()
        try:
            if len(data) <= PIECE:
                await self.stream.send_all(data)
                self._sent += len(data)
                return
            for start in range(0, len(data), PIECE):
                piece = memoryview(data)[start : start + PIECE]
                await self.stream.send_all(piece)
                self._sent += len(piece)
        finally:
            self.waiting_since = None

    def has_read(self) -> int:
        """The bytes that the client has read."""
        return bytes_read(self._transport().socket, self._sent)

    def cut(self) -> None:
        """Reset the connection under what is being sent, which then is broken."""
        sock = self._transport().socket
        drop_unread(sock)
        sock.close()

    def _transport(self) -> trio.SocketStream:
        stream = self.stream
        return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream  # type: ignore[no-any-return]


def waited_for(one: Any) -> tuple[Waiting, object]:
    """What a connection waits for, and an object that stands for the request."""
    if one.outgoing.waiting_since is not None:
        return Waiting.READING, None
    protocol = one.protocol.protocol
    if isinstance(protocol, H2Protocol):
        return (Waiting.BODY if one.receiving and _awaits_a_body(protocol) else Waiting.NOTHING), None
    if one.resting or not one.receiving:
        return Waiting.NOTHING, None
    state = protocol.connection.their_state  # None: a websocket
    if state is h11.IDLE:
        return (Waiting.FIRST_BYTE if one.silent else Waiting.HEAD), protocol.stream
    return (Waiting.BODY if state is h11.SEND_BODY else Waiting.NOTHING), protocol.stream


def _awaits_a_body(protocol: H2Protocol) -> bool:
    """Whether a request of this connection of HTTP/2 has an incomplete body and no end of its answer.

    Websockets are streams of another class: their client may be silent.
    """
    states = protocol.connection.streams
    return any(
        isinstance(stream, HTTPStream) and number in states and states[number].state_machine.state is StreamState.OPEN
        for number, stream in protocol.streams.items()
    )


@define(eq=False)
class StalledStream:
    """A stream of HTTP/2 for whose answer the client's window has no room."""

    protocol: H2Protocol
    number: int
    buffer: StreamBuffer
    heard: int = 0
    _size: int = field(default=Factory(lambda self: len(self.buffer.buffer), takes_self=True))
    _read: int = 0

    def waits_for(self) -> tuple[Waiting, object]:
        """Its client."""
        return Waiting.READING, None

    def has_read(self) -> int:
        """The bytes that have left its buffer, as far as it shows at a look: a full one that has grown was emptied."""
        before, self._size = self._size, len(self.buffer.buffer)
        if self._size < before:
            self._read += before - self._size
        elif self._size > before >= BUFFER_HIGH_WATER:
            self._read += ENOUGH
        return self._read

    async def expire(self, _: Waiting) -> None:
        """Reset it.  Its application learns that the client has left, and the connection goes on."""
        await self.protocol.stream_send(StreamClosed(self.number))  # resets it: see `AnycornConnection.send`
        await self.buffer.close()  # wakes the application, if that waits for room


StalledStreams = dict[int, StalledStream]
"""The stalled streams of a connection, as the last look has found them; by their numbers."""


def stalled_in(connection: Any) -> Iterator[StalledStream]:
    """The stalled streams of a connection, which are the same objects for as long as they are stalled."""
    known: MutableMapping[int, StalledStream] = connection.stalled
    protocol = connection.h2
    now = {number: known.get(number) for number in _stalled(protocol)} if protocol is not None else {}
    known.clear()
    for number, stream in now.items():
        known[number] = stream or StalledStream(protocol, number, protocol.stream_buffers[number])
    yield from known.values()


def _stalled(protocol: H2Protocol) -> list[int]:
    states = protocol.connection.streams
    return [
        number
        for number, buffer in protocol.stream_buffers.items()
        if buffer.buffer and number in states and protocol.connection.local_flow_control_window(number) <= 0
    ]


def timed_on_trio(app: ASGI, timed: RequestTimeout) -> ASGI:
    """The application, each of whose requests `timed` can cancel."""
    return timed_by_scopes(app, timed, trio.CancelScope)
