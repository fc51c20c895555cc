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


@define
class Wear:
    """The state of one worker with respect to its limits."""

    limits: Limits
    over_memory: int = 0
    """Samples in a row above the memory limit."""

    def reason(self, served: int, age: float, memory: int) -> str:
        """Why the worker must be replaced, or an empty text.  Called once for each sample."""
        limits = self.limits
        self.over_memory = self.over_memory + 1 if limits.memory and memory > limits.memory else 0
        if limits.requests and served >= limits.requests:
            return f"it has served {served} (--max-requests)"
        if limits.age and age >= limits.age:
            return f"it is {age:.0f} s old (--max-age)"
        if self.over_memory >= SAMPLES:
            return f"it has grown to {memory >> 20} MiB (--max-memory)"
        return ""
