"""Is a fleet ready: do enough of its workers take connections now?

The question of a health check (``HEALTHCHECK``, an ``exec`` probe): a yes means that a new connection would be served.
A master that starts, or stops, is not ready.  The word is Kubernetes'; liveness, whether a master answers at all, is
another question.
"""

from __future__ import annotations

from ..config.readiness import ReadyWhen
from .model import Snapshot, WorkerStatus


def why_not_ready(snapshot: Snapshot, when: ReadyWhen) -> str:
    """Why the fleet is not ready; empty if it is."""
    if snapshot.stopping or snapshot.size == 0:
        return "the master is stopping"
    taking = sum(map(takes_connections, snapshot.workers))
    needed = when.needed(snapshot.size)
    return "" if taking >= needed else f"{taking} of {snapshot.size} workers take connections, and {needed} must"


WAITS_MS = 250
"""Milliseconds of silence from which a worker counts as one that takes no connections, if it was handed some that it
has not taken, or is given none before it speaks: a worker that takes one reports it 2 ms later.  A loop is blocked for
some milliseconds by many a request; a fleet that is only busy must stay ready, or a load balancer gives its share to
others, which are then busier."""

STUCK_MS = 1_000
"""Milliseconds by which a report is overdue from which its worker does not count though no connection waits for it.
How late a loop was before does not matter: it may be well again."""


def takes_connections(worker: WorkerStatus) -> bool:
    """Whether a worker would serve a new connection soon."""
    if worker.state != "serving" or not worker.taking or (worker.overdue_ms or 0) >= STUCK_MS:
        return False
    return not (worker.suspended or worker.unclaimed) or (worker.silent_ms or 0) < WAITS_MS
