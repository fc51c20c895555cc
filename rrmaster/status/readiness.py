"""Is a fleet ready: do enough of its workers take connections now?

The question of a health check (``HEALTHCHECK``, an ``exec`` probe): a yes means that a new connection would be served.
A master that starts, or stops, is not ready.  The word is Kubernetes'; liveness, whether a master answers at all, is
another question.
"""

from __future__ import annotations

import math

from attrs import frozen

from .model import Snapshot


@frozen
class ReadyWhen:
    """How many workers must take connections: a number, or a share of the fleet's size."""

    count: int | None = None
    share: float | None = None

    def needed(self, size: int) -> int:
        """The number for a fleet of this size; at least 1."""
        wanted = math.ceil(size * self.share) if self.share is not None else self.count
        return max(wanted or 1, 1)


def parse_ready_when(text: str) -> ReadyWhen:
    """``any``, ``all``, ``3`` or ``50%``.  Raises ValueError."""
    if text in ("any", "all"):
        return ReadyWhen(share=1.0) if text == "all" else ReadyWhen(count=1)
    digits = text.removesuffix("%")
    if digits.isascii() and digits.isdigit():
        number = int(digits)
        if text.endswith("%") and 1 <= number <= 100:
            return ReadyWhen(share=number / 100)
        if not text.endswith("%") and 1 <= number <= 1024:
            return ReadyWhen(count=number)
    raise ValueError(f"{text!r} is not a number of workers; write all, any, N or N%")


def why_not_ready(snapshot: Snapshot, when: ReadyWhen) -> str:
    """Why the fleet is not ready; empty if it is."""
    if snapshot.size == 0:
        return "the master is stopping"
    taking = sum(worker.state == "serving" and worker.taking for worker in snapshot.workers)
    needed = when.needed(snapshot.size)
    return "" if taking >= needed else f"{taking} of {snapshot.size} workers take connections, and {needed} must"
