"""What does a worker owe its master?  To take connections, to count them, and to report.

A line of this package runs in a worker's process, never in the master's.  A runtime (see `serving`) keeps the duty
in its own loop, whatever async library that is: this module imports none.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import Factory, define, frozen

from ..protocol import wire
from ..protocol.channel import DescriptorLost, Letterbox, Talk

if TYPE_CHECKING:
    from ..protocol.proxy_header import Header

BUSY_AFTER = 0.02
"""Seconds after which a change of the requests in progress is told.  Only the slow ones matter to who chooses, and on
a busy worker it changes with every request."""

RESERVE = 16
"""Descriptors kept free for the application: a worker that takes connections up to its limit can open no file."""

BATCH = 8
"""Connections taken at once, at most, while each is begun quickly."""

QUICK = 0.001
"""Seconds a connection may take to begin for the batch to grow: what is taken dies with us, or waits behind us."""

FULL_TABLE_S = 0.05
"""Seconds between looks at a full descriptor table."""

_PAGE = resource.getpagesize()


@frozen
class Identity:
    """What a worker is told about itself."""

    id: int
    """Counts up from 1 over the master's life, never reused."""
    slot: int
    """0 to N-1; a replacement has the slot of the one it replaces."""
    generation: int
    """1, and one more with each reload."""


@frozen
class Taken:
    """A connection in this worker's hands.  Whoever holds it closes the descriptor and calls `Duty.finished`."""

    fd: int
    listener: int
    family: int
    probe: bool


_UNKNOWN: tuple[Taken | None, None] = (None, None)


@define
class Requests:
    """What is counted where a connection carries many requests: those begun and not ended are in progress."""

    begun: int = 0
    ended: int = 0


@define(eq=False)
class Duty:
    """What a worker owes its master: its counters, and its voice."""

    letterbox: Letterbox
    identity: Identity
    heartbeat: float
    """Seconds between two beats: `--heartbeat`."""
    talk: Talk | None = None
    """The talk line, if there is one."""
    wake: Callable[[], None] = lambda: None
    """Called when there is news to report; the runtime sees to it that `report` follows within `REPORT_AFTER`."""
    on_requests_changed: Callable[[], None] = lambda: None
    """Called when a request has begun or ended; the runtime has `report_busy` follow within `BUSY_AFTER`."""
    taken: int = 0
    closed: int = 0
    requests: Requests | None = None
    """Where something counts them; None: each connection is one."""
    busy_report_due: bool = False
    """A request has begun or ended since `report_busy`, and `stir` was called: it need not be called again."""
    accepting: bool = True
    """Whether the application wants connections: `CurrentWorker.set_ready`."""
    has_descriptors: bool = True
    """Whether the descriptor table has room."""
    lag: float = 0.0
    """Seconds the loop was late, at worst since the last report."""
    clients: dict[int, tuple[Taken, Header]] = Factory(dict)
    """Who is at the other end, by descriptor, where a proxy has told: empty without the PROXY protocol."""
    _rss: int = 0
    _asides: int = 0
    _reported_busy: int = 0
    """What was told of `busy` last."""
    _retirement: wire.Retiring | None = None
    report_due: bool = False
    """Something has changed since the last report."""
    _limit: int = Factory(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    @property
    def open(self) -> int:
        """Connections in hand."""
        return self.taken - self.closed

    @property
    def taking(self) -> bool:
        """Whether this worker wants connections."""
        return self.accepting and self.has_descriptors

    def take(self) -> Taken | None:
        """One connection, or None if none waits or none can be taken now.  Raises HungUp: there will be no more."""
        while self.has_descriptors and self.wants_next():
            try:
                found = self.letterbox.take()
            except DescriptorLost:
                # It is closed already, and the client knows.  Count it as served, or its place is lost too.
                self.taken += 1
                self.closed += 1
                self._out_of_descriptors()
                return None
            if found is None:
                return None
            message, fd = found
            if isinstance(message, wire.Handoff) and fd is not None:
                return self._begin(message, fd)
            if isinstance(message, wire.Nudge | wire.Listening):
                self._asides += 1
                self.handle(message)
                self.report()
        return None

    def wants_next(self) -> bool:
        """Whether what lies next in the letterbox is to be taken, if anything does.  What is not stays in the kernel,
        where the master can take it back."""
        return True

    def handle(self, message: wire.Nudge | wire.Listening) -> None:
        """The master has said something that is no connection."""

    def _begin(self, handoff: wire.Handoff, fd: int) -> Taken:
        # Descriptors are given lowest first, so the number tells how full the table is.
        if fd >= self._limit - RESERVE:
            self._out_of_descriptors()
        if handoff.probe:
            # Outside all counters, and said at once: until then the master takes it for unread.
            self._asides += 1
            self.report()
        else:
            self.taken += 1
            self.report_soon()
        return Taken(fd, handoff.listener, handoff.family, handoff.probe)

    def finished(self, taken: Taken) -> None:
        """A connection was closed."""
        # A handler may have closed it earlier, and its number may be another's already.
        if self.clients and self.clients.get(taken.fd, _UNKNOWN)[0] is taken:
            del self.clients[taken.fd]
        if not taken.probe:
            self.closed += 1
            self.report_soon()

    def report_soon(self) -> None:
        """There is something to report."""
        if not self.report_due:
            self.report_due = True
            self.wake()

    @property
    def busy(self) -> int:
        """Requests in progress."""
        return self.open if self.requests is None else self.requests.begun - self.requests.ended

    def requests_changed(self) -> None:
        """A request has begun or ended, and nobody has said so since `report_busy`."""
        # On a busy connection this happens thousands of times a second, and mostly says the same when it is told.
        self.busy_report_due = True
        self.on_requests_changed()

    def report_busy(self) -> None:
        """Report, if `busy` is not what was told last."""
        self.busy_report_due = False
        if self.busy != self._reported_busy:
            self.report()

    def report(self) -> None:
        """Report now.  Only the loop that serves may call it: silence is how the master learns that it does not."""
        busy = self.busy
        lag = int(self.lag * 1e6)
        cpu = int(time.process_time() * 1e6)
        requests = self.closed if self.requests is None else self.requests.ended
        report = wire.Report(self.closed, busy, self.taking, lag, self._rss, cpu, self._asides, requests)
        self.report_due = not self.letterbox.say(report)
        self._reported_busy = busy
        self.lag = 0.0

    def beat(self) -> None:
        """Look after descriptors and memory, and report.  Called every `heartbeat`."""
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.has_descriptors = self._room_for_descriptors()
        self._rss = resident()
        if self._retirement is not None:
            self.retire(self._retirement.reason, self._retirement.now)
        self.report()

    def retire(self, reason: str, now: bool = False) -> None:
        """Ask to be replaced, or to be let go now; said again with each beat if the line is full."""
        wish = wire.Retiring(reason, now)
        self._retirement = None if self.letterbox.say(wish) else wish

    def ready(self) -> None:
        """Say that connections can come, of every listener."""
        self.letterbox.say(wire.Ready(os.getpid()))

    def _out_of_descriptors(self) -> None:
        self.has_descriptors = False
        self.report_soon()

    def _room_for_descriptors(self) -> bool:
        try:
            fd = os.dup(self.letterbox.fileno())
        except OSError:
            return False
        os.close(fd)
        return fd < self._limit - RESERVE


def resident() -> int:
    """Bytes of resident memory of this process; 0 where it cannot be read (no descriptor left, no /proc)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
