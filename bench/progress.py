"""Progress on stderr: one line for each step, with its result and the time since the start."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_start = time.monotonic()


def _clock() -> str:
    minutes, seconds = divmod(int(time.monotonic() - _start), 60)
    return f"[{minutes:2}:{seconds:02}]"


def tell(words: str) -> None:
    """Print a line."""
    print(f"{_clock()} {words}", file=sys.stderr, flush=True)


@contextmanager
def step(words: str) -> Iterator[Callable[[str], None]]:
    """Print a step when it begins; the block is given a function that prints its result."""
    print(f"{_clock()} {words}", end="", file=sys.stderr, flush=True)
    found: list[str] = []
    try:
        yield found.append
    finally:
        print(f": {', '.join(found)}" if found else "", file=sys.stderr, flush=True)
