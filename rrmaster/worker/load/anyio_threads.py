"""How many threads of anyio's are taken, on asyncio?

FastAPI's and Starlette's ``def`` endpoints take them from the default limiter of the loop, whose size a program may
change at any time.  (On trio it is trio's own.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from attrs import define

from .limiters import Limiters

_IN_USE = "anyio._backends._asyncio"
"""The module that anyio loads at its first use on asyncio.  Until then there is no limiter, and a worker whose
application does not use anyio does not load it."""


@define(eq=False)
class AnyioThreads:
    """Stands for anyio's default limiter of the loop until there is one, which then takes its place."""

    limiters: Limiters
    spawn: Callable[[Any], object]
    """Starts a task in the loop: only in a task anyio knows which loop is meant."""
    total_tokens: float = 1
    _finding: object = None
    """The task, kept because asyncio keeps no reference to it."""

    @property
    def borrowed_tokens(self) -> float:
        """None: anyio has started no thread."""
        if self._finding is None and _IN_USE in sys.modules:
            self._finding = self.spawn(self._find())
        return 0

    async def _find(self) -> None:
        from anyio import to_thread

        self.limiters.leave_out(self)
        self.limiters.watch(to_thread.current_default_thread_limiter())
