"""How a reload is watched: its lines as they come, its end, and what its soak shows of the new code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import trio
from attrs import Factory, define

from ..rules.evidence import LOOKS, Evidence, Seen
from ..rules.rollout import Phase, Rollout
from ..verdicts.processor_time import Look, look, waited_here
from .worker_record import WorkerRecord

OVERDUE = 1.25
"""Heartbeats.  A worker that was not heard for this time has not reported what it has in hand."""


class Busy(Exception):
    """Another reload runs, or the master is stopping."""


@define(eq=False)
class Reload:
    """A reload that was begun, for those that watch it.  `rollout` says where it stands."""

    rollout: Rollout
    _changed: trio.Event = Factory(trio.Event)
    _evidence: Evidence = Factory(Evidence)
    _finished: dict[int, tuple[int, int, int]] = Factory(dict)
    """By worker: its generation, and what it had finished at the first look and at the last."""
    _next_look: float = float("-inf")
    _looks: dict[int, Look] = Factory(dict)
    """By worker of the new generation: what it had of the processors at the last look."""
    _waited_here: float = 0.0

    def look(self, now: float, workers: Iterable[WorkerRecord], heartbeat: float) -> str:
        """Compare what both generations have in hand and have finished.  All reports were read before.

        Returns why the new code is taken to hang, at the end of its soak; an empty text if it is not.
        """
        if self.rollout.phase is not Phase.SOAKING:
            self._evidence.soak_begins()
        old: list[WorkerRecord] = []
        new: list[WorkerRecord] = []
        for worker in workers:
            (new if worker.generation == self.rollout.generation else old).append(worker)
            count = worker.report.requests if worker.report is not None else 0
            first = self._finished.get(worker.id, (0, count, 0))[1]
            self._finished[worker.id] = (worker.generation, first, count)
        silent_since = now - OVERDUE * heartbeat
        old_side, new_side = self._seen(old, silent_since, of_new=False), self._seen(new, silent_since, of_new=True)
        self._evidence.look(now, old_side, new_side, self._starved(new, silent_since))
        self._next_look = now + self.rollout.trial.soak / LOOKS
        return self._judge(now)

    def due(self) -> float:
        """When to look again.  Before the soak, what happens is reason enough to look: the master is at rest."""
        soaks = self.rollout.trial.soak and self.rollout.phase is Phase.SOAKING
        return self._next_look if soaks else float("inf")

    def _judge(self, now: float) -> str:
        rollout = self.rollout
        if not rollout.trial.soak or rollout.phase is not Phase.SOAKING or now < rollout.since + rollout.trial.soak:
            return ""
        why = self._evidence.hangs(now, rollout.trial.soak)
        if not why and (remark := self._evidence.remark()):
            rollout.say(remark)
        return why

    def _starved(self, workers: list[WorkerRecord], silent_since: float) -> float:
        """Seconds since the last look for which all of them that are busy, or the master, waited for a processor."""
        if self.rollout.phase is not Phase.SOAKING:
            return 0.0
        busy = [worker for worker in workers if _in_hand(worker, silent_since)]
        here, looks = waited_here(), {worker.id: look(worker.link.pids) for worker in busy}
        waits = [now.since(self._looks.get(number, now)).waited for number, now in looks.items()]
        delay, self._waited_here, self._looks = here - self._waited_here, here, looks
        return delay + min(waits, default=0.0)

    def _seen(self, workers: list[WorkerRecord], silent_since: float, of_new: bool) -> Seen:
        mine = [counts for counts in self._finished.values() if (counts[0] == self.rollout.generation) is of_new]
        return Seen(
            sum(last - first for _, first, last in mine),
            sum(_in_hand(worker, silent_since) for worker in workers),
            sum(worker.link.load.connections for worker in workers),
        )

    def wake(self) -> None:
        """Tell the watchers that the rollout has moved.  Called by the controller alone."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def ended(self) -> Rollout:
        """Wait until it is committed or has failed."""
        while not self.rollout.over:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self.rollout

    async def progress(self) -> AsyncIterator[tuple[str, float]]:
        """Each line for people as it comes, with how far the reload is (0 to 1); ends with the reload."""
        told = 0
        while True:
            changed = self._changed
            for line in self.rollout.lines[told:]:
                yield line, self.rollout.progress
                told += 1
            if self.rollout.over and told == len(self.rollout.lines):
                return
            if told == len(self.rollout.lines):
                await changed.wait()


def _in_hand(worker: WorkerRecord, silent_since: float) -> int:
    """What a worker has in progress.  One whose loop is blocked does not say, and may have all that it was given."""
    load = worker.link.load
    return load.connections if worker.heard <= silent_since else load.busy
