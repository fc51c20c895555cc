"""What has a fleet shown since `top` was started: past values for sparklines, and rates between two refreshes?"""

from __future__ import annotations

from collections import deque

from attrs import Factory, define

from ...status.model import Snapshot, WorkerStatus

REFRESHES = 120
"""Refreshes that are remembered: two minutes, and the widest sparkline."""


@define
class Rate:
    """How fast a count grows: its growth a second between the last two refreshes."""

    now: float = 0.0
    _count: int | None = None
    _time: float = 0.0

    def record(self, count: int | None, time: float) -> None:
        """Add the count of one refresh; None, an unknown one, changes nothing."""
        if count is None:
            return
        if self._count is not None and time > self._time:
            self.now = max(count - self._count, 0) / (time - self._time)
        self._count, self._time = count, time


def _recent() -> deque[float]:
    return deque(maxlen=REFRESHES)


@define
class WorkerHistory:
    """The values that one worker has shown so far."""

    open: deque[float] = Factory(_recent)
    lag: deque[float] = Factory(_recent)
    cpu_us: Rate = Factory(Rate)
    requests: Rate = Factory(Rate)

    def record(self, worker: WorkerStatus, time: float) -> None:
        """Add the values of one refresh."""
        self.open.append(worker.open)
        self.lag.append(worker.lag_us or 0)
        self.cpu_us.record(worker.cpu_us, time)
        self.requests.record(worker.requests, time)

    @property
    def cpu(self) -> float:
        """Share of one processor."""
        return self.cpu_us.now / 1e6


@define
class FleetHistory:
    """The same of all workers."""

    workers: dict[int, WorkerHistory] = Factory(dict)
    """By worker id."""
    accepted: Rate = Factory(Rate)
    requests: Rate = Factory(Rate)

    def record(self, snapshot: Snapshot) -> None:
        """Add the snapshot of one refresh.  Workers that have gone are forgotten."""
        self.accepted.record(snapshot.accepted, snapshot.time)
        ended = sum(slot.requests for slot in snapshot.totals.slots)
        self.requests.record(ended + sum(worker.requests or 0 for worker in snapshot.workers), snapshot.time)
        present = {worker.id for worker in snapshot.workers}
        for gone in self.workers.keys() - present:
            del self.workers[gone]
        for worker in snapshot.workers:
            self.workers.setdefault(worker.id, WorkerHistory()).record(worker, snapshot.time)

    @property
    def most_open(self) -> float:
        """The most open connections that a worker of now has had."""
        return max((max(history.open) for history in self.workers.values()), default=0.0)

    @property
    def most_lag(self) -> float:
        """The longest lag that a worker of now has had, in microseconds."""
        return max((max(history.lag) for history in self.workers.values()), default=0.0)
