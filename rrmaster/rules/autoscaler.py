"""How many workers there should be, between two bounds, for the share of them that is busy.

The rule and its names are the Kubernetes horizontal pod autoscaler's: desired = ceil(current x share / target), no
change within a tolerance, and *stabilisation*: of the recommendations within a window, the one that changes least is
followed, so that a quiet moment does not take away what the next one needs.  This module knows no clock.

A worker is busy while it has a request in progress, or a connection in its letterbox.  A kept connection on which
nothing is asked makes no worker busy, wherever it rests.  A worker that tells nothing of requests (a foreign one may
not) is busy while it has a connection.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from attrs import Factory, define, frozen

from ..config.quantities import Between
from ..config.settings import Settings

TOLERANCE = 0.1
"""Share by which the load may miss its target without a change.  Kubernetes' --horizontal-pod-autoscaler-tolerance."""

SYNC_S = 1.0
"""Seconds between samples.  Kubernetes has 15, for pods that take half a minute to start; a worker takes half a
second."""


class Load(Protocol):
    """What is known of a worker's load."""

    @property
    def in_hand(self) -> int:
        """Its connections, and the requests in progress that have none."""

    @property
    def unclaimed(self) -> int:
        """Connections that it has not taken yet."""

    @property
    def busy(self) -> int:
        """Requests in progress, as last reported."""

    @property
    def tells_requests(self) -> bool:
        """Whether it has told of a request, in progress or finished."""


def is_busy(load: Load) -> bool:
    """Whether a worker has something to do."""
    return load.busy + load.unclaimed > 0 if load.tells_requests else load.in_hand > 0


def busy_share(loads: Sequence[Load]) -> float:
    """The share of these workers that are busy, from 0 to 1."""
    return sum(map(is_busy, loads)) / len(loads)


@frozen
class Scaling:
    """The bounds and the target.  All are options, whose defaults stand in `Settings`."""

    least: int
    most: int
    target: float
    """The share of workers that should be busy, from 0 to 1."""
    up_window: float
    """Seconds of stabilisation before the fleet grows."""
    down_window: float
    """Seconds of stabilisation before the fleet shrinks."""


@define
class Autoscaler:
    """The recommendations of the last minutes, and the size that follows from them."""

    scaling: Scaling
    _recommended: deque[tuple[float, int]] = Factory(deque)
    """Times and sizes, oldest first.  No longer than the longer window, at one a second."""

    def sample(self, now: float, current: int, share: float) -> int:
        """The size to have from now on, if `share` of the `current` workers are busy."""
        chosen = self.scaling
        ratio = share / chosen.target
        wanted = current if abs(ratio - 1) <= TOLERANCE else math.ceil(current * ratio)
        wanted = min(max(wanted, chosen.least), chosen.most)
        self._recommended.append((now, wanted))
        while self._recommended[0][0] < now - max(chosen.up_window, chosen.down_window):
            self._recommended.popleft()
        # Grow to what all recommendations of the up window agree on; shrink to what none of the down window exceeds.
        lowest = min(n for at, n in self._recommended if at >= now - chosen.up_window)
        highest = max(n for at, n in self._recommended if at >= now - chosen.down_window)
        size = min(max(current, lowest), highest)
        return min(max(size, chosen.least), chosen.most)


def fleet_size(settings: Settings, cpus: int) -> int:
    """The number of workers to begin with; ``auto`` is one for each of the `cpus` processors."""
    if isinstance(settings.workers, Between):
        return settings.workers.least
    return settings.workers or cpus


def surge_of(settings: Settings, size: int) -> int:
    """The number of workers beyond `size` that may live in a reload.  A share is rounded up; it is at least 1."""
    surge = settings.surge
    return max(math.ceil(size * surge) if isinstance(surge, float) else min(surge, size), 1)


def autoscaler_of(settings: Settings) -> Autoscaler | None:
    """The autoscaler between the bounds of ``--workers LEAST:MOST``; None if the size is fixed."""
    if not isinstance(settings.workers, Between):
        return None
    bounds, windows = settings.workers, (settings.scale_up_window, settings.scale_down_window)
    return Autoscaler(Scaling(bounds.least, bounds.most, settings.target_busy, *windows))
