"""When is an idle connection parked?  At once where the next request would wait here; else after it has rested a while.

To park a connection and take it up again costs some 150 us of processor time in all, and as much of the next answer's
time again, since that passes through two more processes (`PRICE_S`).  What it saves is the wait behind requests that
hold this worker's loop: a request that comes at a random moment finds a hold of h seconds with the probability h of
each second, and waits half of it.  So over T seconds the *expected wait* is the sum of h * h / 2, divided by T: the
same holds, cut in pieces, would cost nothing.

    a hold of 100 ms each second     5 ms      parked at once
    turns of 5 ms without a pause    2.5 ms, but each of 50 requests has held the loop for 0.1 ms: not parked
    a hold of 1 s in an hour         parked at once for the next half minute, and then forgotten

- A turn of the loop that was late says how long something held it.  What it waited for a processor is no hold, because
  elsewhere a request would wait as long; and a turn in which many requests ended was held by all of them together.
- Where all threads are taken, requests that come to this worker wait: parked at once (WSGI, mostly).
- Where `--worker-connections` gives a worker few places (`FEW`), a connection that rests would hold one of them:
  parked at once.  So the option limits requests, and the fleet is one queue.
- In a drain, and for a moment after a new worker has begun: parked at once.
- Elsewhere `--park-after` decides, and connections that are hot, each asking again before that time, pay nothing.

Nothing here is known of other workers: a connection is as safe here as this worker is quick, and to which worker its
next request goes is the master's choice.
"""

from __future__ import annotations

import math

from attrs import define

PRICE_S = 0.0005
"""Seconds that a request pays for the parking before it (measured: 0.4 ms at the median, and its share of the load)."""

MEMORY_S = 10.0
"""Seconds over which holds are averaged.  Shorter, and a fleet with a hold each few seconds forgets between them."""

SPREAD_S = 1.0
"""Seconds in which the others park at once when a new worker has begun: it gets its share of hot connections."""

FEW = 64
"""Places of a worker that are few: a proxy keeps as many connections, and none may hold a place while it rests."""

LATE_S = 0.005
"""Seconds by which a turn must be late to count: less is the ordinary work of a turn."""


@define(eq=False)
class ParkingLaw:
    """What is known of this worker's loop.  Times are those of one clock."""

    after: float
    """`--park-after`, in seconds."""
    places: int = FEW + 1
    """`--worker-connections`."""
    _sum: float = 0.0
    """Seconds squared: the sum of h * h / 2, as of `_at`."""
    _at: float = 0.0
    _spread_until: float = float("-inf")
    draining: bool = False
    """Whether this worker leaves."""

    def looked(self, late: float, waited: float, requests: int, now: float) -> None:
        """A look at the loop came `late`, of which this process waited for a processor; so many requests have ended."""
        held = (late - waited) / max(requests, 1)
        if held >= LATE_S:
            self._sum = self._decayed(now) + held * held / 2
            self._at = now

    def expected_wait(self, now: float) -> float:
        """Seconds that a request waits here on average, if it comes at a random moment."""
        return self._decayed(now) / MEMORY_S

    def _decayed(self, now: float) -> float:
        return self._sum * math.exp(-(now - self._at) / MEMORY_S) if self._sum else 0.0

    def spread(self, now: float) -> None:
        """A new worker has begun."""
        self._spread_until = now + SPREAD_S

    def drain(self) -> None:
        """This worker leaves."""
        self.draining = True

    def at_once(self, now: float, full: bool) -> bool:
        """Whether a connection is parked as soon as it rests.  `full`: all threads are taken."""
        if self.draining or full or self.after == 0 or self.places <= FEW or now < self._spread_until:
            return True
        return self.expected_wait(now) > PRICE_S
