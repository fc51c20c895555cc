"""Who does not keep up, and to whom may go what it has not taken?

Two signs, one of each side of the line.  *Late* is who has something unclaimed and has taken nothing for a while: what
lies there is to be taken back.  *Suspect* (the word is that of failure detectors: Chandra and Toueg, 1996) is who was
given something and has said nothing since: most likely it has taken it, and that very connection blocks its loop.
Nothing has to be taken back, so a suspicion that is wrong costs nothing; but it comes after others until it is heard.

::

    given something ──(after)──► nothing taken: late
                         └─────► nothing heard ──(REPORT_AFTER)──► still nothing: suspect ──► a report: not any more

Both have to be told from who is merely busy, and from ourselves: a master that was asleep finds everybody late.

This module knows numbers.  Time is an argument; the letterbox is counted by the `WorkerLoad`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import Factory, define

from ..protocol.wire import REPORT_AFTER
from .load import SUSPECT_PENALTY, WorkerLoad

MAX_RECALLS = 3
"""How often a connection is taken back for lateness; then it stays where it is.  One that blocks whoever gets near it
must not walk through the whole fleet, and where everybody is late, moving on helps nobody."""

STUCK = 7
"""Judgements in a row after which a late worker counts as stuck, not slow: with twice as many runnable processes as
processors, 5 ms without a turn are everyday; 20 ms are not."""

SHORTEN_AT, LENGTHEN_AT = 2, 4
"""Letterboxes are kept short from one suspect in so many workers on, and until there is less than one in so many."""


@define(eq=False)
class StallDetector:
    """Who has taken nothing of what it was given for a while, and who has said nothing.

    Each worker that was given something stands once in a queue, with the time by which it must have taken
    something; all wait equally long, so the queue is in order, and looking costs what is due and no more.
    """

    recall_after: float
    """Seconds."""
    suspects: set[WorkerLoad] = Factory(set)
    """Those among the living; each has its `WorkerLoad.penalty`."""
    _queue: deque[tuple[float, int, int, WorkerLoad]] = Factory(deque)
    """When to look, and how many it had taken and said when it was given something."""
    _watched: set[WorkerLoad] = Factory(set)
    _unheard: deque[tuple[float, int, WorkerLoad]] = Factory(deque)
    """Who had said nothing by then, when it has to have done so, and how often it had been heard."""

    def watch(self, load: WorkerLoad, now: float) -> None:
        """Something was just handed to it."""
        if load not in self._watched:
            self._watched.add(load)
            self._queue.append((now + self.recall_after, load.taken, load.reports, load))

    @property
    def due(self) -> float:
        """When to look next."""
        due = self._queue[0][0] if self._queue else float("inf")
        return min(due, self._unheard[0][0]) if self._unheard else due

    def late(self, now: float) -> list[WorkerLoad]:
        """Those who are late now; they are watched no more.  Judge only after all waiting reports are read."""
        self._suspect(now)
        found = []
        while self._queue and self._queue[0][0] <= now:
            _, before, heard, load = self._queue.popleft()
            self._watched.discard(load)
            if not load.serving:
                continue
            if load.reports == heard and not load.penalty:
                self._unheard.append((now + REPORT_AFTER, heard, load))
            if not load.unclaimed or load.recount() == 0:
                continue
            if load.taken > before:
                load.late_in_a_row = 0
                self.watch(load, now)
            else:
                load.late_in_a_row += 1
                found.append(load)
        return found

    def _suspect(self, now: float) -> None:
        while self._unheard and self._unheard[0][0] <= now:
            _, heard, load = self._unheard.popleft()
            if load.serving and load.reports == heard:
                load.penalty = SUSPECT_PENALTY
                self.suspects.add(load)

    def clear(self, load: WorkerLoad) -> None:
        """It has been heard, or is given nothing any more."""
        self.suspects.discard(load)

    def many_suspect(self, workers: int, already: bool) -> bool:
        """Whether so many of the workers are suspect that letterboxes are to be kept short; or are already."""
        return bool(self.suspects) and len(self.suspects) * (LENGTHEN_AT if already else SHORTEN_AT) >= workers

    def restart(self, now: float) -> None:
        """We were away ourselves (stopped, asleep): everybody gets the whole time again."""
        worker_loads = [load for *_, load in self._queue]
        self._queue.clear()
        self._unheard.clear()
        self._watched.clear()
        for load in worker_loads:
            self.watch(load, now)


def idle_receivers(late: WorkerLoad, members: Iterable[WorkerLoad]) -> list[WorkerLoad]:
    """Who could begin one of a late worker's connections at once.

    Idle is who has room, nothing waiting, and less to do than the late one: to move a connection elsewhere only to
    wait there would be pains for nothing.  From a stuck one it is moved in any case.
    """
    return [
        load
        for load in members
        if load is not late
        and not load.penalty
        and (load.connections < late.connections or late.late_in_a_row >= STUCK)
        and load.has_room()
        and (not load.unclaimed or not load.recount())
    ]
