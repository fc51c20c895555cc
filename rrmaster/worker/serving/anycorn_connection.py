"""One connection of an ASGI application on trio: reading, writing, keep-alive, and how it ends in a drain.

The table of the drain is in `on_anycorn`, which decides when a connection must end; here is how.
"""

from __future__ import annotations

import math
from typing import Any

import h11
import trio
from anycorn.events import Closed, Event, RawData, SendFile, Updated
from anycorn.protocol import ProtocolWrapper
from anycorn.protocol.h2 import H2Protocol
from anycorn.sendfile import read_file_chunks
from attrs import Factory, define, field
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

from ..deadlines.law import Waiting, too_late
from ..deadlines.of_anycorn import awaits_a_body
from ..intake import CLOSE_NOTIFY_S

SETTLED = 0.1
"""Seconds after which an idle connection of HTTP/2 gets GOAWAY: a client that has been idle for so long hardly sends a
request in the same moment."""

MAX_RECEIVE = 65_536
"""Bytes that are read at once, as anycorn does."""


@define(eq=False)
class AnycornConnection:
    """One connection, from its first byte until its socket is closed.  It owns the stream, and `serve` closes it."""

    keep_alive: float
    stream: Any
    draining: trio.Event
    silent: bool = True
    """Whether no byte has come."""
    heard: int = 0
    """Bytes so far."""
    _resting: bool = False
    """Whether no byte has come since the last answer."""
    _receiving: bool = False
    """Whether it waits for bytes, and not for the application to take those that have come."""
    idle: bool = True
    """Whether no request is in progress, as anycorn reports it."""
    left: bool = False
    """Whether GOAWAY was sent; what the client sends after it is dropped."""
    protocol: ProtocolWrapper = field(init=False)
    _reading: trio.CancelScope = Factory(trio.CancelScope)
    _sending: trio.Lock = Factory(trio.Lock)
    _rested_at: float = 0.0
    """When it became idle, or busy."""

    def speak(self, protocol: ProtocolWrapper) -> None:
        """Set the protocol that is spoken on it, before `serve`."""
        self.protocol = protocol

    async def serve(self) -> None:
        """Serve it until either side closes it."""
        await self.protocol.initiate()
        await self._read()
        await self.protocol.handle(Closed())
        await self._close()

    async def _read(self) -> None:
        if self.h2 is not None:  # by ALPN: an idle connection from the start
            self._reading.deadline = trio.current_time() + self.keep_alive
        with self._reading:
            while data := await self._receive():
                self.silent = False
                self.heard += len(data)
                if self._resting and self.h2 is None:  # a head has begun, which has a deadline of its own
                    self._resting, self._reading.deadline = False, math.inf
                if not self.left:
                    await self.protocol.handle(RawData(data))
                if self.h2 is not None and self.h2.idle and not self.idle:
                    self._rest(True)  # prior knowledge: anycorn takes the preface for a request that is never answered

    async def _receive(self) -> bytes:
        self._receiving = True
        try:
            return bytes(await self.stream.receive_some(MAX_RECEIVE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        finally:
            self._receiving = False

    async def send(self, event: Event) -> None:
        """Carry out what the protocol wants; anycorn calls it with each event."""
        match event:
            case RawData():
                await self._transmit(event.data + self._goaway_if_last())
            case SendFile():
                async for chunk in read_file_chunks(event.file, event.offset, event.count):
                    await self._transmit(chunk)
            case Updated():
                self._rest(event.idle)
                if self.h2 is not None:
                    await self._reset_broken(self.h2)
            case Closed():
                self.close_soon()

    async def _reset_broken(self, h2: H2Protocol) -> None:
        """Reset the streams whose answer broke off: anycorn forgets them, and the client would wait for the rest."""
        broken = [number for number, buffer in h2.stream_buffers.items() if number not in h2.streams]
        for number in broken:
            if not h2.stream_buffers[number].complete:
                del h2.stream_buffers[number]
                h2.priority.remove_stream(number)
                h2.connection.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
                await self._transmit(h2.connection.data_to_send())

    def _rest(self, idle: bool) -> None:
        self.idle, self._resting = idle, idle and not self._has_begun_a_head()
        self._rested_at = trio.current_time()
        if not self.left:
            self._reading.deadline = trio.current_time() + (self.keep_alive if self._resting else math.inf)

    def _has_begun_a_head(self) -> bool:
        """Whether a part of the next head came before the end of the last answer; never with HTTP/2."""
        protocol = self.protocol.protocol
        return not isinstance(protocol, H2Protocol) and bool(protocol.connection.trailing_data[0])

    async def _transmit(self, data: bytes) -> None:
        try:
            # Shielded: a cancelled application must not leave half a frame on the connection.
            async with self._sending:
                with trio.CancelScope(shield=True):
                    await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close_soon()  # the client is gone; `serve` then tells the protocol

    async def _close(self) -> None:
        try:
            with trio.move_on_after(CLOSE_NOTIFY_S):
                await self.stream.aclose()
        except (OSError, trio.BrokenResourceError, trio.BusyResourceError):
            pass  # the client is gone; the socket is closed in any case

    # --- deadlines

    def waits_for(self) -> tuple[Waiting, object]:
        """What it waits for, and an object that stands for the request."""
        protocol = self.protocol.protocol
        if isinstance(protocol, H2Protocol):
            is_body = self._receiving and awaits_a_body(protocol)
            return (Waiting.BODY if is_body else Waiting.NOTHING), None
        if self._resting or not self._receiving:
            return Waiting.NOTHING, None
        state = protocol.connection.their_state  # None: a websocket
        if state is h11.IDLE:
            return (Waiting.FIRST_BYTE if self.silent else Waiting.HEAD), protocol.stream
        return (Waiting.BODY if state is h11.SEND_BODY else Waiting.NOTHING), protocol.stream

    async def expire(self, waiting: Waiting) -> None:
        """Close it, because what it waits for has not come in time; with 408 if a head has begun, and no answer."""
        protocol = self.protocol.protocol
        state = None if isinstance(protocol, H2Protocol) else protocol.connection.our_state
        if waiting is not Waiting.FIRST_BYTE and state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._transmit(too_late())
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
        return self.h2 is not None and self.is_idle and now - self._rested_at >= SETTLED

    def close_soon(self) -> None:
        """Read no more, and close it when its requests are answered."""
        self._reading.cancel()

    async def leave(self) -> None:
        """Close it.  With HTTP/2, send GOAWAY, upon which the client closes it."""
        if self.h2 is None:
            self.close_soon()
        elif not self.left:
            await self._transmit(self._go_away(self.h2))

    async def last_call(self) -> None:
        """Close it if it is idle.  Announce to a busy client of HTTP/2 that no further request will be served."""
        if self.is_idle:
            await self.leave()
        elif self.h2 is not None and not self.left:
            await self._transmit(GoAwayFrame(0, self.h2.connection.highest_inbound_stream_id).serialize())

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
