"""What does the dispatcher know of one worker, and how does it talk to it?

A worker is two things here: its line, over which connections go down and messages come up, and its load, which the
policies compare.  What becomes of its process is the `supervisor`'s concern.

**What is lost with a worker.**  A connection that was handed to it leaves it through one of four doors, and each has a
party that counts there:

==============================  =====================================================================================
taken back from its letterbox   the master, which reads it
closed                          the worker, on its page (`protocol.pages.figures`), before it does so
parked                          the worker, on its page, after it; and the idle pool, or the master, that reads the lane
cut by the worker's death       none: it is what remains
==============================  =====================================================================================

A worker that is told to end now, by a second SIGTERM or at the end of the graceful timeout, cuts connections itself.
Those belong to its death, however orderly it is: from then on it counts none as closed.

A count may be late, because a process was killed before it could write it, and is never early.  So where two count, the
greater number is right.  What remains is final as soon as nothing is under way: the letterbox is empty, and the lanes
are read to their end.  Until then it is an upper bound.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

import trio
from attrs import Factory, define

from ..protocol import wire
from ..protocol.line import Line
from .load import WorkerLoad

REPORTS_PER_S = 5_000
"""A correct worker reports 500 times a second at most; ten times that is a flood, and a breach."""

OPENS_AT_ONCE = wire.MAX_LISTENERS
"""Addresses that the master opens, or tries to open, for one worker without a pause: as many as it may serve."""

OPENS_PER_S = 10
"""... and how many a second after that.  Each takes the master 100 us, four connections' time, whether it succeeds or
not.  A program that waits for a busy port tries once or twice a second."""

_PROBE = wire.encode(wire.Handoff(probe=True, family=int(socket.AF_UNIX)))


@define(eq=False)
class Allowance:
    """So much of something at once, and so much a second after that: a token bucket, on trio's clock."""

    at_once: float
    per_second: float
    _left: float = Factory(lambda self: self.at_once, takes_self=True)
    _counted_at: float = Factory(trio.current_time)

    def take(self, count: int) -> bool:
        """Whether `count` more are allowed; if not, nothing is taken."""
        if self._left < count:
            # The clock is read only when it is used up, not for each message.
            now = trio.current_time()
            self._left = min(self._left + (now - self._counted_at) * self.per_second, self.at_once)
            self._counted_at = now
        if self._left < count:
            return False
        self._left -= count
        return True


@define(eq=False)
class Link:
    """A worker's line and its load, from its start until its letterbox is empty.  The dispatcher closes the line."""

    load: WorkerLoad
    line: Line
    on_message: Callable[[wire.Up], None]
    """Called in the dispatcher's task with each message, after the dispatcher has acted on it."""
    listeners: frozenset[int] | None = None
    """The listeners the worker serves, by number; None: all, also those to come."""
    client_first: bool = False
    """Its clients speak first: a connection may wait until they have."""
    breached: bool = False
    """The worker broke the protocol: nothing it sends is read."""
    recalling: int = 0
    """Connections that a thread is reading back from the letterbox at present; 0: no thread reads it."""
    pids: tuple[int, ...] = ()
    """The worker's process, once it has started."""
    probe_recalled: bool = False
    """The last probe was taken back unread: the worker was late."""
    lost: int = 0
    """Connections that ended with the worker's process: once it is removed, so many at most, and exactly so many once
    that is settled."""
    through: int = 0
    """Connections that are known to have come through its lanes, whatever it has counted itself."""
    _ends: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """What it has counted: connections closed, and connections parked instead."""
    _lanes: int = 0
    """Its lanes in which something may lie."""
    _emptied: bool = False
    """It is dead, and its letterbox is empty."""
    _on_settled: Callable[[], None] | None = None
    pending_answers: deque[tuple[wire.Listening | wire.Lane, socket.socket | None]] = Factory(deque)
    """Answers for which the line had no room, at most as many as a worker may ask for, and what comes with them."""
    messages: Allowance = Factory(lambda: Allowance(REPORTS_PER_S, REPORTS_PER_S))
    """What it may send."""
    opens: Allowance = Factory(lambda: Allowance(OPENS_AT_ONCE, OPENS_PER_S))
    """Addresses that may be opened for it."""

    def count_by(self, ends: Callable[[], tuple[int, int]]) -> None:
        """Ask here how many connections the worker has closed, and how many it has parked instead."""
        self._ends = ends

    def belongs_to(self, pid: int) -> None:
        """The worker's process has started."""
        self.pids = (pid,)

    # --- which listeners

    def serves(self, number: int) -> bool:
        """Whether the worker serves this listener."""
        return self.listeners is None or number in self.listeners

    def shares_listener_with(self, other: Link) -> bool:
        """Whether there may be a listener that both serve."""
        return self.listeners is None or other.listeners is None or not self.listeners.isdisjoint(other.listeners)

    def set_listeners(self, listeners: frozenset[int] | None) -> None:
        """The worker serves exactly these; None: all."""
        self.listeners = listeners

    def agree(self, ready: wire.Ready) -> None:
        """The worker is ready, and says how it wants its connections."""
        self.client_first = ready.client_first
        if ready.places is not None:
            self.load.bound(ready.places)

    def add_listener(self, number: int) -> None:
        """The worker serves this listener too."""
        if self.listeners is not None:
            self.listeners |= {number}

    # --- what goes down the line

    def nudge(self) -> None:
        """Ask the worker for a report, unless something that asks for one lies in its letterbox already."""
        if not self.load.asides_unread and self.line.nudge():
            self.load.count_asides(1)

    def answer(self, listening: wire.Listening) -> None:
        """Send an answer as soon as the line has room; it counts as an aside, as a nudge does."""
        self.pending_answers.append((listening, None))
        self.send_answers()

    def give_lane(self, end: socket.socket) -> None:
        """Send this end of a lane, which is closed here then; it counts as an aside, too."""
        self.pending_answers.append((wire.Lane(), end))
        self.send_answers()

    def send_answers(self) -> None:
        """Try again.  Called when the worker has reported: it may have taken something."""
        while self.pending_answers and self._send(*self.pending_answers[0]):
            self.pending_answers.popleft()
            self.load.count_asides(1)

    def _send(self, message: wire.Listening | wire.Lane, end: socket.socket | None) -> bool:
        if isinstance(message, wire.Listening) or end is None:
            return isinstance(message, wire.Listening) and self.line.send(message)
        try:
            self.line.hand_over(wire.encode(message), end.fileno())
        except OSError:
            return False  # the line is full, or broken, which shows as the worker's death or as a breach
        end.close()
        return True

    def hand_over_probe(self, fd: int) -> None:
        """Send one end of a socket pair as a probe.  The caller still owns its copy, and closes it.  Raises OSError."""
        self.probe_recalled = False
        self.line.hand_over(_PROBE, fd)
        self.load.count_asides(1)

    def probe_came_back(self) -> None:
        """The master has read its own probe: the worker never will."""
        self.load.count_asides(-1)
        self.probe_recalled = True

    def set_short(self, short: bool) -> None:
        """Let few connections lie in the letterbox, or again as many as configured."""
        self.load.set_short(short)
        self.line.set_window(self.load.window)

    # --- its end

    def set_breached(self) -> None:
        """The worker is not trusted from now on."""
        self.breached = True

    def set_recalling(self, count: int) -> None:
        """A thread begins to read `count` connections back; 0: it has ended."""
        self.recalling = count

    # --- what has become of its connections

    def _left(self) -> tuple[int, int]:
        """Connections closed, and connections parked instead: no more than it was handed, whatever it has written."""
        load, (closed, parked) = self.load, self._ends()
        closed = min(max(closed, load.closed - load.parked), load.handed)
        return closed, min(max(parked, load.parked, self.through), load.handed - closed)

    @property
    def done(self) -> int:
        """Connections that it has closed or parked, as far as that is known."""
        return sum(self._left())

    @property
    def parked(self) -> int:
        """Connections that it has parked, as far as that is known."""
        return self._left()[1]

    def count_lost(self) -> None:
        """The process is dead: what it had taken, and neither closed nor parked, is lost.

        What a thread has in its hands at this moment is not lost: it comes back.
        """
        self._count(self.load.recount() + self.recalling)

    def _count(self, waiting: int) -> None:
        self.lost = max(self.load.handed - self.done - waiting, 0)

    def lane_opened(self) -> None:
        """It has another lane."""
        self._lanes += 1

    def lane_read(self, through: int) -> None:
        """A lane has been read to its end; so many have come through this and those before it."""
        self._lanes -= 1
        self.through = max(self.through, through)
        self._settle()

    def emptied(self) -> None:
        """It is dead, and nothing more comes out of its letterbox."""
        self._emptied = True
        self.line.close()
        self._settle()

    @property
    def settled(self) -> bool:
        """Whether `lost` is final."""
        return self._emptied and not self._lanes

    def when_settled(self, call: Callable[[], None]) -> None:
        """Call this as soon as `lost` is final."""
        self._on_settled = call
        self._settle()

    def _settle(self) -> None:
        if self.settled:
            self._count(0)
            call, self._on_settled = self._on_settled, None
            if call is not None:
                call()
