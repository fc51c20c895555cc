"""Whether a process may be blamed for its silence, given what it could do meanwhile.

A deadline that only looks at the clock takes a starved machine for sick processes: it kills workers that wait for a
processor, and the replacements cost what the machine lacks.  So time counts only as far as the accused had it: what it
waited for a processor, and what the master waited that would have heard it, is not held against it.

::

    the clock ── less what the accused and the master waited for a processor ──► its own time ──► limit? guilty
        └──────────────────────────────────────────────────────────────────────► `BOUND` limits? guilty

A process that sleeps, is stopped, or waits for a lock waits for no processor, and is found at its limit.  One that runs
in circles on a starved machine looks like one that works there, and is found at the bound.

This module knows no clock and no processes.
"""

from __future__ import annotations

from attrs import frozen

FIRST_LOOK = 1 / 8
"""The part of a limit after which the accused is measured.  Silence of that length is rare, so in ordinary times no
measuring is paid for.  What passed before counts as the accused's own time."""

NEXT_LOOK = 1 / 20
"""The part of a limit that is waited at least before the next look.  What lacks less is not waited for: each process
waits a little for a processor, on any machine."""

BOUND = 10.0
"""Limits on the clock after which a process is guilty whatever it waited: 5 minutes of the default hang timeout.  A
machine on which 500 ms of work take longer serves nothing, and what is stuck there must be found at last."""


@frozen
class Observed:
    """What one process had since its time began, in seconds."""

    passed: float
    """On the clock, without the time for which the master itself was stopped or asleep."""
    measured: float
    """For how much of that time the rest is known."""
    ran: float
    """It ran, with all its threads and children."""
    waited: float
    """They were ready to run, and waited for a processor."""
    delay: float
    """The master waited for one."""
    runnable: bool
    """One of them runs or waits for a processor at this moment, so part of the last stretch is in no account yet."""


def own_time(limit: float, seen: Observed) -> float:
    """How much of the passed time the accused could have used, or slept by its own choice."""
    before = min(seen.passed - seen.measured, FIRST_LOOK * limit)
    own = seen.measured - seen.waited - seen.delay
    if seen.runnable:
        own = min(own, seen.ran)
    return before + max(own, 0.0)


def more_time(limit: float, seen: Observed) -> float:
    """How many seconds to wait before it is judged again; 0: it is guilty."""
    own, to_bound = own_time(limit, seen), BOUND * limit - seen.passed
    if own >= limit * (1 - NEXT_LOOK) or to_bound <= 0:
        return 0.0
    return min(max(limit - own, NEXT_LOOK * limit), to_bound)
