"""How much may the first workers of a fleet have in hand while the others are about to serve?

The clients of a server that was away wait in the backlog, or come back, while its workers start.  The worker that is
ready first could have them all within milliseconds, and would keep those that stay (websockets, kept connections): 120
clients on 4 workers came to [8, 112].  So it gets its fair share of those that are here, and the rest wait in the
backlog for the others, for a moment.

What a client loses: if it comes in the first seconds of a fleet, and each worker that serves already has `AT_ONCE` and
its share, then it waits for another worker, and for no longer than `COLD_START_S`, or twice that if another comes
meanwhile.  The first clients never wait.

This module knows numbers.  Time is an argument.
"""

from __future__ import annotations

from math import ceil

COLD_START_S = 1.0
"""Seconds for which the next worker is waited for.  Workers of one template serve within milliseconds of each other,
and those of small imports too; for one that takes many seconds no client should wait."""

AT_ONCE = 4
"""What each worker may have in hand in any case, so that a few users wait for no worker but the first.  A difference of
4 connections is soon even."""


def cold_until(first: float, now: float) -> float:
    """The end of a cold start, if a worker serves from now on, and the first one from `first` on."""
    return min(now + COLD_START_S, first + 2 * COLD_START_S)


def fair_share(in_hand: int, waiting: int, size: int) -> int:
    """What one worker of `size` may have in hand: of all that workers have, and of what waits in the backlogs."""
    return max(ceil((in_hand + waiting) / size), AT_ONCE)
