"""The phase of a reload, and its next step.

::

    starting ── all of a batch ready ──► probation ── lived on without traffic ──► soaking ── served well ──► committed
        │                                    │                                        │
        └──────── one failed ────────────────┴──► refused (10)                        └──► rolled back (11)

The old generation is untouched until the reload is committed: that is the rollback, and it needs no code from disk.
With a surge smaller than the fleet, the new generation comes in batches, each through the same three phases, and old
workers make room for the next batch.  Without templates those cannot be brought back, and the reload says so.

Whether new code that lives on also answers is for `rules.evidence` to say.

This module knows no processes and no clock.  `supervision.reload` reports what happens, and acts on each new phase.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from attrs import Factory, define, frozen

from .plan import Goal


class Phase(Enum):
    """The phase of a reload."""

    STARTING = "starting"
    PROBATION = "probation"
    SOAKING = "soaking"
    COMMITTED = "committed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled back"
    OUT_OF_TIME = "out of time"


STATUS = {Phase.COMMITTED: 0, Phase.REFUSED: 10, Phase.ROLLED_BACK: 11, Phase.OUT_OF_TIME: 12}
"""The exit status of `rrmaster reload` in the phases that end it."""

BUSY = 13
"""The exit status when another reload runs."""


@frozen
class Trial:
    """The trial of a new generation, in seconds.  All are options, whose defaults stand in `Settings`."""

    probation: float
    """Alive and probed, without traffic."""
    soak: float
    """With its fair share of the traffic, beside the old generation."""
    timeout: float
    """For the whole reload."""


@define(eq=False)
class Rollout:
    """One reload, from the first new worker to its end."""

    generation: int
    before: Goal
    """The goal before the reload, to which a failure returns."""
    trial: Trial
    began: float
    batch: int
    """The number of new workers that come at once."""
    phase: Phase = Phase.STARTING
    since: float = 0.0
    """The time at which the phase began."""
    ready: int = 0
    """The number of workers of the present batch that are ready."""
    approved: int = 0
    """The number of workers of the new generation that have passed the whole trial."""
    reason: str = ""
    """Why the reload failed; empty until then."""
    lines: list[str] = Factory(list)
    """The progress so far, for people."""
    tell: Callable[[str], None] = lambda line: None
    """Called with each line of progress."""
    is_rollback: bool = False
    """Whether the new generation has code that served before, and not the code on the disk."""
    spent: dict[Phase, float] = Factory(dict)
    """Seconds in each phase that has passed, in their order; with batches a phase comes again, and they add up."""

    @property
    def status(self) -> int | None:
        """The exit status; None until the reload is over."""
        return STATUS.get(self.phase)

    @property
    def over(self) -> bool:
        """Whether the reload has ended."""
        return self.phase in STATUS

    @property
    def expected(self) -> int:
        """The number of new workers once the present batch is complete."""
        return min(self.approved + self.batch, self.before.size)

    @property
    def progress(self) -> float:
        """The progress from 0 to 1.  A batch that is ready has done half of its part."""
        share = {Phase.STARTING: 0.5 * self.ready / self.batch, Phase.PROBATION: 0.5, Phase.SOAKING: 0.75}
        size = self.before.size
        return (self.approved + share.get(self.phase, 0.0) * (self.expected - self.approved)) / size if size else 1.0

    def times(self, now: float) -> dict[str, float]:
        """Seconds in each phase so far, the present one included, in their order."""
        present = {} if self.over else {self.phase: self.spent.get(self.phase, 0.0) + now - self.since}
        return {phase.value: seconds for phase, seconds in (self.spent | present).items()}

    def due(self) -> float:
        """The time of the next `advance`, whatever happens before."""
        last = self.began + self.trial.timeout
        if self.phase is Phase.PROBATION:
            return min(self.since + self.trial.probation, last)
        if self.phase is Phase.SOAKING:
            return min(self.since + self.trial.soak, last)
        return last if not self.over else float("inf")

    def advance(self, now: float, ready: int, serving: int) -> bool:
        """Take the next step if it is time: `ready` new workers are ready and without traffic, `serving` serve.

        Returns whether the phase changed.  The caller then acts on the new phase, and calls again.
        """
        before = self.phase
        if self.over:
            return False
        if self.phase is Phase.STARTING and ready + serving >= self.expected:
            self._enter(Phase.PROBATION, now, f"{self.expected} of {self.before.size} ready, {self._wait('probation')}")
        elif self.phase is Phase.PROBATION and now >= self.since + self.trial.probation:
            self._enter(Phase.SOAKING, now, f"they take their share of the connections, {self._wait('soak')}")
        elif self.phase is Phase.SOAKING and now >= self.since + self.trial.soak:
            self._approve(now)
        elif now >= self.began + self.trial.timeout:
            self._give_up(Phase.OUT_OF_TIME, now, "given up", f"it was not done after {self.trial.timeout:g} s")
        return self.phase is not before

    def worker_ready(self, name: str) -> None:
        """Take note that a worker of the new generation is ready."""
        self.ready += 1
        self.say(f"{name} is ready")

    def fail(self, why: str, now: float) -> None:
        """Take note that a worker of the new generation has failed: the reload ends."""
        if self.over:
            return
        if self.phase is Phase.SOAKING or self.approved > 0:
            self._give_up(Phase.ROLLED_BACK, now, "rolled back", why)
        else:
            self._give_up(Phase.REFUSED, now, "refused, no client saw the new code", why)

    def say(self, line: str) -> None:
        """Add a line of progress."""
        self.lines.append(line)
        self.tell(line)

    def _approve(self, now: float) -> None:
        self.approved, self.ready = self.expected, 0
        if self.approved >= self.before.size:
            self._enter(Phase.COMMITTED, now, f"committed: generation {self.generation} serves alone")
        else:
            self._enter(Phase.STARTING, now, f"{self.approved} of {self.before.size} are good, the next ones start")

    def _give_up(self, phase: Phase, now: float, line: str, why: str) -> None:
        """End the reload.  The reason stands apart from the progress, because it may be a traceback; a client that
        watches gets it with the end.  The supervisor logs both as an error."""
        self._leave(now)
        self.phase, self.since, self.reason = phase, now, why
        self.lines.append(line)

    def _wait(self, name: str) -> str:
        seconds: float = getattr(self.trial, name)
        return f"{name} of {seconds:g} s" if seconds else f"no {name}"

    def _enter(self, phase: Phase, now: float, line: str) -> None:
        self._leave(now)
        self.phase, self.since = phase, now
        self.say(line)

    def _leave(self, now: float) -> None:
        self.spent[self.phase] = self.spent.get(self.phase, 0.0) + now - self.since
