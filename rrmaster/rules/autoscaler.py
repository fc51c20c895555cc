"""How many workers there should be, between two bounds, for the share of them that is busy.

The rule and its names are the Kubernetes horizontal pod autoscaler's: desired = ceil(current x share / target), no
change within a tolerance, and *stabilisation*: of the recommendations of the last while the one that changes least is
followed, so that a quiet moment does not take away what the next one needs.  This module knows no clock.
"""

from __future__ import annotations

import math
from collections import deque

from attrs import Factory, define, frozen

TOLERANCE = 0.1
"""Kubernetes' --horizontal-pod-autoscaler-tolerance."""

SYNC_S = 1.0
"""Seconds between samples; a pod takes half a minute to start, a worker half a second."""


@frozen
class Scaling:
    """What was asked for."""

    least: int
    most: int
    target: float = 0.7
    """The share of workers that should be busy."""
    up_window: float = 3.0
    """Seconds of stabilisation before growing: one burst is no trend."""
    down_window: float = 300.0
    """Seconds before shrinking; Kubernetes' default."""


@define
class Autoscaler:
    """Watches the share of busy workers."""

    scaling: Scaling
    _recommended: deque[tuple[float, int]] = Factory(deque)

    def sample(self, now: float, current: int, share: float) -> int:
        """How many there should be, after this look: `share` of the `current` workers are busy."""
        chosen = self.scaling
        ratio = share / chosen.target
        wanted = current if abs(ratio - 1) <= TOLERANCE else math.ceil(current * ratio)
        wanted = min(max(wanted, chosen.least), chosen.most)
        self._recommended.append((now, wanted))
        while self._recommended[0][0] < now - max(chosen.up_window, chosen.down_window):
            self._recommended.popleft()
        lowest = min(n for at, n in self._recommended if at >= now - chosen.up_window)
        highest = max(n for at, n in self._recommended if at >= now - chosen.down_window)
        size = min(max(current, lowest), highest)
        return min(max(size, chosen.least), chosen.most)
