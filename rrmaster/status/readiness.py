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
    taking = sum(map(_takes, snapshot.workers))
    needed = when.needed(snapshot.size)
    return "" if taking >= needed else f"{taking} of {snapshot.size} workers take connections, and {needed} must"


STUCK_MS = 1_000
"""Milliseconds by which a report is overdue from which its worker counts as one that takes no connections.  A loop is
blocked for some milliseconds by many a request; a fleet that is only busy must stay ready, or a load balancer gives its
share to others, which are then busier.  How late a loop was before does not count: it may be well again."""


def _takes(worker: WorkerStatus) -> bool:
    """Whether a worker would serve a new connection soon."""
    return worker.state == "serving" and worker.taking and (worker.overdue_ms or 0) < STUCK_MS
