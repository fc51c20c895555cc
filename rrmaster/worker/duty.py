"""What does a worker owe its master?  To take connections, to count them, and to report.

A line of this package runs in a worker's process, never in the master's.  A runtime (see `serving`) keeps the duty
in its own loop, whatever async library that is: this module imports none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, frozen

from ..protocol import wire
from ..protocol.channel import DescriptorLost, HungUp, Letterbox, TalkLine
from ..protocol.pages.figures import Counting
from .load.descriptors import Descriptors
from .load.limiters import Limiters
from .load.memory import resident
from .load.places import Places
from .load.requests import Requests

if TYPE_CHECKING:
    from ..protocol.pages.last_words import LastWords
    from ..protocol.proxy_header import Header
    from .parking.memo import Memo

BUSY_AFTER = 0.02
"""Seconds after which a change of the requests in progress is reported.  Only slow requests matter to the choice of a
worker, and on a busy worker the number changes with every request."""

BATCH = 8
"""Connections taken at once, at most, while each begins quickly.  No option: `--window` limits what waits in the
letterbox, this limits what is taken out of it before the loop serves."""

QUICK = 0.001
"""Seconds a connection may take to begin for the batch to grow.  What is taken dies with this process."""

FULL_TABLE_S = 0.05
"""Seconds between looks at a full descriptor table."""


@frozen
class Identity:
    """The numbers of this worker in its fleet."""

    id: int
    """Counts up from 1 over the master's life, never reused."""
    slot: int
    """0 to N-1.  A replacement has the slot of the worker that it replaces."""
    generation: int
    """1, and one more with each reload."""


@frozen
class Taken:
    """A connection in this worker's hands.  Its holder owns the descriptor, closes it, and calls `Duty.finished`."""

    fd: int
    listener: int
    family: int
    probe: bool
    memo: Memo | None = None
    """What is known of a connection that was parked before; None: it has just been accepted."""


_UNKNOWN: tuple[Taken | None, None] = (None, None)


@define(eq=False)
class Duty:
    """A worker's duty to its master: it takes connections, counts them, and reports.

    A runtime drives it from its loop: `take` when the letterbox is readable, `finished` for each connection, `beat`
    every `heartbeat` seconds, and `report` soon after `wake`.
    """

    letterbox: Letterbox
    identity: Identity
    heartbeat: float
    """Seconds between two beats: `--heartbeat`."""
    talk: TalkLine | None = None
    """The talk line, if there is one."""
    words: LastWords | None = None
    """Where requests are noted for the case of this process's death, if they are."""
    counting: Counting = Factory(Counting.unread)
    """Where the times of requests and of connections are counted."""
    wake: Callable[[], None] = lambda: None
    """Set by the runtime.  Called when a report is due, which must follow within `REPORT_AFTER`."""
    on_requests_changed: Callable[[], None] = lambda: None
    """Set by the runtime.  Called when a request has begun or ended; `report_busy` must follow within `BUSY_AFTER`."""
    taken: int = 0
    places: Places = Factory(Places)
    _given_away: set[int] = Factory(set)
    """By the ``id`` of their `Taken`, those of them whose descriptor is still open here."""
    on_lane: Callable[[int], None] | None = None
    """Set by a server that parks: called with each lane, a descriptor that it owns then."""
    park_stream: Callable[[Any], Awaitable[bool]] | None = None
    requests: Requests | None = None
    """The server's counters of requests.  None: each connection is one request."""
    limiters: Limiters = Factory(Limiters)
    """What requests wait for in this worker when all of it is taken: threads, above all."""
    busy_report_due: bool = False
    """`requests_changed` need not be called: it has been since the last `report_busy`, and the worker is not full."""
    _stirred: bool = False
    """`on_requests_changed` has been called since the last `report_busy`."""
    accepting: bool = True
    """Whether the application wants connections: `CurrentWorker.set_ready`."""
    has_descriptors: bool = True
    """Whether the descriptor table has room."""
    beat_at: float = Factory(time.monotonic)
    """When the last beat was: a clock that costs a request nothing."""
    lag: float = 0.0
    """Seconds by which the loop was late, the worst since the last report."""
    clients: dict[int, tuple[Taken, Header]] = Factory(dict)
    """The PROXY header of each open connection, by descriptor.  Empty without the PROXY protocol."""
    _rss: int = 0
    _asides: int = 0
    """Messages read that are no connection of a client: nudges, answers and probes."""
    _reported_busy: int = 0
    """The number of `busy` requests in the last report, ..."""
    _reported_full: bool = False
    """... and whether it said that this worker is full."""
    _retirement: wire.Retiring | None = None
    """A wish to be replaced that the full line has not taken yet."""
    report_due: bool = False
    """Something has changed since the last report."""
    _descriptors: Descriptors = Factory(lambda self: Descriptors(self.letterbox.fileno), takes_self=True)

    @property
    def closed(self) -> int:
        """Connections that were in hand: those that this worker has closed, and those that it has parked instead."""
        return self.counting.ends[0] + self.counting.ends[1]

    @property
    def open(self) -> int:
        """Connections in hand."""
        return self.taken - self.closed

    @property
    def taking(self) -> bool:
        """Whether this worker wants connections."""
        return self.accepting and self.has_descriptors

    def attach(self, wake: Callable[[], None], on_requests_changed: Callable[[], None]) -> None:
        """A runtime serves this duty from now on; see `wake` and `on_requests_changed`."""
        self.wake, self.on_requests_changed = wake, on_requests_changed

    def count(self, requests: Requests) -> None:
        """Requests are counted by the server, and not as connections."""
        self.requests = requests

    def ran_late(self, seconds: float) -> None:
        """The loop ran this much later than it should have."""
        self.lag = max(self.lag, seconds)

    def set_accepting(self, ready: bool) -> None:
        """Carry out `CurrentWorker.set_ready`."""
        self.accepting = ready
        self.report_soon()

    def take(self) -> Taken | None:
        """One connection, or None if none waits or none can be taken now.  Raises HungUp: the master sends no more."""
        while self.has_descriptors and self.wants_next():
            try:
                found = self.letterbox.take()
            except DescriptorLost:
                # The kernel has closed the connection, and its client has seen that.  It counts as served: the master
                # counts it as handed over, and without a `closed` for it this worker would seem busier for ever.
                self.taken += 1
                self.counting.closed()
                self._out_of_descriptors()
                return None
            if found is None:
                return None
            message, fd = found
            if isinstance(message, wire.Handoff) and fd is not None:
                return self._begin(message, fd)
            if isinstance(message, wire.Lane | wire.Nudge | wire.Listening):
                self._asides += 1
                if not isinstance(message, wire.Lane):
                    self.handle(message)
                elif fd is not None:
                    os.close(fd) if self.on_lane is None else self.on_lane(fd)
                self.report()
        if not self.has_descriptors and self.letterbox.has_ended():
            raise HungUp
        return None

    def wants_next(self) -> bool:
        """Whether to take the next message of the letterbox, if there is one.

        A message that is not taken stays in the kernel, where the master can take it back.
        """
        return True

    def handle(self, message: wire.Nudge | wire.Listening) -> None:
        """React to a message of the master that is no connection."""

    def _begin(self, handoff: wire.Handoff, fd: int) -> Taken:
        if self._descriptors.took(fd):
            self._out_of_descriptors()
        if handoff.probe:
            # A probe is outside the counters of load, and reported at once: until then the master takes it for unread.
            self._asides += 1
            self.report()
        else:
            self.taken += 1
            self.counting.taken(handoff.accepted_at)
            self.report_soon()
        if handoff.memo is None:
            return Taken(fd, handoff.listener, handoff.family, handoff.probe)
        from .parking.memo import Memo

        memo = Memo.decode(handoff.memo, time.monotonic())
        taken = Taken(fd, handoff.listener, handoff.family, handoff.probe, memo)
        if memo.header is not None:
            self.clients[fd] = (taken, memo.header)
        return taken

    def park_with(
        self, on_lane: Callable[[int], None], places: int, park_stream: Callable[[Any], Awaitable[bool]] | None = None
    ) -> None:
        """The server parks connections, through the lanes that it gets by this call, and has so many places."""
        self.on_lane, self.places, self.park_stream = on_lane, Places(places), park_stream

    def _report_places(self) -> None:
        """Places may be free again.  If the master believes that none is, requests wait: it is told at once."""
        if self.places.owes(self.taken, self.closed - self.orphaned):
            self.report()
        else:
            self.report_soon()

    def gave_away(self, *taken: Taken) -> None:
        """Connections are the idle pool's, and count as closed.  Called as soon as they lie in the lane: see `ends`."""
        self.counting.ends[1] += len(taken)
        self._given_away.update(map(id, taken))
        self._report_places()

    def finished(self, taken: Taken) -> None:
        """Count a connection as closed."""
        # A handler may have closed it earlier, and its number may be that of another connection by now.
        if self.clients and self.clients.get(taken.fd, _UNKNOWN)[0] is taken:
            del self.clients[taken.fd]
        self._descriptors.gave_back()
        if id(taken) in self._given_away:
            self._given_away.remove(id(taken))
        elif not taken.probe:
            self.counting.closed()
            self._report_places()

    def report_soon(self) -> None:
        """Have a report made within `REPORT_AFTER`; until then further changes join it."""
        if not self.report_due:
            self.report_due = True
            self.wake()

    @property
    def busy(self) -> int:
        """Requests in progress."""
        return self.open if self.requests is None else self.requests.begun - self.requests.ended

    @property
    def orphaned(self) -> int:
        """Requests in progress that have no connection."""
        return 0 if self.requests is None else self.requests.without_connection(self.open)

    def requests_changed(self) -> None:
        """Note that a request has begun or ended.  Not needed while `busy_report_due` is set."""
        # On a busy connection requests change thousands of times a second, and mostly `busy` is the same again by the
        # time of the report: so the server looks at the flag first and spares the call.
        self.report_room()
        self._stir()

    def report_room(self) -> None:
        """Report if this worker was full and is no longer.  Called in the loop when a request or a connection ends."""
        has_room = self._reported_full and not self.limiters.all_taken()
        if has_room or (self.places.most and self.places.owes(self.taken, self.closed - self.orphaned)):
            self.report()  # at once: each connection that goes elsewhere meanwhile leaves a thread idle here

    def _stir(self) -> None:
        self.busy_report_due = not (self._reported_full or self.places.are_few)
        if not self._stirred:
            self._stirred = True
            self.on_requests_changed()

    def report_busy(self) -> None:
        """Report, if that would say something other than the last report did."""
        self.busy_report_due = self._stirred = False
        if self.busy != self._reported_busy or self._reported_full != self.limiters.all_taken():
            self.report()
        elif self._reported_full:
            self._stir()  # what was taken may be given back in the middle of a request

    def set_full(self, full: bool) -> None:
        """Carry out `CurrentWorker.set_full`."""
        self.limiters.set_full(full)
        self.report_soon()

    def report(self) -> bool:
        """Report now; whether the line took it.  Only the serving loop may call it: silence means that it is stuck."""
        busy, full, requests, closed = self.busy, self.limiters.all_taken(), self.requests, self.closed
        report = wire.Report(
            closed,
            busy,
            self.taking,
            int(self.lag * 1e6),
            self._rss,
            int(time.process_time() * 1e6),
            self._asides,
            closed if requests is None else requests.ended,
            self.orphaned,
            0 if requests is None else int(requests.oldest(time.monotonic()) * 1000),
            full,
            self.counting.ends[1],
        )
        self.report_due = not self.letterbox.send(report)
        self._reported_busy, self._reported_full, self.lag = busy, full, 0.0
        if not self.report_due:
            self.places.has_told(report.closed - report.orphaned)
        if full:
            self._stir()
        return not self.report_due

    def beat(self) -> None:
        """Look at descriptors and memory, and report.  Called every `heartbeat` seconds."""
        self.has_descriptors = self._descriptors.has_room()
        if not self.has_descriptors:
            self._descriptors.complain(self.open, self.retire)
        self._rss = resident()
        self.beat_at = time.monotonic()
        if self._retirement is not None:
            self.retire(self._retirement.reason, self._retirement.now)
        self.report()

    def retire(self, reason: str, now: bool = False) -> None:
        """Ask to be replaced, or with `now` to be drained at once.  If the line is full, each beat asks again."""
        wish = wire.Retiring(reason, now)
        self._retirement = None if self.letterbox.send(wish) else wish

    def ready(self) -> None:
        """Tell the master that connections can come, of every listener."""
        parks, first, places = self.on_lane is not None, self.requests is not None, self.places.most or None
        self.letterbox.send(wire.Ready(os.getpid(), parks=parks, client_first=first, places=places))

    def _out_of_descriptors(self) -> None:
        self.has_descriptors = False
        self.report_soon()
