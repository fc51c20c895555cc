"""How do messages travel between the master's program and its workers', and events to who wants to know them?

A `Conversation` is the master's end of one worker's talk line.  Sending waits while the line is full: that is the
back-pressure, and nothing is kept here.  Receiving never waits for anybody: what a worker says becomes an event.

`News` is where events go.  Each subscriber has a bounded queue of its own; who is slow loses the oldest, and is told
how many, and neither the master nor another subscriber waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from attrs import Factory, define

from ..protocol import wire
from ..protocol.channel import HungUp, Talk
from .events import Event, EventsMissed

AT_ONCE = 16
"""Messages read from one worker, or sent to it, before the others and everything else have their turn.  A turn of the
loop costs as much as two or three messages."""

LAST_WORDS = 4096
"""Messages read from one that has died; its buffer holds a few hundred."""

KEPT = 10_000
"""Events kept for one subscriber: two seconds of the busiest fleet that was measured (5,000 messages a second), ..."""

KEPT_BYTES = 16 * 1024 * 1024
"""... with so many bytes of messages in them: as many as 270 of the largest."""


RUN = 256
"""Events a subscriber is given before others have their turn.  With one each turn it would fall behind by the very way
it is told: in a turn, each worker's messages are read `AT_ONCE`."""


class WorkerGone(Exception):
    """The worker has died, or is about to: nobody will read the message."""


@define(eq=False)
class Conversation:
    """The talk line to one worker."""

    talk: Talk
    heard: Callable[[Any, int], None]
    """Called with each message and its bytes."""
    breach: Callable[[str], None]
    """Called when the worker says what no honest one says."""
    over: bool = False
    _sending: trio.StrictFIFOLock = Factory(trio.StrictFIFOLock)
    _run: int = 0
    """Messages sent since others last had a turn."""

    async def send(self, value: Any) -> None:
        """Send a message, waiting while the line is full.  Those of one task arrive in their order.

        Raises NoteRefused for what cannot be sent, WorkerGone.  Cancelled, it has sent nothing.  A checkpoint of trio
        when it waits, and with every `AT_ONCE`-th message at least.
        """
        note = wire.encode_note(value)
        if self._run < AT_ONCE and not self._sending.locked() and self._say(note):
            self._run += 1
            return
        self._run = 0
        async with self._sending:
            while not self.over:
                try:
                    if self.talk.say(note):
                        return
                    await trio.lowlevel.wait_writable(self.talk.fileno())
                except (HungUp, trio.ClosedResourceError):
                    break
        raise WorkerGone("the worker has gone, and did not get this message")

    def _say(self, note: bytes) -> bool:
        """Send it if there is room and somebody to read it."""
        try:
            return not self.over and self.talk.say(note)
        except HungUp:
            return False

    async def listen(self) -> None:
        """Hear what the worker says, until it hangs up."""
        while not self.over:
            if not self._hear(AT_ONCE):
                return
            try:
                await trio.lowlevel.wait_readable(self.talk.fileno())
            except trio.ClosedResourceError:
                return

    def _hear(self, most: int) -> bool:
        """Whether there may be more to come."""
        for _ in range(most):
            try:
                datagram = self.talk.hear()
                if datagram is None:
                    break
                found = wire.decode_note(datagram)
            except HungUp:
                return False
            except wire.ProtocolError as error:
                self.breach(str(error))
                return False
            if found is not None:
                self.heard(found[0], len(datagram))
        return True

    def bury(self) -> None:
        """Its process is dead: hear what it had said before, and hang up."""
        if not self.over:
            self._hear(LAST_WORDS)
            self.close()

    def close(self) -> None:
        """Hang up; who waits to send is told."""
        if not self.over:
            self.over = True
            trio.lowlevel.notify_closing(self.talk.fileno())
            self.talk.close()


@define(eq=False)
class Subscription:
    """The events of one subscriber, from its beginning on."""

    _events: deque[tuple[Event, int]] = Factory(deque)
    _bytes: int = 0
    _missed: int = 0
    _news: trio.Event = Factory(trio.Event)
    _over: bool = False
    _run: int = 0
    """Events taken since others last had a turn."""

    def tell(self, event: Event, size: int) -> None:
        """Something happened."""
        self._events.append((event, size))
        self._bytes += size
        while len(self._events) > KEPT or self._bytes > KEPT_BYTES:
            self._next()
            self._missed += 1
        self._news.set()

    def _next(self) -> Event:
        event, size = self._events.popleft()
        self._bytes -= size
        return event

    def end(self) -> None:
        """Nothing more will happen."""
        self._over = True
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        self._run += 1
        if self._run >= RUN or not self._events:
            self._run = 0
            await trio.lowlevel.checkpoint()
        while not self._events and not self._over:
            self._news = trio.Event()
            await self._news.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return EventsMissed(missed)
        if not self._events:
            raise StopAsyncIteration
        return self._next()


@define(eq=False)
class News:
    """Tells every subscriber of every event."""

    _subscriptions: set[Subscription] = Factory(set)
    _over: bool = False

    def tell(self, event: Event, size: int = 0) -> None:
        """Something happened; a message in it has so many bytes."""
        for subscription in self._subscriptions:
            subscription.tell(event, size)

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[Subscription]:
        """Every event from now on, in order.  The iteration ends with the master."""
        subscription = Subscription()
        if self._over:
            subscription.end()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def end(self) -> None:
        """The master is over."""
        self._over = True
        for subscription in self._subscriptions:
            subscription.end()
