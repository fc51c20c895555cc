"""How a reload is going, and what its next step is.

::

    starting ── all of a batch ready ──► probation ── stood it without traffic ──► soaking ── served well ──► committed
        │                                    │                                        │
        └──────── one failed ────────────────┴──► refused (10)                        └──► rolled back (11)

Until it is committed the old generation is untouched: that is the rollback, and it needs no code from disk.  With a
surge smaller than the fleet the new generation comes in batches, each through the same three phases, and old workers
make room for the next one; those cannot be brought back, which a reload says.

This module knows no processes and no clock.  The `supervisor` tells it what it sees and does what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from attrs import Factory, define, frozen

from .plan import Goal


class Phase(Enum):
    """Where a reload stands."""

    STARTING = "starting"
    PROBATION = "probation"
    SOAKING = "soaking"
    COMMITTED = "committed"
    REFUSED = "refused"
    ROLLED_BACK = "rolled back"
    OUT_OF_TIME = "out of time"


STATUS = {Phase.COMMITTED: 0, Phase.REFUSED: 10, Phase.ROLLED_BACK: 11, Phase.OUT_OF_TIME: 12}
"""The exit status of `rrmaster reload`; a phase that is not here has none yet."""

BUSY = 13
"""The status when another reload runs."""


@frozen
class Trial:
    """What a new generation has to stand, in seconds."""

    probation: float = 2.0
    """Alive and probed, without traffic: most bad code that starts at all dies in its first seconds."""
    soak: float = 2.0
    """With its fair share of the traffic, beside the old."""
    timeout: float = 600.0
    """For the whole reload.  Kubernetes' progressDeadlineSeconds."""


@define(eq=False)
class Rollout:
    """One reload, from the first new worker to its end."""

    generation: int
    before: Goal
    """What to go back to."""
    trial: Trial
    began: float
    batch: int
    """How many new workers come at once."""
    phase: Phase = Phase.STARTING
    since: float = 0.0
    """When the phase began."""
    ready: int = 0
    """How many of the present batch are ready."""
    approved: int = 0
    """How many of the new generation have stood it all."""
    reason: str = ""
    """Why it failed."""
    lines: list[str] = Factory(list)
    """The progress, for people."""
    tell: Callable[[str], None] = lambda line: None
    is_rollback: bool = False
    """It is to code that has served before, and not to what lies on the disk."""

    @property
    def status(self) -> int | None:
        """The exit status, once there is one."""
        return STATUS.get(self.phase)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.phase in STATUS

    @property
    def expected(self) -> int:
        """How many new workers the present batch brings the generation to."""
        return min(self.approved + self.batch, self.before.size)

    @property
    def progress(self) -> float:
        """How far it has come, from 0 to 1: half of it is to get everybody ready."""
        share = {Phase.STARTING: 0.5 * self.ready / self.batch, Phase.PROBATION: 0.5, Phase.SOAKING: 0.75}
        size = self.before.size
        return (self.approved + share.get(self.phase, 0.0) * (self.expected - self.approved)) / size if size else 1.0

    def due(self) -> float:
        """When to look again, whatever happens."""
        last = self.began + self.trial.timeout
        if self.phase is Phase.PROBATION:
            return min(self.since + self.trial.probation, last)
        if self.phase is Phase.SOAKING:
            return min(self.since + self.trial.soak, last)
        return last if not self.over else float("inf")

    def advance(self, now: float, ready: int, serving: int) -> bool:
        """Take the next step if it is time: `ready` new workers stand without traffic, `serving` serve.

        True if the phase changed: the supervisor then does what the new phase says.
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
        """One of the new generation is ready."""
        self.ready += 1
        self.say(f"{name} is ready")

    def fail(self, why: str, now: float) -> None:
        """One of the new generation has failed."""
        if self.over:
            return
        if self.phase is Phase.SOAKING or self.approved > 0:
            self._give_up(Phase.ROLLED_BACK, now, "rolled back", why)
        else:
            self._give_up(Phase.REFUSED, now, "refused, no client saw the new code", why)

    def say(self, line: str) -> None:
        """Progress."""
        self.lines.append(line)
        self.tell(line)

    def _approve(self, now: float) -> None:
        self.approved, self.ready = self.expected, 0
        if self.approved >= self.before.size:
            self._enter(Phase.COMMITTED, now, f"committed: generation {self.generation} serves alone")
        else:
            self._enter(Phase.STARTING, now, f"{self.approved} of {self.before.size} are good, the next ones start")

    def _give_up(self, phase: Phase, now: float, line: str, why: str) -> None:
        """The reason stands apart from the progress: it may be a traceback, and whoever watches gets it with the end.
        The log has both from the supervisor, as an error."""
        self.phase, self.since, self.reason = phase, now, why
        self.lines.append(line)

    def _wait(self, name: str) -> str:
        seconds: float = getattr(self.trial, name)
        return f"{name} of {seconds:g} s" if seconds else f"no {name}"

    def _enter(self, phase: Phase, now: float, line: str) -> None:
        self.phase, self.since = phase, now
        self.say(line)
