"""One connection of an ASGI application on trio: reading, writing, keep-alive, and how it ends in a drain.

The table of the drain is in `on_anycorn`, which decides when a connection must end; here is how.

A client that has half-closed the connection after its request gets its answer.  It cannot be told from one that has
closed it until something is sent to it, so the application receives a disconnect too, as on hypercorn and in Go.  Other
clients that leave are the subject of `anycorn_calls`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import h11
import trio
from anycorn.events import Closed, Event, RawData, SendFile, Updated
from anycorn.protocol.events import EndData, StreamClosed
from anycorn.protocol.h2 import H2Protocol
from anycorn.protocol.h11 import H11Protocol
from anycorn.protocol.http_stream import HTTPStream
from anycorn.protocol.ws_stream import WSStream
from anycorn.sendfile import read_file_chunks
from attrs import Factory, define, field
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame
from wsproto.connection import ConnectionState

from ..deadlines.law import Waiting, too_late
from ..deadlines.of_anycorn import Outgoing, StalledStreams, waited_for
from ..intake import CLOSE_NOTIFY_S
from .anycorn_calls import Calls
from .http1.anycorn_targets import Protocol
from .http1.endings_on_trio import linger, until_nothing_is_sent
from .http1.h11_requests import has_begun

if TYPE_CHECKING:
    from ..parking.on_trio import AnycornGuest

SETTLED = 0.1
"""Seconds after which an idle connection of HTTP/2 gets GOAWAY: a client that has been idle for so long hardly sends a
request in the same moment."""

MAX_RECEIVE = 65_536
"""Bytes that are read at once, as anycorn does."""

CLOSE_S = 5.0
"""Seconds in which the client of a websocket must answer Close: as long as an idle connection is kept by default, and
half of what clients (the package websockets, browsers) give a server."""

GOAWAY_S = 0.1
"""Seconds for GOAWAY to leave for a client that does harm, before its connection is closed."""


@define(eq=False)
class AnycornConnection:
    """One connection, from its first byte until its socket is closed.  It owns the stream, and `serve` closes it."""

    keep_alive: float
    stream: Any
    draining: trio.Event
    app: Any
    """The application, as anycorn calls it."""
    silent: bool = True
    """Whether no byte has come."""
    heard: int = 0
    """Bytes so far."""
    resting: bool = False
    """Whether no byte has come since the last answer."""
    receiving: bool = False
    """Whether it waits for bytes, and not for the application to take those that have come."""
    idle: bool = True
    """Whether no request is in progress, as anycorn reports it."""
    left: bool = False
    """Whether GOAWAY was sent; what the client sends after it is dropped."""
    calls: Calls = field(init=False)
    outgoing: Outgoing = field(init=False)
    _ends: bool = False
    """Whether it is closed behind the answer that is being sent, and what else comes is dropped."""
    half_closed: bool = False
    """Whether the client sends no more and waits for its last answer."""
    stalled: StalledStreams = Factory(StalledStreams)
    life: trio.CancelScope = Factory(trio.CancelScope)
    """The scope of the connection and of all its calls."""
    protocol: Protocol = field(init=False)
    guest: AnycornGuest | None = None
    """Itself, as it is parked; None: it stays."""
    _over: trio.Event = Factory(trio.Event)
    """Set when nothing more is read."""
    _reading: trio.CancelScope = Factory(trio.CancelScope)
    rested_at: float = 0.0
    """When it became idle, or busy."""

    def __attrs_post_init__(self) -> None:
        self.calls = Calls(self.app, self._abort, self._expect_close)
        self.outgoing = Outgoing(self.stream, self._broke)

    def speak(self, protocol: Protocol) -> None:
        """Set the protocol that is spoken on it, before `serve`."""
        self.protocol = protocol

    async def serve(self) -> None:
        """Serve it until either side closes it."""
        await self.protocol.initiate()
        await self._read()
        self.calls.leave()
        self._over.set()
        if isinstance(self.protocol.protocol, H11Protocol):
            await linger(self.stream, self.protocol.protocol.connection)
        await self._close()
        await self._let_go()  # with the socket closed: what these calls were about to send must not look like an end
        await self.protocol.handle(Closed())

    async def _read(self) -> None:
        if self.h2 is not None:  # by ALPN: an idle connection from the start
            self._reading.deadline = trio.current_time() + self.keep_alive
        with self._reading:
            while data := await self._receive():
                self.silent = False
                self.heard += len(data)
                # A head has begun, which has a deadline of its own; a blank line, which old clients send, is none.
                if self.resting and self.h2 is None and data.strip(b"\r\n"):
                    self.resting, self._reading.deadline = False, math.inf
                if self._ends:
                    continue
                if not self.left:
                    await self.protocol.handle(RawData(data))
                    await self._bound()
                elif self.calls.refused:
                    self._await_close(data)
                if self.h2 is not None and self.h2.idle and not self.idle:
                    self._rest(True)  # prior knowledge: anycorn takes the preface for a request that is never answered
            await self._finish_answer()

    async def _receive(self) -> bytes:
        self.receiving = True
        try:
            if self.guest is not None:
                await self.guest.until_readable()
            return bytes(await self.stream.receive_some(MAX_RECEIVE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.calls.leave()
            return b""
        finally:
            self.receiving = False

    async def _finish_answer(self) -> None:
        """If the client has sent a whole request and then half-closed the connection: wait until it has its answer."""
        protocol = self.protocol.protocol
        if self.calls.gone or self.left or not isinstance(protocol, H11Protocol):
            return
        whole = self._ends or protocol.connection.their_state in (h11.DONE, h11.MUST_CLOSE)
        if whole and isinstance(stream := protocol.stream, HTTPStream) and stream.app_put is not None:
            self.half_closed, self._reading.deadline = True, math.inf
            await stream.app_put({"type": "http.disconnect"})
            await until_nothing_is_sent(self.stream)  # or until `close_soon`, at the end of the answer

    async def _let_go(self) -> None:
        """Wake the calls that wait for room in the client's windows, and tell each that the client has left."""
        if self.h2 is not None:
            for buffer in list(self.h2.stream_buffers.values()):
                await buffer.close()
            for number, stream in list(self.h2.streams.items()):  # in tasks: one that does not receive delays no other
                self.protocol.task_group.spawn(stream.handle, StreamClosed(number))

    # --- bounds

    async def _bound(self) -> None:
        """End what the client has overdone with the bytes that were just read."""
        for websocket in self.calls.refuse_too_big() if self.calls.websockets else ():
            self.protocol.task_group.spawn(self._end_websocket, websocket)
            self._expect_close(websocket)
            self.left = self.h2 is None
        if self.h2 is not None:
            self.calls.look_at_abandoned(len(self.h2.streams))

    def _abort(self) -> None:
        """End the connection and all its calls: the client does harm."""
        h2 = self.h2
        if h2 is not None and not self.left:
            self.left = True
            h2.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            self.protocol.task_group.spawn(self.outgoing.send, h2.connection.data_to_send())
            self.protocol.task_group.spawn(self._end_now)

    async def _end_now(self) -> None:
        await trio.sleep(GOAWAY_S)
        # Also wakes what waits, shielded, for a client that does not read.
        await trio.aclose_forcefully(self.stream)
        self.life.cancel()

    def _expect_close(self, stream: WSStream) -> None:
        """Close was sent: the client must answer it within `CLOSE_S`."""
        if self.h2 is None:
            self._reading.deadline = min(self._reading.deadline, trio.current_time() + CLOSE_S)
        elif stream not in self.calls.refused:
            self.protocol.task_group.spawn(self._end_websocket_later, stream)

    async def _end_websocket_later(self, stream: WSStream) -> None:
        with trio.move_on_after(CLOSE_S):
            await self._over.wait()
        if not stream.closed and not self.calls.gone:
            await self._end_websocket(stream)

    async def _end_websocket(self, stream: WSStream) -> None:
        """Tell the application that a websocket has ended, and drop what its client sends."""
        stream.buffer.clear()
        h2 = self.h2
        if h2 is None:
            await stream.handle(StreamClosed(stream.stream_id))
        else:
            with trio.move_on_after(CLOSE_S):  # until the client has room for it
                await h2.stream_send(EndData(stream.stream_id))
            await h2.stream_send(StreamClosed(stream.stream_id))

    def _await_close(self, data: bytes) -> None:
        """Read, of what a client sends after Close, its answer alone."""
        for stream in self.calls.refused:
            stream.connection.receive_data(data)
            for _ in stream.connection.events():
                pass
            if stream.connection.state is ConnectionState.CLOSED:
                self.close_soon()

    async def send(self, event: Event) -> None:
        """Carry out what the protocol wants; anycorn calls it with each event."""
        match event:
            case RawData():
                await self.outgoing.send(event.data + self._goaway_if_last())
            case SendFile():
                async for chunk in read_file_chunks(event.file, event.offset, event.count):
                    await self.outgoing.send(chunk)
            case Updated():
                self._rest(event.idle)
                if self.h2 is not None:
                    await self._reset_broken(self.h2)
            case Closed():
                self._close_behind_answer()

    def _close_behind_answer(self) -> None:
        """Close it.  anycorn cuts the last answer of a connection when something was sent behind its request."""
        protocol: Any = self.protocol.protocol
        self._ends = self.h2 is None and protocol.stream is not None and protocol.connection.our_state is h11.SEND_BODY
        if not self._ends:
            self.close_soon()

    async def _reset_broken(self, h2: H2Protocol) -> None:
        """Reset the streams whose answer broke off: anycorn forgets them, and the client would wait for the rest."""
        broken = [number for number, buffer in h2.stream_buffers.items() if number not in h2.streams]
        for number in broken:
            if not h2.stream_buffers[number].complete:
                del h2.stream_buffers[number]
                h2.priority.remove_stream(number)
                h2.connection.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
                await self.outgoing.send(h2.connection.data_to_send())

    def _rest(self, idle: bool) -> None:
        # A part of the next head may have come before the end of the last answer.
        begun = self.h2 is None and has_begun(self.protocol.protocol.connection)
        self.idle, self.resting = idle, idle and not begun
        self.rested_at = trio.current_time()
        if idle and self.half_closed:
            self.close_soon()
        elif not self.left:
            self._reading.deadline = trio.current_time() + (self.keep_alive if self.resting else math.inf)

    def _broke(self) -> None:
        self.calls.leave()
        self.close_soon()  # `serve` then tells the protocol

    async def _close(self) -> None:
        try:
            with trio.move_on_after(CLOSE_NOTIFY_S):
                await self.stream.aclose()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            pass  # the client is gone; the socket is closed in any case

    # --- deadlines

    def waits_for(self) -> tuple[Waiting, object]:
        """What it waits for, and an object that stands for the request."""
        return waited_for(self)

    def has_read(self) -> int:
        """The bytes that the client has read."""
        return self.outgoing.has_read()

    async def expire(self, waiting: Waiting) -> None:
        """Close it, because what it waits for has not come in time; with 408 if a head has begun, and no answer."""
        if waiting is Waiting.READING:
            self.outgoing.cut()
            return
        protocol = self.protocol.protocol
        state = None if isinstance(protocol, H2Protocol) else protocol.connection.our_state
        if waiting is not Waiting.FIRST_BYTE and state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.outgoing.send(too_late())
        self.close_soon()

    # --- the drain

    @property
    def h2(self) -> H2Protocol | None:
        """The protocol, if it is HTTP/2."""
        return self.protocol.protocol if isinstance(self.protocol.protocol, H2Protocol) else None

    @property
    def is_fresh(self) -> bool:
        """Whether its first request has not come yet."""
        return self.silent or (self.h2 is not None and not self.h2.connection.highest_inbound_stream_id)

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress, and no answer is being sent."""
        return self.idle and (self.h2 is None or not self.h2.stream_buffers)

    def has_settled(self, now: float) -> bool:
        """Whether it is HTTP/2 and has been idle for `SETTLED` seconds."""
        return self.h2 is not None and self.is_idle and now - self.rested_at >= SETTLED

    def close_soon(self) -> None:
        """Read no more, and close it when its requests are answered."""
        self._reading.cancel()

    async def leave(self) -> None:
        """Close it.  With HTTP/2, send GOAWAY, upon which the client closes it."""
        if self.h2 is None:
            self.close_soon()
        elif not self.left:
            await self.outgoing.send(self._go_away(self.h2))

    async def last_call(self) -> None:
        """Close it if it is idle.  Announce to a busy client of HTTP/2 that no further request will be served."""
        if self.is_idle:
            await self.leave()
        elif self.h2 is not None and not self.left:
            await self.outgoing.send(GoAwayFrame(0, self.h2.connection.highest_inbound_stream_id).serialize())

    def _goaway_if_last(self) -> bytes:
        """GOAWAY to append to what is being written, if that is the end of the last answer in a drain."""
        h2 = self.h2
        if h2 is None or self.left or not self.draining.is_set() or self.is_fresh or h2.connection.open_inbound_streams:
            return b""
        return self._go_away(h2)

    def _go_away(self, h2: H2Protocol) -> bytes:
        self.left = True
        self._reading.deadline = trio.current_time() + CLOSE_NOTIFY_S
        h2.connection.close_connection()
        return h2.connection.data_to_send()
