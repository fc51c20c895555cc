"""What does the dispatcher know of one worker, and how does it talk to it?

A worker is two things here: its line, over which connections go down and messages come up, and its load, which the
policies compare.  What becomes of its process is the `supervisor`'s concern.
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

_PROBE = wire.encode(wire.Handoff(probe=True, family=int(socket.AF_UNIX)))


@define(eq=False)
class Link:
    """A worker's line and its load, from its start until its letterbox is empty.  The dispatcher closes the line."""

    load: WorkerLoad
    line: Line
    on_message: Callable[[wire.Up], None]
    """Called in the dispatcher's task with each message, after the dispatcher has acted on it."""
    listeners: frozenset[int] | None = None
    """The listeners the worker serves, by number; None: all, also those to come."""
    breached: bool = False
    """The worker broke the protocol: nothing it sends is read."""
    recalling: int = 0
    """Connections that a thread is reading back from the letterbox at present; 0: no thread reads it."""
    pids: tuple[int, ...] = ()
    """The worker's process, once it has started."""
    probe_recalled: bool = False
    """The last probe was taken back unread: the worker was late."""
    lost: int = 0
    """Connections that ended with the worker's process; known once it is removed."""
    pending_answers: deque[wire.Listening] = Factory(deque)
    """Answers for which the line had no room; at most as many as a worker may ask for."""
    _credit: float = REPORTS_PER_S
    _credited_at: float = Factory(trio.current_time)

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
        self.pending_answers.append(listening)
        self.send_answers()

    def send_answers(self) -> None:
        """Try again.  Called when the worker has reported: it may have taken something."""
        while self.pending_answers and self.line.send(self.pending_answers[0]):
            self.pending_answers.popleft()
            self.load.count_asides(1)

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

    # --- what comes up the line

    def accepts(self, count: int) -> bool:
        """Whether `count` more messages are within the worker's rate (a token bucket)."""
        self._credit -= count
        if self._credit < 0:
            # The clock is read only when the credit is used up, not for each message.
            now = trio.current_time()
            self._credit = min(self._credit + (now - self._credited_at) * REPORTS_PER_S, REPORTS_PER_S)
            self._credited_at = now
        return self._credit >= 0

    # --- its end

    def set_breached(self) -> None:
        """The worker is not trusted from now on."""
        self.breached = True

    def set_recalling(self, count: int) -> None:
        """A thread begins to read `count` connections back; 0: it has ended."""
        self.recalling = count

    def count_lost(self) -> None:
        """The process is dead: what it had taken, and not closed, is lost.

        What a thread has in its hands at this moment is not lost: it comes back.
        """
        self.lost = max(self.load.connections - self.load.recount() - self.recalling, 0)
