"""When a worker that does nothing wrong is to be replaced all the same: it has served, lived or grown enough.

Limits vary by `JITTER` from worker to worker, so that those who started together do not go together; they go one at a
time in any case, each when its replacement serves.  This module knows no clock; randomness is an argument.
"""

from __future__ import annotations

from attrs import define, frozen

JITTER = 0.1
"""The share by which the limits of one worker differ from what was asked for, up and down (gunicorn has the same in
requests, for the same reason)."""

SAMPLES = 3
"""Reports in a row above the memory limit.  One is a peak that is about to be freed."""


@frozen
class Limits:
    """What is enough; 0: no limit."""

    requests: int = 0
    age: float = 0.0
    """Seconds."""
    memory: int = 0
    """Bytes of resident memory."""

    def with_jitter(self, dice: float) -> Limits:
        """One worker's own limits.  `dice` is a random number from 0 to 1."""
        factor = 1 + JITTER * (2 * dice - 1)
        # Memory has no jitter: it is the machine's limit, not a matter of habit.
        return Limits(max(round(self.requests * factor), 1) if self.requests else 0, self.age * factor, self.memory)


@define
class Wear:
    """How one worker stands against its limits."""

    limits: Limits
    over_memory: int = 0

    def reason(self, served: int, age: float, memory: int) -> str:
        """Why it is to be replaced, or nothing.  Called once for each sample."""
        limits = self.limits
        self.over_memory = self.over_memory + 1 if limits.memory and memory > limits.memory else 0
        if limits.requests and served >= limits.requests:
            return f"it has served {served} (--max-requests)"
        if limits.age and age >= limits.age:
            return f"it is {age:.0f} s old (--max-age)"
        if self.over_memory >= SAMPLES:
            return f"it has grown to {memory >> 20} MiB (--max-memory)"
        return ""
