"""How several servers are measured at the same time, and how all measurements end together.

Ctrl-C reaches the main thread alone.  The other threads see it at their next `pause` (they wait in no other way), and
unwind, so that each ends the servers that it has started.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

_over = threading.Event()


class Over(RuntimeError):
    """The run has been interrupted."""


def pause(seconds: float = 0.0) -> None:
    """Wait for this many seconds.  Raises Over."""
    if _over.wait(seconds):
        raise Over("interrupted")


@contextmanager
def at_once(count: int, tasks: Iterable[Callable[[], Result]]) -> Iterator[list[Future[Result]]]:
    """Run the tasks in threads, `count` at a time.  An exception in the block interrupts those that run."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield [pool.submit(task) for task in tasks]
        except BaseException:
            _over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
