"""What do the workers say, and is it to be believed?

The lines stand in an epoll of their own.  What is malformed, impossible or too much is a *breach*: its worker is heard
no more.  A worker whose letterbox is full can be listened to for its emptying, too.
"""

from __future__ import annotations

import select
from collections.abc import Callable

import trio
from attrs import Factory, define

from ..protocol import wire
from ..protocol.uplink import decode_up
from .load import Breach
from .recall import Link

READS = 64
"""Messages read from one worker in a turn, so that a chatterbox keeps nobody waiting."""

LAST_WORDS = 64 * READS
"""Messages read from one that has died; its buffer holds a few hundred."""

REPORTS_PER_S = 5_000
"""An honest worker reports 500 times a second at most; ten times that is a flood, and a breach."""

Tell = Callable[[wire.Up], None]


@define(eq=False)
class _Ear:
    """One worker's voice: where its messages go, and how many it has sent lately."""

    link: Link
    tell: Tell
    credit: float = REPORTS_PER_S
    credited: float = 0.0
    armed: bool = False

    def afford(self, count: int) -> bool:
        self.credit -= count
        if self.credit < 0:
            now = trio.current_time()
            self.credit = min(self.credit + (now - self.credited) * REPORTS_PER_S, REPORTS_PER_S)
            self.credited = now
        return self.credit >= 0


@define(eq=False)
class Hearing:
    """The ears of the master."""

    settle: Callable[[Link, wire.Report], None]
    """Takes a report to heart; raises Breach for one that cannot be."""
    asked: Callable[[Link, wire.Listen | wire.Attend], None]
    """Called when it has something to say of listeners; raises Breach likewise."""
    breach: Callable[[Link, str], None]
    """Called when a worker is not to be believed any more."""
    emptied: Callable[[Link], None]
    """Called when a letterbox that was watched has been emptied by half."""
    epoll: select.epoll = Factory(select.epoll)
    _ears: dict[int, _Ear] = Factory(dict)

    def add(self, link: Link, tell: Tell) -> None:
        """Listen to a worker; its messages go to `tell`."""
        self._ears[link.line.fileno()] = _Ear(link, tell, credited=trio.current_time())
        self.epoll.register(link.line.fileno(), select.EPOLLIN)

    def deafen(self, link: Link) -> None:
        """It may go on shouting; nobody listens."""
        self.epoll.unregister(link.line.fileno())

    def last_words(self, link: Link) -> None:
        """It has died: read what it said before, and forget it."""
        ear = self._ears[link.line.fileno()]
        self._hear(ear, LAST_WORDS)
        if not link.breached:
            self.deafen(link)
        del self._ears[link.line.fileno()]

    def listen(self) -> bool:
        """Read what is said.  Whether anything was.

        One message of each, and then the kernel is asked again who has more: to be told by each line that it is empty
        takes five times as long.
        """
        said = False
        for _ in range(READS):
            events = self.epoll.poll(0)
            if not events:
                break
            said = True
            for fd, what in events:
                ear = self._ears.get(fd)
                if ear is None:
                    continue  # buried by what the same turn has read before
                if what & select.EPOLLOUT:
                    self._disarm(ear)
                if what & ~select.EPOLLOUT:
                    self._hear(ear, 1)
        return said

    def catch_up(self) -> None:
        """Read all that waits, whatever it costs."""
        for ear in list(self._ears.values()):
            self._hear(ear, LAST_WORDS)

    def watch(self, link: Link) -> None:
        """Have the kernel say when its letterbox has been emptied by half."""
        ear = self._ears[link.line.fileno()]
        if not ear.armed:
            ear.armed = True
            self.epoll.modify(link.line.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _disarm(self, ear: _Ear) -> None:
        ear.armed = False
        self.epoll.modify(ear.link.line.fileno(), select.EPOLLIN)
        self.emptied(ear.link)

    def _hear(self, ear: _Ear, most: int) -> None:
        link, count = ear.link, 0
        while count < most and not link.breached:
            datagram = link.line.receive()
            if datagram is None:
                break
            count += 1
            try:
                self._hear_one(ear, datagram)
            except (Breach, wire.ProtocolError) as error:
                self.breach(link, str(error))
        if count and not ear.afford(count):
            self.breach(link, f"it sends more than {REPORTS_PER_S} messages a second")

    def _hear_one(self, ear: _Ear, datagram: bytes) -> None:
        if not datagram:
            raise Breach("it closed its side of the line, or sent an empty message")
        message = decode_up(datagram)
        if isinstance(message, wire.Report):
            self.settle(ear.link, message)
        elif isinstance(message, wire.Listen | wire.Attend):
            self.asked(ear.link, message)
        if message is not None:
            ear.tell(message)

    def close(self) -> None:
        """Stop listening."""
        self.epoll.close()
