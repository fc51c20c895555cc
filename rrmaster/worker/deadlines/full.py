"""What holds a worker's places, when every place is taken?  A line says it, once a minute."""

from __future__ import annotations

import sys
from collections.abc import Callable

from attrs import define

from ..duty import Duty
from .law import WORDS, Deadlines

SAY_EVERY_S = 60.0
"""Seconds between two lines while every place is taken."""


@define(eq=False)
class FullLog:
    """Writes the line."""

    write: Callable[[str], object] = sys.stderr.write
    _said: float | None = None

    def is_full(self, duty: Duty, deadlines: Deadlines) -> bool:
        """Whether the worker has no place for another connection: at its limit, or out of descriptors."""
        return duty.open >= deadlines.places or not duty.has_descriptors

    def looked(self, full: bool, duty: Duty, deadlines: Deadlines, closed: int, now: float) -> None:
        """A look has been made, upon which this many connections are closed."""
        if not full or (self._said is not None and now - self._said < SAY_EVERY_S):
            return
        self._said = now
        limit = f"--worker-connections {deadlines.places}" if duty.has_descriptors else "the limit of descriptors"
        held = [f"{deadlines.counts[one]} {words}" for one, words in WORDS.items() if deadlines.counts[one]]
        others = duty.open - sum(deadlines.counts)
        held += [f"{others} are others, such as websockets"] if others > 0 else []
        said = f"of {duty.open}, {', '.join(held)}; {closed} that have said least are closed" if held else "it has none"
        self.write(f"every place is taken ({limit}), and no connection is accepted for this worker: {said}\n")
