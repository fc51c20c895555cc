"""What do the workers report, and can it be true?

The lines stand in an epoll of their own.  What is malformed, impossible or too much is a *breach*: nothing more is read
from that worker.  The reader can also watch a full letterbox, and say when it has been emptied by half.
"""

from __future__ import annotations

import select
from collections.abc import Callable

from attrs import Factory, define

from ..protocol import wire
from ..protocol.uplink import decode_up
from ..rules import kernel_errors
from ..rules.kernel_errors import Cost
from ..waiting import unwatch
from .link import REPORTS_PER_S, Link
from .load import Breach

READS = 64
"""Messages read from one worker in a turn, so that a worker that sends many delays no other."""

LAST_READS = 64 * READS
"""Messages read from a worker that has died; its buffer holds a few hundred."""


@define(eq=False)
class ReportReader:
    """Reads all lines, and acts on what concerns the dispatcher."""

    on_report: Callable[[Link, wire.Report], None]
    """Applies a report; raises Breach for counts that cannot be."""
    on_listener_request: Callable[[Link, wire.Listen | wire.Attend], None]
    """Called with what a worker says of listeners; raises Breach too."""
    on_breach: Callable[[Link, str], None]
    """Called when a worker broke the protocol, with what it did."""
    on_room: Callable[[Link], None]
    """Called when a letterbox that was watched has been emptied by half."""
    on_fault: Callable[[Exception], None]
    """Called with an error that says that the master's own state is wrong."""
    epoll: select.epoll = Factory(select.epoll)
    """Readable when a worker has sent something; the dispatcher's own epoll contains it at times."""
    _links: dict[int, Link] = Factory(dict)
    """By the descriptor of the line."""
    _wakes: bool = False
    """Whether `epoll` stands in the dispatcher's own epoll."""
    _watched: set[int] = Factory(set)
    """Descriptors for which the kernel also reports room."""

    def add(self, link: Link) -> None:
        """Read a worker's line from now on.  Raises OSError if the kernel cannot watch another one."""
        self.epoll.register(link.line.fileno(), select.EPOLLIN)
        self._links[link.line.fileno()] = link

    def ignore(self, link: Link) -> None:
        """Read nothing more from a worker that broke the protocol, however much it sends."""
        unwatch(self.epoll, link.line.fileno())

    def remove(self, link: Link) -> None:
        """Read what a dead worker has sent, then forget its line."""
        self._read(link, LAST_READS)
        if not link.breached:
            self.ignore(link)
        del self._links[link.line.fileno()]
        self._watched.discard(link.line.fileno())

    def read(self) -> bool:
        """Read what waits.  Whether there was anything.

        One message from each line, and then the kernel is asked again which lines have more: to be told by each line
        that it is empty takes five times as long.
        """
        any_read = False
        for _ in range(READS):
            events = self.epoll.poll(0)
            if not events:
                break
            any_read = True
            for fd, what in events:
                link = self._links.get(fd)
                if link is None:
                    continue  # a message read before in this turn has made the supervisor remove it
                if what & select.EPOLLOUT:
                    self._unwatch(link)
                if what & ~select.EPOLLOUT:
                    self._read(link, 1)
        return any_read

    def read_all(self) -> None:
        """Read everything that waits, however long it takes."""
        for link in list(self._links.values()):
            self._read(link, LAST_READS)

    def wake(self, outer: select.epoll, needed: bool) -> bool:
        """Have reports wake the epoll `outer`, or no longer.  False if the kernel cannot do so just now."""
        if needed == self._wakes:
            return True
        try:
            if needed:
                outer.register(self.epoll.fileno(), select.EPOLLIN)
            else:
                outer.unregister(self.epoll.fileno())
        except OSError as error:
            if kernel_errors.WATCH.cost(error.errno) is Cost.MASTER:
                raise
            return False
        self._wakes = needed
        return True

    def watch_room(self, link: Link) -> bool:
        """Have the kernel say when the letterbox has been emptied by half.  False if it cannot just now."""
        fd = link.line.fileno()
        if fd not in self._watched:
            if not self._modify(fd, select.EPOLLIN | select.EPOLLOUT):
                return False
            self._watched.add(fd)
        return True

    def _modify(self, fd: int, events: int) -> bool:
        try:
            self.epoll.modify(fd, events)
        except OSError as error:
            if kernel_errors.WATCH.cost(error.errno) is Cost.MASTER:
                raise
            return False
        return True

    def _unwatch(self, link: Link) -> None:
        # A line with room is writable all the time: without this the epoll would fire at once, again and again.
        self._watched.discard(link.line.fileno())
        self._modify(link.line.fileno(), select.EPOLLIN)
        self.on_room(link)

    def _read(self, link: Link, most: int) -> None:
        count = 0
        while count < most and not link.breached:
            try:
                datagram = link.line.receive()
            except OSError as error:
                if kernel_errors.READ.cost(error.errno) is Cost.MASTER:
                    self.on_fault(error)  # not raised: whatever task reads here must go on until the workers have ended
                else:
                    self.on_breach(link, f"its line cannot be read ({kernel_errors.name_of(error.errno)})")
                break
            if datagram is None:
                break
            count += 1
            try:
                self._handle(link, datagram)
            except (Breach, wire.ProtocolError) as error:
                self.on_breach(link, str(error))
        if count and not link.messages.take(count):
            self.on_breach(link, f"it sends more than {REPORTS_PER_S} messages a second")

    def _handle(self, link: Link, datagram: bytes) -> None:
        if not datagram:
            raise Breach("it closed its side of the line, or sent an empty message")
        message = decode_up(datagram)
        if isinstance(message, wire.Report):
            self.on_report(link, message)
        elif isinstance(message, wire.Listen | wire.Attend):
            self.on_listener_request(link, message)
        if message is not None:
            link.on_message(message)

    def close(self) -> None:
        """Stop reading."""
        self.epoll.close()
