"""What happened in the last ten minutes?  One sample a second of the counters, from which rates and curves are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise

from attrs import Factory, define, frozen

from ...status.model import Snapshot

KEPT = 600
"""Samples: ten minutes of one a second."""


@frozen
class Sample:
    """The numbers of one moment."""

    time: float
    """Seconds, of the master's clock."""
    accepted: int
    requests: int
    """Requests finished, of all workers that there ever were."""
    open: int
    busy: int
    backlog: int
    crashes: int
    """Workers that have ended by themselves, or were never ready."""
    p50: float
    """Seconds that half of the requests of the last seconds took at most; 0 without any."""
    p99: float

    @classmethod
    def of(cls, s: Snapshot) -> Sample:
        """The sample of a snapshot."""
        return cls(
            s.uptime_s,
            s.accepted,
            sum(slot.requests for slot in s.totals.slots) + sum(worker.requests or 0 for worker in s.workers),
            s.open_by_worker(),
            sum(worker.busy or 0 for worker in s.workers),
            sum(listener.queued or 0 for listener in s.listeners),
            sum(number for how, number in s.totals.exits.items() if how not in ("asked", "killed")),
            s.latency_p50_s or 0.0,
            s.latency_p99_s or 0.0,
        )


@define(eq=False)
class History:
    """The samples of one master, the oldest first."""

    samples: deque[Sample] = Factory(lambda: deque(maxlen=KEPT))

    def add(self, snapshot: Snapshot) -> None:
        """Keep a sample; those of a master before this one are dropped."""
        sample = Sample.of(snapshot)
        if self.samples and sample.time < self.samples[-1].time:
            self.samples.clear()
        self.samples.append(sample)

    def growth(self, count: Callable[[Sample], int], seconds: int) -> int:
        """The growth of a count in the last seconds."""
        recent = [sample for sample in self.samples if sample.time >= self.samples[-1].time - seconds]
        return count(recent[-1]) - count(recent[0]) if recent else 0

    def rates(self, count: Callable[[Sample], int]) -> list[float]:
        """The growth of a count in each second; the first sample has none."""
        samples = list(self.samples)
        return [
            max(count(after) - count(before), 0) / max(after.time - before.time, 0.001)
            for before, after in pairwise(samples)
        ]

    def values(self, value: Callable[[Sample], float]) -> list[float]:
        """A value at each second."""
        return [float(value(sample)) for sample in self.samples]


WIDTH, HEIGHT = 600, 60
"""Units of a curve: one for each second, and as many as a row of text is high, three times."""


def curve(values: Sequence[float], most: float) -> str:
    """The points of an SVG polyline, the newest at the right; `most` is at the top."""
    values = values[-WIDTH:]
    left = WIDTH - len(values)
    return " ".join(
        f"{left + place},{HEIGHT - HEIGHT * min(value / most, 1.0) if most else HEIGHT:.1f}"
        for place, value in enumerate(values)
    )
