"""Whether new code answers, as its soak shows beside the code that served before.

A handler that takes its connections and never finishes one neither crashes nor falls silent: only a comparison tells.
The old code is measured from the beginning of the reload, the new code while it soaks.  By Little's law, the mean time
of an answer is what the old code had in hand, summed over time, divided by what it finished meanwhile.

The new code hangs if it finished nothing at all, has something in hand, and had connections for `PATIENCE` such times,
half of the soak and `LEAST_S`.  What it waited for a processor meanwhile does not count.  Where the old code finishes
nothing either (websockets, streams), or seldom, that says nothing.

This module knows no clock and no processes.  Reports carry no status of answers, so errors are not compared.
"""

from __future__ import annotations

from attrs import define, frozen

PATIENCE = 5.0
"""Mean times of an answer.  Of answers with one exponential distribution, 0.7 % take longer."""

LEAST_S = 0.5
"""Seconds.  The first request of a process may load what later ones find, as Django does with URLs and templates: a
shorter soak proves no hang."""

LOOKS = 10
"""Looks in one soak: what began and ended between two of them is seen in the counts alone."""


@frozen
class Seen:
    """The workers of one side at one moment."""

    finished: int = 0
    """Requests, or connections of a stream handler, finished since the side was first looked at."""
    in_hand: int = 0
    """Requests or such connections in progress."""
    connections: int = 0
    """Open connections, idle ones too."""


@define
class Evidence:
    """What the looks at both sides have shown so far."""

    _last: float | None = None
    _old: Seen = Seen()
    _new: Seen = Seen()
    _held: float = 0.0
    """Seconds of answers that the old code had in hand, summed over all of them."""
    _given: float | None = None
    """When the new code was first seen with a connection in this soak."""
    _busy_looks: int = 0
    """Looks in a row at which the new code had something in hand."""
    _starved: float = 0.0
    """Seconds for which it waited for a processor since it was given a connection."""

    def look(self, now: float, old: Seen, new: Seen, starved: float = 0.0) -> None:
        """Take note of both sides.  `starved`: seconds since the last look for which the new one lacked a processor."""
        if self._last is not None:
            self._held += max(old.in_hand, self._old.in_hand) * (now - self._last)
            self._starved += min(starved, now - self._last) if self._given is not None else 0.0
        self._busy_looks = self._busy_looks + 1 if new.in_hand else 0
        if self._given is None and new.connections:
            self._given = now
        self._last, self._old, self._new = now, old, new

    def soak_begins(self) -> None:
        """What connections the new code has is counted from now on: another batch of workers soaks."""
        self._given, self._busy_looks, self._starved = None, 0, 0.0

    def hangs(self, now: float, soak: float) -> str:
        """Why the new code is taken to hang, or an empty text.  Called at the end of a soak of this many seconds."""
        old, new = self._old, self._new
        if new.finished or self._given is None or self._busy_looks < 2 or not old.finished:
            return ""
        waited, usual = now - self._given - self._starved, self._held / old.finished
        if waited < max(soak / 2, PATIENCE * usual, LEAST_S):
            return ""
        return (
            f"the new code had connections for {waited:.1f} s and finished nothing, with {new.in_hand} in hand; "
            f"beside it the old code finished {old.finished}, in {_seconds(usual)} each"
        )

    def remark(self) -> str:
        """What a good end of the soak leaves open, or an empty text."""
        if not self._new.finished and self._given is None:
            return "no connection came in the soak: how the new code answers is not known"
        if not self._new.finished:
            return "the new code finished nothing in the soak, which is too little to compare"
        return ""


def _seconds(seconds: float) -> str:
    return "under 1 ms" if seconds < 0.001 else f"about {seconds:.3g} s"
