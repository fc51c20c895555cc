"""How do messages travel between the master's program and its workers', and events to their subscribers?

A `MessageChannel` is the master's end of one worker's talk line.  To send waits while the line is full: that is the
back-pressure, and the master keeps no queue.  To receive never waits for the program: each message becomes an event.
It waits for its turn, because messages may take a share of the master's time and no more (`reading_time`).

An `EventBus` delivers events.  Each subscriber has a bounded queue of its own.  A slow subscriber loses its oldest
events and is told how many; neither the master nor another subscriber waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import Factory, define

from ..protocol import wire
from ..protocol.channel import HungUp, TalkLine
from ..waiting import readable, writable
from .events import EventsMissed, FleetEvent
from .reading_time import ReadingTime

AT_ONCE = 16
"""Messages read from one worker, or sent to it, before other tasks have a turn.  A turn of the loop costs as much as
two or three messages."""

MAX_LEFT = 4096
"""Messages read from a worker that has ended; its buffer holds a few hundred."""

KEPT = 10_000
"""Events kept for one subscriber: two seconds of the busiest fleet that was measured (5,000 messages a second), ..."""

KEPT_BYTES = 16 * 1024 * 1024
"""... with at most this many bytes of messages in them: 270 of the largest."""

RUN = 256
"""Events that a subscriber receives before other tasks have a turn.  With one event a turn it would fall behind,
because in one turn up to `AT_ONCE` messages are read from each worker."""


class WorkerGone(Exception):
    """The worker has ended, or its line is closed: it will not read the message.

    Raised by `Worker.send` in the master's program.  No error of the sender: a worker may end at any time.
    """


@define(eq=False)
class MessageChannel:
    """The talk line to one worker, from its start until its process has ended.  It owns the master's end.

    All methods are called in the master's loop.
    """

    talk: TalkLine
    on_message: Callable[[Any, int], None]
    """Called with each message and its size in bytes."""
    on_breach: Callable[[str], None]
    """Called when the worker sends a datagram that the protocol does not allow."""
    reading_time: ReadingTime = Factory(ReadingTime)
    """Shared with the other workers' channels."""
    worker: str = "a worker"
    """Whose channel it is, for the log."""
    closed: bool = False
    _sending: trio.StrictFIFOLock = Factory(trio.StrictFIFOLock)
    _run: int = 0
    """Messages sent since other tasks last had a turn."""

    async def send(self, value: Any) -> None:
        """Send a message, waiting while the line is full.  Messages of one task arrive in their order.

        Raises NoteRefused for a value that cannot be sent, WorkerGone.  Cancelled, it has sent nothing.  A checkpoint
        of trio when it waits, and at least with every `AT_ONCE`-th message.
        """
        note = wire.encode_note(value)
        if self._run < AT_ONCE and not self._sending.locked() and self._try_send(note):
            self._run += 1
            return
        self._run = 0
        async with self._sending:  # first come, first served
            while not self.closed:
                try:
                    if self.talk.send(note):
                        return
                    await writable(self.talk.fileno())
                except (HungUp, trio.ClosedResourceError):
                    break
        raise WorkerGone("the worker has gone, and did not get this message")

    def _try_send(self, note: bytes) -> bool:
        """Send it if the line is open and has room."""
        try:
            return not self.closed and self.talk.send(note)
        except HungUp:
            return False

    async def receive(self) -> None:
        """Receive messages until the worker closes its end, as far as there is time to read them."""
        while True:
            await self.reading_time.wait()
            if self.closed or not self._take_turn():
                return
            try:
                await readable(self.talk.fileno())
            except trio.ClosedResourceError:
                return

    def _take_turn(self) -> bool:
        """Read for a moment.  Whether more may come."""
        self.reading_time.begin()
        try:
            return self._read(AT_ONCE, lambda: self.reading_time.turn_is_over)
        finally:
            self.reading_time.end(self.worker)

    def _read(self, most: int, enough: Callable[[], bool] = lambda: False) -> bool:
        """Read what waits, at most `most` messages, and none after `enough`.  Whether more may come."""
        for _ in range(most):
            try:
                datagram = self.talk.receive()
                if datagram is None:
                    break
                found = wire.decode_note(datagram)
            except HungUp:
                return False
            except wire.ProtocolError as error:
                self.on_breach(str(error))
                return False
            if found is not None:
                self.on_message(found[0], len(datagram))
            if enough():
                break
        return True

    def close_after_exit(self) -> None:
        """The worker's process has ended: receive what it had sent before, and close."""
        if not self.closed:
            self._read(MAX_LEFT)
            self.close()

    def close(self) -> None:
        """Close the master's end.  Tasks that wait in `send` get WorkerGone."""
        if not self.closed:
            self.closed = True
            trio.lowlevel.notify_closing(self.talk.fileno())
            self.talk.close()


@define(eq=False)
class Subscription:
    """The events of one subscriber, from `EventBus.subscribe` on: an asynchronous iterator."""

    _events: deque[tuple[FleetEvent, int]] = Factory(deque)
    """Each with the size of its message in bytes."""
    _bytes: int = 0
    _missed: int = 0
    """Events lost and not yet reported."""
    _wake: trio.Event = Factory(trio.Event)
    _closed: bool = False
    _run: int = 0
    """Events received since other tasks last had a turn."""

    def put(self, event: FleetEvent, size: int) -> None:
        """Queue an event; drop the oldest if there are too many."""
        self._events.append((event, size))
        self._bytes += size
        while len(self._events) > KEPT or self._bytes > KEPT_BYTES:
            self._next()
            self._missed += 1
        self._wake.set()

    def _next(self) -> FleetEvent:
        event, size = self._events.popleft()
        self._bytes -= size
        return event

    def close(self) -> None:
        """End the iteration after the events that are queued."""
        self._closed = True
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[FleetEvent]:
        return self

    async def __anext__(self) -> FleetEvent:
        self._run += 1
        if self._run >= RUN or not self._events:
            self._run = 0
            await trio.lowlevel.checkpoint()  # before an event is taken, so that a cancelled task loses none
        while not self._events and not self._closed:
            self._wake = trio.Event()
            await self._wake.wait()
        if self._missed:  # they were older than all that is queued
            missed, self._missed = self._missed, 0
            return EventsMissed(missed)
        if not self._events:
            raise StopAsyncIteration
        return self._next()


@define(eq=False)
class EventBus:
    """Delivers every event to every subscriber; it lives as long as the master."""

    _subscriptions: set[Subscription] = Factory(set)
    _closed: bool = False

    def publish(self, event: FleetEvent, size: int = 0) -> None:
        """Queue an event for every subscriber.  `size` is the number of bytes of the message in it.  Never waits."""
        for subscription in self._subscriptions:
            subscription.put(event, size)

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[Subscription]:
        """Every event from now on, in order.  The iteration ends with the master."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """The master has ended: every subscription ends after its queued events."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
