"""When a worker without a fault is replaced all the same: it has served, lived or grown enough.

Limits vary by `JITTER` from worker to worker, so that workers that started together are not replaced together.  They
are replaced one at a time in any case, each once its replacement serves.  This module knows no clock; randomness is an
argument.
"""

from __future__ import annotations

from attrs import define, frozen

JITTER = 0.1
"""The share by which the limits of one worker differ from the configured ones, up and down (gunicorn has the same for
requests, for the same reason)."""

SAMPLES = 3
"""Reports in a row above the memory limit.  One is a peak that is about to be freed."""


@frozen
class Limits:
    """The limits of a worker; 0: no limit.  All are options, whose defaults stand in `Settings`."""

    requests: int
    age: float
    """Seconds."""
    memory: int
    """Bytes of resident memory."""

    def with_jitter(self, chance: float) -> Limits:
        """The limits of one worker.  `chance` is a random number from 0 to 1."""
        factor = 1 + JITTER * (2 * chance - 1)
        # Memory has no jitter: it is the machine's limit, not a matter of habit.
        return Limits(max(round(self.requests * factor), 1) if self.requests else 0, self.age * factor, self.memory)


EARLY_S = 30.0
"""Seconds of serving.  A worker above the memory limit so soon has not leaked: its application is that large."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 600.0
"""Seconds between replacements for memory while those come early: each pause is twice the one before.  A leak that
fills the limit within 30 s, every time, still has its worker replaced every 10 minutes."""


@define
class MemoryPace:
    """How often the workers of one fleet are replaced for their memory.

    With a limit below the application's own size every replacement would be above it as well, and the fleet would start
    a worker each second for ever, which costs more than the memory.
    """

    pause: float = 0.0
    """Seconds until the next replacement; 0 while they do not come early."""
    _not_before: float = float("-inf")

    def may_replace(self, now: float, age: float) -> bool:
        """Whether a worker that was above the limit after `age` seconds may be replaced now; takes note of a yes."""
        if now < self._not_before:
            return False
        longer = min(max(2 * self.pause, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self.pause = longer if age < EARLY_S else 0.0
        self._not_before = now + self.pause
        return True


@define
class Wear:
    """The state of one worker with respect to its limits."""

    limits: Limits
    pace: MemoryPace
    """The fleet's."""
    early: bool = False
    """Whether it must be replaced for memory that it had from the start."""
    over_memory: int = 0
    """Samples in a row above the memory limit."""
    _above_at: float = 0.0
    """Its age when it was above the limit for `SAMPLES`; it may wait for its replacement longer than that."""

    def reason(self, served: int, age: float, memory: int, now: float) -> str:
        """Why the worker must be replaced, or an empty text.  Called once for each sample."""
        limits = self.limits
        self.over_memory = self.over_memory + 1 if limits.memory and memory > limits.memory else 0
        if limits.requests and served >= limits.requests:
            return f"it has served {served} (--max-requests)"
        if limits.age and age >= limits.age:
            return f"it is {age:.0f} s old (--max-age)"
        if self.over_memory == SAMPLES:
            self._above_at = age
        if self.over_memory >= SAMPLES and self.pace.may_replace(now, self._above_at):
            self.early = self._above_at < EARLY_S
            return f"it has grown to {memory >> 20} MiB (--max-memory){self._if_early()}"
        return ""

    def _if_early(self) -> str:
        if not self.early:
            return ""
        above, pause = f"{self._above_at:.0f} s", f"{self.pace.pause:.0f} s"
        needs = f" in its first {above}, so the limit is below what the application needs"
        return f"{needs}; the next one is replaced in {pause} at the earliest"
