"""How a fleet that runs is changed: reload, scaling, recycling.

They exclude one another, in this order: while a reload is undecided the size stays and nobody is recycled; a size asked
for meanwhile is taken when it is over; recycling replaces one worker at a time, and none while the fleet grows.  Each
of them only changes the goal, or marks a worker as leaving; `plan` says what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import ERROR, INFO
from typing import Protocol

import trio
from attrs import Factory, define, evolve

from ..events.bus import EventBus
from ..events.events import FleetScaled, ReloadCommitted, ReloadRolledBack, ReloadStarted
from ..logs.log import tell
from ..rules.autoscaler import SYNC_S, Autoscaler
from ..rules.lifecycle import Event, State
from ..rules.plan import Goal
from ..rules.rollout import Phase, Rollout, Trial
from .announcements import Chronicle
from .worker_record import Ward

SILENT = 3
"""Heartbeats without a report that a new worker may keep in its probation.  It has no traffic to be busy with."""


SUPERSEDED = "superseded by another reload"


class Busy(Exception):
    """Another reload runs."""


class Fleet(Protocol):
    """What is changed; the supervisor."""

    goal: Goal
    wards: dict[int, Ward]
    chronicle: Chronicle

    def happens(self, ward: Ward, event: Event, why: str = "") -> None:
        """Something happened to a worker."""

    def catch_up(self) -> None:
        """Read all reports that wait."""

    def changed(self) -> None:
        """Ask the plan again."""

    def calm(self) -> None:
        """Forget past crashes: the code is another."""


@define(eq=False)
class Renewal:
    """The changes under way."""

    fleet: Fleet
    surge: Callable[[int], int] = lambda size: size
    """How many more than so many may live at once."""
    trial: Trial = Factory(Trial)
    heartbeat: float = 0.5
    autoscaler: Autoscaler | None = None
    prepare: Callable[[], str] = lambda: ""
    """Called before anything starts: reads the configuration again.  Why it must not be, or nothing."""
    can_restore: Callable[[int], bool] = lambda generation: False
    """Whether there can be more workers of this very code, whatever lies on the disk."""
    decided: Callable[[Rollout], None] = lambda rollout: None
    """Called when a reload that had been prepared is over."""
    rollout: Rollout | None = None
    """The reload that runs, or ran last."""
    refused: str = ""
    """Why the code on disk was refused, if the last reload to it was."""
    gone_back: bool = False
    """What serves is older than what lies on the disk, for somebody wanted it so."""
    _generation: int = 1
    _again: bool = False
    _size: int | None = None
    """Asked for during a reload."""
    _sampled: float = float("-inf")

    # --- what others ask for

    @property
    def wanted(self) -> int:
        """How many workers there are to be, once a reload that runs is decided."""
        return self.fleet.goal.size if self._size is None else self._size

    @property
    def undecided(self) -> Rollout | None:
        """The reload that runs."""
        return None if self.rollout is None or self.rollout.over else self.rollout

    @property
    def has_the_disks(self) -> bool:
        """Whether what serves is what lies on the disk, as far as that is known here."""
        return not self.refused and not self.gone_back

    def reload(self) -> None:
        """Begin a reload, or have another one follow the one that runs: the code may have changed since it began."""
        if self.undecided is not None:
            self._again = True
        elif self.fleet.goal.size:
            self.begin()

    def begin(self, supersede: bool = False, back: Callable[[int], str] | None = None) -> Rollout:
        """Begin a reload.  Raises Busy when one runs, unless that one is to be given up for it.

        With `back` it is one to code that has served before: that is called with the number of the new generation
        instead of `prepare`.
        """
        if self.fleet.goal.size == 0:
            raise Busy("the master is stopping")
        now = trio.current_time()
        if self.undecided is not None:
            if not supersede:
                raise Busy(f"a reload runs already: {self.undecided.phase.value}")
            self.undecided.fail(SUPERSEDED, now)
            self._follow(now)
        goal = self.fleet.goal
        for ward in self.fleet.wards.values():
            if ward.generation > goal.generation:  # of one given up, and not yet gone: these go first
                ward.leaving = ward.asked = True
        self._generation += 1
        batch = min(goal.surge, goal.size)
        self.rollout = Rollout(
            self._generation, goal, self.trial, now, batch, since=now, tell=_tell, back=back is not None
        )
        if refusal := self.prepare() if back is None else back(self._generation):
            self.rollout.fail(refusal, now)
            self._say_failed(self.rollout)
            return self.rollout
        self.fleet.calm()
        self._news.publish(ReloadStarted(self._generation))
        self.fleet.goal = evolve(goal, generation=self._generation, committed=0)
        whose = "the previous code, as " if self.rollout.back else ""
        self.rollout.say(f"starting {whose}generation {self._generation} beside generation {goal.generation}")
        if goal.surge < goal.size and not self.can_restore(goal.generation):
            self.rollout.say("the surge is smaller than the fleet: workers retired on the way cannot be brought back")
        self.fleet.changed()
        return self.rollout

    def scale(self, size: int) -> None:
        """Have so many workers; at least one."""
        size = max(size, 1)
        if self.undecided is not None:
            self._size = size
            tell("scale.waits", f"scaling to {size} workers waits until the reload is decided", size=size)
        elif self.fleet.goal.size not in (0, size):
            tell("scale", f"scaling from {self.fleet.goal.size} to {size} workers", size=size)
            self._news.publish(FleetScaled(size))
            self.fleet.goal = evolve(self.fleet.goal, size=size, surge=self.surge(size))
            self.fleet.changed()

    def stop(self) -> None:
        """Nothing is to be renewed any more."""
        if self.undecided is not None:
            rollout = self.undecided
            rollout.fail("the master stops", trio.current_time())
            self.decided(rollout)
        self._again, self._size, self.autoscaler = False, None, None

    # --- what follows

    def look(self, now: float) -> None:
        """See what is to be done now."""
        if self.fleet.goal.size == 0:
            return
        if self.undecided is not None:
            self._mind_fallback(self.undecided)
            self._step(now)
        if self.undecided is None:
            if self._again:
                self._again = False
                self.begin()
                return
            if self._size is not None:
                size, self._size = self._size, None
                self.scale(size)
            self._autoscale(now)
            self._recycle()

    def due(self) -> float:
        """When to look again, whatever happens."""
        if self.undecided is not None:
            due = self.undecided.due()
            if self.undecided.phase is Phase.PROBATION:
                due = min([due, *(ward.heard + SILENT * self.heartbeat for ward in self._fresh(State.PROVING))])
            return due
        return self._sampled + SYNC_S if self.autoscaler is not None else float("inf")

    def proved(self, ward: Ward) -> bool:
        """A worker is ready and well.  Whether it has to wait for the others of its generation."""
        rollout = self.undecided
        if rollout is None or rollout.generation != ward.generation:
            return False
        rollout.one_ready(ward.name)
        return True

    def failed(self, ward: Ward, why: str) -> None:
        """A worker that should have stayed has gone, or goes."""
        rollout = self.undecided
        if rollout is not None and ward.generation == rollout.generation:
            now = trio.current_time()
            rollout.fail(why, now)
            self._follow(now)

    def _fresh(self, state: State) -> list[Ward]:
        assert self.rollout is not None
        generation = self.rollout.generation
        return [w for w in self.fleet.wards.values() if w.generation == generation and w.state is state]

    def _step(self, now: float) -> None:
        rollout = self.rollout
        assert rollout is not None
        if rollout.phase is Phase.PROBATION and not self._all_speak(now):
            return
        ready = [w for w in self._fresh(State.PROVING) if w.probed and not w.link.post.suspended]
        while rollout.look(now, len(ready), len(self._fresh(State.SERVING))):
            self._follow(now)
            ready = [] if rollout.phase is Phase.SOAKING else ready

    def _mind_fallback(self, rollout: Rollout) -> None:
        """Whoever dies of the old ones is replaced in kind for as long as that can be."""
        before = rollout.before.generation
        fallback = before if self.can_restore(before) else None
        if self.fleet.goal.fallback != fallback:
            self.fleet.goal = evolve(self.fleet.goal, fallback=fallback)

    def _all_speak(self, now: float) -> bool:
        """Whether nobody has been silent for too long; who has, has failed."""
        self.fleet.catch_up()
        for ward in self._fresh(State.PROVING):
            if now >= ward.heard + SILENT * self.heartbeat:
                self.fleet.happens(ward, Event.TIMEOUT, f"silent for {now - ward.heard:.1f} s in its probation")
                return False
        return True

    def _follow(self, now: float) -> None:
        """Do what the phase just entered says."""
        rollout = self.rollout
        assert rollout is not None
        match rollout.phase:
            case Phase.SOAKING:
                for ward in self._fresh(State.PROVING):
                    self.fleet.happens(ward, Event.PASSED)
                    rollout.lines.append(f"{ward.name} serves")
            case Phase.STARTING:
                self.fleet.goal = evolve(self.fleet.goal, committed=rollout.approved)
            case Phase.COMMITTED:
                self.fleet.goal = evolve(self.fleet.goal, committed=None, fallback=None)
                self.gone_back = rollout.back and not self.gone_back  # back from what had been gone back to
                self.refused = self.refused if rollout.back else ""
                self._news.publish(ReloadCommitted(rollout.generation))
                self.decided(rollout)
            case Phase.REFUSED | Phase.ROLLED_BACK | Phase.OUT_OF_TIME:
                # `size` was not changed meanwhile; whoever was retired on the way is replaced by the plan.
                self.fleet.goal = rollout.before
                self._say_failed(rollout)
                self.decided(rollout)
        self.fleet.changed()

    def _say_failed(self, rollout: Rollout) -> None:
        if not rollout.back and rollout.reason != SUPERSEDED:
            self.refused = rollout.reason
        facts = {"phase": rollout.phase.value, "status": rollout.status, "generation": rollout.generation}
        own_lines = "\n" if "\n" in rollout.reason else " "  # a traceback begins on a line of its own
        text = f"reload {rollout.phase.value}:{own_lines}{rollout.reason}"
        if rollout.reason == SUPERSEDED:  # nobody's failure
            tell("reload.failed", text, level=INFO, why=rollout.reason, **facts)
            return
        serves = any(ward.state is State.SERVING for ward in self.fleet.wards.values())
        text += f"\ngeneration {rollout.before.generation} serves on" if serves else "\nnobody serves"
        tell("reload.failed", text, level=ERROR, why=rollout.reason, **facts)
        self._news.publish(ReloadRolledBack(rollout.generation, rollout.status or 0, rollout.reason))

    @property
    def _news(self) -> EventBus:
        return self.fleet.chronicle.news

    def _recycle(self) -> None:
        """Let one go that should, if no other is going and the fleet is whole."""
        serving = [w for w in self.fleet.wards.values() if w.state is State.SERVING]
        if any(w.leaving for w in serving) or len(serving) < self.fleet.goal.size:
            return
        ward = next((w for w in serving if w.wish), None)
        if ward is not None:
            tell("worker.recycled", f"{ward.name} is replaced: {ward.wish}", level=INFO, why=ward.wish, **ward.facts)
            ward.leaving = ward.asked = True
            self.fleet.changed()

    def _autoscale(self, now: float) -> None:
        if self.autoscaler is None or now < self._sampled + SYNC_S:
            return
        self._sampled = now
        self.fleet.catch_up()
        serving = [w for w in self.fleet.wards.values() if w.state is State.SERVING]
        if serving:
            busy = sum(w.link.post.load > 0 for w in serving) / len(serving)
            self.scale(self.autoscaler.sample(now, self.fleet.goal.size, busy))


def _tell(line: str) -> None:
    tell("reload.progress", f"reload: {line}")
