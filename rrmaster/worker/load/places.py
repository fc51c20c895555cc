"""Does the master believe that a worker has no place left, though one is free?

Where connections are parked, `--worker-connections` is a limit of requests, and those beyond it wait in the idle pool
until a worker says that it is done with one.  A report that comes 2 ms later, as others do, is then 2 ms in which the
worker has nothing to do.  So such a report goes at once.

What the master believes is what was *told*: the connections that are in hand no longer, less the requests that go on
without a connection.  A connection is parked from within the application's last call of `send`, so for a moment its
request is one of these, and the place is free only when the call has returned.
"""

from __future__ import annotations

import time

from attrs import define

FEW = 64
"""Places that are few: a proxy keeps as many connections, and none may hold a place while it rests."""

AHEAD = 8
"""Connections that may lie in the letterbox: the master counts them as in hand, and the worker does not.  The default
of `--window`; with a longer one, a place may be told 2 ms late."""

PER_S = 2500.0
"""Reports at once in a second at most, half of what the master takes for a flood."""


@define(eq=False)
class Places:
    """The places of one worker."""

    most: int = 0
    """What it may have in hand: `--worker-connections`, where that limits requests; otherwise 0."""
    told: int = 0
    """What the last report has told."""
    _left: float = PER_S / 10
    _counted_at: float = 0.0

    @property
    def are_few(self) -> bool:
        """Whether each is told as soon as it is free."""
        return 0 < self.most <= FEW

    def has_told(self, free: int) -> None:
        """A report has gone."""
        self.told = free

    def owes(self, taken: int, free: int) -> bool:
        """Whether a report is due at once: so many were `taken`, and so many of them are `free` again."""
        if not self.most or free <= self.told or taken + AHEAD - self.told < self.most:
            return False
        now = time.monotonic()
        self._left = min(PER_S / 10, self._left + (now - self._counted_at) * PER_S) - 1
        self._counted_at = now
        return self._left >= 0
