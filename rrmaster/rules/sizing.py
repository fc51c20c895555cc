"""How many workers do the settings ask for, how many more may live in a reload, and what changes the number?

The number of processors is an argument: this module asks no operating system.
"""

from __future__ import annotations

import math

from ..config.quantities import Between
from ..config.settings import Settings
from .autoscaler import Autoscaler, Scaling


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
