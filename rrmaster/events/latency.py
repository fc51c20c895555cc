"""How long do requests take at present?  Quantiles of the last seconds, from counts that only ever rise.

Counts since the start answer slowly: after a day of quick requests an hour of slow ones hardly shows.  So what was
counted some seconds ago is kept, and subtracted.  This module knows no clock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from attrs import define

from ..protocol.pages.figures import DURATIONS, NOTHING, Histogram

WINDOW = 5.0
"""Seconds.  Figures are those of the last one to two windows, as with the lag of a worker's loop."""


def quantile(histogram: Histogram, q: float, bounds: Sequence[float] = DURATIONS) -> float | None:
    """The seconds that a share `q` of all observations does not exceed; None if there are none.

    Within a bucket observations are taken to be spread evenly, as Prometheus' ``histogram_quantile`` does; what exceeds
    the last bound counts as that bound.
    """
    up_to = list(accumulate(histogram.counts))
    if not up_to or not up_to[-1]:
        return None
    rank = q * up_to[-1]
    place = bisect_left(up_to, rank) if rank else bisect_right(up_to, 0)
    if place >= len(bounds):
        return bounds[-1]
    below, lower = (up_to[place - 1], bounds[place - 1]) if place else (0, 0.0)
    return lower + (bounds[place] - lower) * (rank - below) / (up_to[place] - below)


@define(eq=False)
class Recent:
    """What was observed in the last one to two windows."""

    _at: float = float("-inf")
    """When the present window began."""
    _then: Histogram = NOTHING
    """What had been counted at that time, ..."""
    _before: Histogram = NOTHING
    """... and when the window before began."""

    def is_due(self, now: float) -> bool:
        """Whether `note` would begin a new window."""
        return now - self._at >= WINDOW

    def note(self, counted: Histogram, now: float) -> None:
        """So much has been counted by now.  Call it whenever it `is_due`."""
        self._before = self._then if now - self._at < 2 * WINDOW else counted
        self._then, self._at = counted, now

    def of(self, counted: Histogram) -> Histogram:
        """What was observed lately, if so much has been counted by now."""
        return counted.since(self._before)
