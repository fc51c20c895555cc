"""When is an idle connection parked?  At once where the next request would wait here; else after it has rested a while.

To park a connection and take it up again costs some 150 us of processor time in all, and as much of the next answer's
time again, since that passes through two more processes (`PRICE_S`).  What it saves is the wait behind requests that
hold this worker's loop: a request that comes at a random moment finds a hold of h seconds with the probability h of
each second, and waits half of it.  So over T seconds the *expected wait* is the sum of h * h / 2, divided by T: the
same holds, cut in pieces, would cost nothing.

    a hold of 100 ms each second     5 ms      parked at once
    turns of 5 ms without a pause    2.5 ms, but each of 50 requests has held the loop for 0.1 ms: not parked
    a hold of 100 ms, and behind it  5 ms: the others have taken what requests take here on average
    three others in the same turn
    a hold of 1 s in an hour         parked at once for the next half minute, and then forgotten

- A turn of the loop that was late says how long something held it.  What it waited for a processor is no hold, because
  elsewhere a request would wait as long.  Nor is the ordinary work of a turn in which many requests ended: what they
  cost is what a request costs here on average, by the processor time of the last seconds.  The rest is one hold.
- Where all threads are taken, requests that come to this worker wait: parked at once.  Not so for WSGI unless the user
  has asked for parking: where the processors are the limit, all threads of all workers are taken, and another worker
  is no quicker.
- Where `--worker-connections` gives a worker few places (`FEW`), a connection that rests would hold one of them:
  parked at once.  So the option limits requests, and the fleet is one queue.  Where each place has a thread, requests
  on connections that rest here wait for nothing: at once only while more than half of the places are taken.
- In a drain, and for a moment after a new worker has begun: parked at once.
- Elsewhere `--park-after` decides, and connections that are hot, each asking again before that time, pay nothing.

Nothing here is known of other workers: a connection is as safe here as this worker is quick, and to which worker its
next request goes is the master's choice.
"""

from __future__ import annotations

import math

from attrs import define

from ..load.places import FEW

PRICE_S = 0.0005
"""Seconds that a request pays for the parking before it (measured: 0.4 ms at the median, and its share of the load)."""

MEMORY_S = 10.0
"""Seconds over which holds are averaged.  Shorter, and a fleet with a hold each few seconds forgets between them."""

SPREAD_S = 1.0
"""Seconds in which the others park at once when a new worker has begun: it gets its share of hot connections."""

LATE_S = 0.005
"""Seconds by which a turn must be late to count: less is the ordinary work of a turn."""


@define(eq=False)
class ParkingLaw:
    """What is known of this worker's loop.  Times are those of one clock."""

    after: float
    """`--park-after`, in seconds."""
    places: int = FEW + 1
    """`--worker-connections`."""
    threaded: bool = False
    """Whether there is a thread for each place."""
    waits: bool = False
    """Whether connections stay here though all threads are taken."""
    _sum: float = 0.0
    """Seconds squared: the sum of h * h / 2, as of `_at`."""
    _at: float = 0.0
    _ran: float = 0.0
    """Seconds of processor time of this thread, with the same memory, ..."""
    _requests: float = 0.0
    """... and the requests that have ended in that time."""
    _looked_at: float = 0.0
    _spread_until: float = float("-inf")
    draining: bool = False
    """Whether this worker leaves."""

    def looked(self, late: float, waited: float, ran: float, requests: int, now: float) -> None:
        """A look at the loop came `late`; its thread has `waited` for a processor and `ran`, and `requests` have ended.

        All since the look before.
        """
        kept = math.exp((self._looked_at - now) / MEMORY_S)
        self._looked_at = now
        self._ran, self._requests = self._ran * kept + ran, self._requests * kept + requests
        others = max(requests - 1, 0) * self._ran / max(self._requests, 1.0)
        held = late - waited - others
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

    def at_once(self, now: float, full: bool, connections: int = 0) -> bool:
        """Whether a connection is parked as soon as it rests.  `full`: all threads are taken."""
        if full and not self.waits:
            return True
        if self.draining or self.after == 0 or now < self._spread_until or self.is_short(connections):
            return True
        return self.expected_wait(now) > PRICE_S

    def is_short(self, connections: int) -> bool:
        """Whether places are short, when so many connections are here."""
        return 2 * connections > self.places if self.threaded else self.places <= FEW
