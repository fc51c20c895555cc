"""How a running fleet changes: reload, rollback, scaling, recycling, stop.  `ReloadController` alone writes the goal.

::

    begin ──► Reconfigurer: can the new settings be? ──► goal: a new generation ──► plan starts its workers
                                                                                        │
    commit ◄── Rollout: ready, probation, soak ◄── what the workers of the new generation do
    or fail: the goal of before again

The changes exclude one another, in this order: while a reload is undecided the size stays and no worker is recycled; a
size asked for meanwhile is taken when it is over; recycling replaces one worker at a time, and none while the fleet is
incomplete.  Each of them only changes the goal, or marks a worker as leaving; `plan` says what follows.
"""

from __future__ import annotations

import trio
from attrs import define, evolve, field

from ..config.settings import Settings
from ..processes.process import usable_cpus
from ..rules.autoscaler import SYNC_S, Autoscaler, autoscaler_of, busy_share, fleet_size, surge_of
from ..rules.lifecycle import Event, State
from ..rules.plan import Goal
from ..rules.rollout import Phase, Rollout, Trial
from ..verdicts.hearing import with_evidence
from .announcements import SUPERSEDED
from .collaborators import Fleet, KeptCode, Lifecycles, Reconfigurer, Reports, Spawner
from .reload_progress import Busy, Reload
from .worker_record import WorkerRecord

SILENT = 3
"""Heartbeats without a report that a new worker may miss in its probation.  It has no traffic to be busy with."""


@define(eq=False)
class ReloadController:
    """The owner of the fleet's goal."""

    fleet: Fleet
    lifecycles: Lifecycles
    reports: Reports
    spawner: Spawner
    code: KeptCode
    reconfigurer: Reconfigurer
    _goal: Goal
    latest: Reload | None = None
    """The reload that runs, or ran last."""
    refused: str = ""
    """Why the code on the disk was refused, if the last reload to it was."""
    gone_back: bool = False
    """A rollback was committed: what serves is older than what lies on the disk."""
    _generation: int = 1
    _again: bool = False
    """Another reload follows the one that runs."""
    _size_later: int | None = None
    """A size for when a reload is over and its old workers have gone: a fleet that grows would keep them until then."""
    _sampled: float = float("-inf")
    """When the autoscaler last looked."""
    _trial: Trial = field(init=False)
    _heartbeat: float = field(init=False)
    _autoscaler: Autoscaler | None = field(init=False)
    _settings: Settings = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.configure(self.reconfigurer.settings)

    def configure(self, settings: Settings) -> None:
        """Behave as these settings say, from the next reload on."""
        self._settings = settings
        self._trial = Trial(settings.probation, settings.soak, settings.reload_timeout)
        self._heartbeat = settings.heartbeat
        self._autoscaler = autoscaler_of(settings)
        self._goal = evolve(self._goal, surge=surge_of(settings, self._goal.size))

    @property
    def goal(self) -> Goal:
        """What the fleet should be."""
        return self._goal

    @property
    def size_wanted(self) -> int:
        """The number of workers, once a reload that runs is decided."""
        return self._goal.size if self._size_later is None else self._size_later

    @property
    def undecided(self) -> Rollout | None:
        """The rollout of the reload that runs."""
        return None if self.latest is None or self.latest.rollout.over else self.latest.rollout

    @property
    def disk_is_current(self) -> bool:
        """Whether the code on the disk is the code that serves, as far as the master knows."""
        return not self.refused and not self.gone_back

    @property
    def stopping(self) -> bool:
        """Whether the whole fleet must go."""
        return self._goal.size == 0

    # --- what others ask for

    def reload(self) -> None:
        """Begin a reload, or let one follow the one that runs: the code may have changed since that began."""
        if self.undecided is not None:
            self._again = True
        elif not self.stopping:
            self.begin()

    def begin(self, supersede: bool = False, back: bool = False) -> Reload:
        """Begin a reload; with `back`, to the code before the last one, from memory.

        Raises Busy if the master stops, or if a reload runs and must not be superseded.
        """
        if self.stopping:
            raise Busy("the master is stopping")
        now = trio.current_time()
        self._make_way(supersede, now)
        before, self._generation = self._goal, self._generation + 1
        batch, log = min(before.surge, before.size), self.fleet.announcements.reload_progress
        rollout = Rollout(self._generation, before, self._trial, now, batch, since=now, tell=log, is_rollback=back)
        self.latest = Reload(rollout)
        if refusal := self._prepare(rollout):
            rollout.fail(refusal, now)
            self._say_failed(rollout)
        else:
            self._start(rollout)
        self.latest.wake()
        return self.latest

    def scale(self, size: int) -> None:
        """Set the fleet's size, at least 1; during a reload, as soon as that is decided."""
        size = max(size, 1)
        if self.undecided is not None or self._size_later is not None:
            self._size_later = size
            self.fleet.announcements.scaling_waits(size)
        elif self._goal.size not in (0, size):
            self.fleet.announcements.scaled(self._goal.size, size)
            self.spawner.forget_slots_from(size)
            self._goal = evolve(self._goal, size=size, surge=surge_of(self._settings, size))
            self.fleet.plan_again()

    def stop(self) -> None:
        """Let all workers finish and go, for good; a reload that runs has failed."""
        if self.undecided is not None:
            rollout = self.undecided
            rollout.fail("the master stops", trio.current_time())
            self._abandon(rollout)
        self._again, self._size_later, self._autoscaler = False, None, None
        self._goal = evolve(self._goal, size=0, committed=None)
        self.fleet.plan_again()

    # --- a reload begins

    def _make_way(self, supersede: bool, now: float) -> None:
        running = self.undecided
        if running is not None:
            if not supersede:
                raise Busy(f"a reload runs already: {running.phase.value}")
            running.fail(SUPERSEDED, now)
            self._follow(running)
        for worker in self.fleet.workers.values():
            if worker.generation > self._goal.generation:  # of a reload that was given up: these go first
                worker.leave()

    def _prepare(self, rollout: Rollout) -> str:
        """Read the new settings; returns why the reload cannot begin, or nothing."""
        code = self.code.go_back(rollout.generation) if rollout.is_rollback else None
        if rollout.is_rollback and code is None:
            return "the code before the last reload is no longer in memory"
        refusal = self.reconfigurer.prepare(rollout.generation, code)
        if refusal and rollout.is_rollback:
            self.code.abandoned(rollout.generation)
        return refusal

    def _start(self, rollout: Rollout) -> None:
        before = rollout.before
        self.fleet.forget_crashes()
        self.fleet.announcements.reload_started(rollout)
        self._goal = evolve(before, generation=rollout.generation, committed=0)
        whose = "the previous code, as " if rollout.is_rollback else ""
        where = self.reconfigurer.directory_of(rollout.generation)
        rollout.say(
            f"starting {whose}generation {rollout.generation} beside generation {before.generation}, from {where}"
        )
        if before.surge < before.size and not self.code.can_restore(before.generation):
            rollout.say("the surge is smaller than the fleet: workers retired on the way cannot be brought back")
        self.fleet.plan_again()

    # --- a reload goes on

    def advance(self, now: float) -> None:
        """Take the next step of whatever is under way.  Called before each look at the plan."""
        if self.stopping:
            return
        rollout = self.undecided
        if rollout is not None:
            self._keep_fallback(rollout)
            self._step(rollout, now)
        if self.undecided is None:
            self._between_reloads(now)

    def due(self) -> float:
        """When `advance` must be called again, whatever happens."""
        rollout = self.undecided
        if rollout is None:
            return self._sampled + SYNC_S if self._autoscaler is not None else float("inf")
        due = min(rollout.due(), self.latest.due() if self.latest is not None else float("inf"))
        if rollout.phase is not Phase.PROBATION:
            return due
        limit, new = SILENT * self._heartbeat, self._in_state(rollout, State.PROVING)
        if any(trio.current_time() >= worker.heard + limit for worker in new):
            due = float("inf")  # the probation waits for the verdict on that worker
        return min([due, *(worker.docket.due(limit, worker.heard) for worker in new)])

    def proved(self, worker: WorkerRecord) -> bool:
        """A worker is ready and well.  Returns whether it must wait for the others of its generation."""
        rollout = self.undecided
        if rollout is None or rollout.generation != worker.generation:
            return False
        rollout.worker_ready(worker.name)
        self._wake()
        return True

    def worker_failed(self, worker: WorkerRecord, why: str) -> None:
        """A worker that should have stayed has ended, or must go."""
        rollout = self.undecided
        if rollout is not None and worker.generation == rollout.generation:
            rollout.fail(why, trio.current_time())
            self._follow(rollout)

    def _keep_fallback(self, rollout: Rollout) -> None:
        """As long as old code can be restored, an old worker that dies in a reload is replaced in kind."""
        before = rollout.before.generation
        fallback = before if self.code.can_restore(before) else None
        if self._goal.fallback != fallback:
            self._goal = evolve(self._goal, fallback=fallback)

    def _step(self, rollout: Rollout, now: float) -> None:
        self.reports.read_reports()
        if self.latest is not None and (why := self.latest.look(now, self.fleet.workers.values(), self._heartbeat)):
            rollout.fail(why, now)
            self._follow(rollout)
            return
        if rollout.phase is Phase.PROBATION and not self._all_report(rollout, now):
            return
        proving = self._in_state(rollout, State.PROVING)
        ready = sum(worker.proved and not worker.link.load.suspended for worker in proving)
        while rollout.advance(now, ready, len(self._in_state(rollout, State.SERVING))):
            self._follow(rollout)
            if rollout.phase is Phase.SOAKING:
                ready = 0

    def _all_report(self, rollout: Rollout, now: float) -> bool:
        """Whether all new workers report in time in their probation; one that does not, but could, has failed."""
        limit, all_report = SILENT * self._heartbeat, True
        for worker in self._in_state(rollout, State.PROVING):
            evidence = worker.docket.judge(limit, worker.heard, now, worker.pids, worker.name)
            if evidence is not None:
                silent = f"silent for {now - worker.heard:.1f} s in its probation"
                self.lifecycles.happens(worker, Event.SILENT, with_evidence(silent, evidence))
                return False
            all_report = all_report and now < worker.heard + limit
        return all_report

    def _in_state(self, rollout: Rollout, state: State) -> list[WorkerRecord]:
        """The new workers in this state."""
        workers = self.fleet.workers.values()
        return [worker for worker in workers if worker.generation == rollout.generation and worker.state is state]

    def _follow(self, rollout: Rollout) -> None:
        """Do what the phase just entered says."""
        match rollout.phase:
            case Phase.SOAKING:
                for worker in self._in_state(rollout, State.PROVING):
                    self.lifecycles.happens(worker, Event.PASSED)
                    rollout.lines.append(f"{worker.name} serves")
            case Phase.STARTING:
                self._goal = evolve(self._goal, committed=rollout.approved)
            case Phase.COMMITTED:
                self._commit(rollout)
            case Phase.REFUSED | Phase.ROLLED_BACK | Phase.OUT_OF_TIME:
                # The size did not change meanwhile; the plan replaces the old workers that were retired on the way.
                self._goal = rollout.before
                self._say_failed(rollout)
                self._abandon(rollout)
        self._wake()
        self.fleet.plan_again()

    def _commit(self, rollout: Rollout) -> None:
        self._goal = evolve(self._goal, committed=None, fallback=None)
        self.gone_back = rollout.is_rollback and not self.gone_back  # a rollback of a rollback is the disk's code again
        self.refused = self.refused if rollout.is_rollback else ""
        self.fleet.announcements.reload_committed(rollout)
        before, settings = self._settings, self.reconfigurer.commit()
        self.code.committed(rollout.generation, settings.rollback_window)
        self.fleet.configure(settings)
        self.configure(settings)
        if before.workers != settings.workers and self._size_later is None:
            self._size_later = fleet_size(settings, usable_cpus())

    def _abandon(self, rollout: Rollout) -> None:
        self.reconfigurer.abandon()
        self.code.abandoned(rollout.generation)
        self._wake()

    def _say_failed(self, rollout: Rollout) -> None:
        if not rollout.is_rollback and rollout.reason != SUPERSEDED:  # superseding says nothing of the code
            self.refused = rollout.reason
        serves = any(worker.state is State.SERVING for worker in self.fleet.workers.values())
        self.fleet.announcements.reload_failed(rollout, serves)

    def _wake(self) -> None:
        if self.latest is not None:
            self.latest.wake()

    def _between_reloads(self, now: float) -> None:
        if self._again:
            self._again = False
            self.begin()
            return
        if self._size_later is not None and all(w.generation >= self._goal.generation for w in self._serving()):
            size, self._size_later = self._size_later, None
            self.scale(size)
        self._autoscale(now)
        self._recycle()

    def _recycle(self) -> None:
        """Let one worker go that should be replaced, if no other is leaving and the fleet is complete."""
        serving = self._serving()
        if any(worker.leaving for worker in serving) or len(serving) < self._goal.size:
            return
        worker = next((worker for worker in serving if worker.recycle_reason), None)
        if worker is not None:
            self.fleet.announcements.recycled(worker)
            worker.leave()
            self.fleet.plan_again()

    def _autoscale(self, now: float) -> None:
        if self._autoscaler is None or now < self._sampled + SYNC_S:
            return
        self._sampled = now
        self.reports.read_reports()
        serving = self._serving()
        if serving:
            busy = busy_share([worker.link.load for worker in serving])
            self.scale(self._autoscaler.sample(now, self._goal.size, busy))

    def _serving(self) -> list[WorkerRecord]:
        return [worker for worker in self.fleet.workers.values() if worker.state is State.SERVING]
