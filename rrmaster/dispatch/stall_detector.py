"""Which workers do not keep up, and which can take over what they have not taken?

There are two signs, one from each side of the line.  A worker is *late* if something lies in its letterbox and it has
taken nothing for a while: what lies there should be taken back.  A worker is *suspect* (the term of failure detectors:
Chandra and Toueg, 1996) if it was given something and has reported nothing since: most likely it has taken the
connection, and that very connection blocks its loop.  Nothing has to be taken back, so a wrong suspicion costs nothing;
but the worker comes after others until it reports.

::

    given something ──(recall_after)──► nothing taken: late
                          └───────────► no report ──(REPORT_AFTER)──► still none: suspect ──► a report: not suspect

Both must be told apart from a worker that is merely busy, and from a pause of the master itself: to a master that was
asleep every worker looks late.

This module knows numbers.  Time is an argument; the letterbox is counted by the `WorkerLoad`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import Factory, define

from ..protocol.wire import REPORT_AFTER
from .load import WorkerLoad

MAX_RECALLS = 3
"""How often a connection is taken back for lateness; then it stays where it is.  A connection that blocks each worker
that takes it must not walk through the whole fleet, and where every worker is late, moving it gains nothing."""

STUCK = 7
"""Judgements in a row after which a late worker counts as stuck, not slow: with twice as many runnable processes as
processors, 5 ms without a turn happen all the time; 20 ms do not."""

SHORTEN_AT, LENGTHEN_AT = 2, 4
"""Letterboxes are kept short as soon as one worker in 2 is suspect, and until less than one in 4 is."""


@define(eq=False)
class StallDetector:
    """The workers that have taken nothing of what they were given for a while, and those that have not reported.

    Each worker that was given something stands once in a queue, with the time by which it must have taken something.
    All wait equally long, so the queue is in order, and a look costs what is due and no more.
    """

    recall_after: float
    """Seconds."""
    suspects: set[WorkerLoad] = Factory(set)
    """The suspects among the living; each is charged with more than it has (`WorkerLoad.penalty`)."""
    _queue: deque[tuple[float, int, int, WorkerLoad]] = Factory(deque)
    """When to look, and how many connections taken and reports there were when the worker was given something."""
    _watched: set[WorkerLoad] = Factory(set)
    _unheard: deque[tuple[float, int, WorkerLoad]] = Factory(deque)
    """Workers that had not reported by then: when they must have done so, and how many reports there had been."""

    def configure(self, recall_after: float) -> None:
        """Set the option; it holds for what is handed over from now on."""
        self.recall_after = recall_after

    def watch(self, load: WorkerLoad, now: float) -> None:
        """Something was just handed to this worker.  Called once for each connection."""
        if load not in self._watched:
            self._watched.add(load)
            self._queue.append((now + self.recall_after, load.taken, load.reports, load))

    @property
    def due(self) -> float:
        """When to look next."""
        due = self._queue[0][0] if self._queue else float("inf")
        return min(due, self._unheard[0][0]) if self._unheard else due

    def late(self, now: float) -> list[WorkerLoad]:
        """The workers that are late now; they leave the queue.  Call it only after all waiting reports are read."""
        self._find_suspects(now)
        found = []
        while self._queue and self._queue[0][0] <= now:
            _, taken_before, reports_before, load = self._queue.popleft()
            self._watched.discard(load)
            if not load.serving:
                continue
            if load.reports == reports_before and not load.suspected:
                self._unheard.append((now + REPORT_AFTER, reports_before, load))
            if not load.unclaimed or load.recount() == 0:  # an upper bound of zero saves the system call
                continue
            if load.taken > taken_before:
                load.found_moving()
                self.watch(load, now)
            else:
                load.found_late()
                found.append(load)
        return found

    def _find_suspects(self, now: float) -> None:
        while self._unheard and self._unheard[0][0] <= now:
            _, reports_before, load = self._unheard.popleft()
            if load.serving and load.reports == reports_before:
                load.suspect()
                self.suspects.add(load)

    def clear(self, load: WorkerLoad) -> None:
        """The worker has reported, or is given nothing further."""
        self.suspects.discard(load)

    def many_suspect(self, workers: int, already: bool) -> bool:
        """Whether letterboxes should be short, of `workers` in all; `already`: they are short now."""
        return bool(self.suspects) and len(self.suspects) * (LENGTHEN_AT if already else SHORTEN_AT) >= workers

    def restart(self, now: float) -> None:
        """Give every worker the whole time again: the master itself was stopped or asleep."""
        watched = [load for *_, load in self._queue]
        self._queue.clear()
        self._unheard.clear()
        self._watched.clear()
        for load in watched:
            self.watch(load, now)


def idle_receivers(late: WorkerLoad, members: Iterable[WorkerLoad]) -> list[WorkerLoad]:
    """The workers that could begin with one of a late worker's connections at once.

    A worker is idle if it has room, nothing waiting, and less to do than the late one: moving a connection only to let
    it wait elsewhere, for a thread of a full worker say, would gain nothing.  From a stuck worker it is moved in any
    case.
    """
    return [
        load
        for load in members
        if load is not late
        and not load.suspected
        and ((load.in_hand < late.in_hand and not load.full) or late.late_in_a_row >= STUCK)
        and load.has_room()
        and (not load.unclaimed or not load.recount())
    ]
