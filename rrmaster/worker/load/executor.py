"""How many threads of ``asyncio.to_thread`` are taken?

It takes them from the loop's executor, which does not say; and on uvloop the loop does not say which executor it is.
So a worker sets one that does, before the application starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class CountedThreads(ThreadPoolExecutor):
    """asyncio's usual executor, with its usual size, as a `Limiter`."""

    def __init__(self) -> None:
        cpus: int | None = getattr(os, "process_cpu_count", os.cpu_count)()
        self.total_tokens = min(32, (cpus or 1) + 4)  # the default of ThreadPoolExecutor
        super().__init__(self.total_tokens, "asyncio")
        self._unfinished: set[Future[Any]] = set()

    @property
    def borrowed_tokens(self) -> int:
        """Calls that run, or wait for a thread."""
        return len(self._unfinished)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a thread call this function."""
        future = super().submit(fn, *args, **kwargs)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)  # in that thread, or here if it is done
        return future
