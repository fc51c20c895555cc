"""Could a request begin in this worker, or is all taken of what requests wait for: threads, above all?

The loop of a worker may be well while a request waits, for none of the worker's threads is free.  Its connections may
even be few, since the clients of requests that hang have left.  So a worker *reports* that it is full, and while
another is not, connections go there.
"""

from __future__ import annotations

import sys
import traceback
from typing import Protocol

from attrs import Factory, define


class Limiter(Protocol):
    """Something of which a worker has so much and no more.  trio's and anyio's ``CapacityLimiter`` are such."""

    @property
    def borrowed_tokens(self) -> float:
        """How much of it is taken."""

    @property
    def total_tokens(self) -> float:
        """How much there is of it."""


@define(eq=False)
class Limiters:
    """All that is known to be limited in this worker: by its runtime, and by its application."""

    said: bool = False
    """Whether the application has said that it is full."""
    watched: list[Limiter] = Factory(list)

    def watch(self, limiter: Limiter) -> None:
        """Look at this limiter from now on.  Raises AttributeError or TypeError for what is none."""
        limiter.borrowed_tokens >= limiter.total_tokens  # noqa: B015  # raises what a look at it would raise
        if not any(limiter is known for known in self.watched):
            self.watched.append(limiter)

    def leave_out(self, limiter: Limiter) -> None:
        """Look at this limiter no longer."""
        self.watched = [other for other in self.watched if other is not limiter]

    def set_full(self, full: bool) -> None:
        """The application says that it is full, or no longer."""
        self.said = full

    def all_taken(self) -> bool:
        """Whether all of one of them is taken.  To be called in the loop that serves."""
        if self.said:
            return True
        for limiter in self.watched:
            try:
                if limiter.borrowed_tokens >= limiter.total_tokens:
                    return True
            except Exception:  # the application's own limiter fails: it must not silence this worker's reports
                traceback.print_exc()
                name = type(limiter).__name__
                print(f"a limiter ({name}) has failed, and is not looked at from now on", file=sys.stderr)
                self.leave_out(limiter)
        return False
