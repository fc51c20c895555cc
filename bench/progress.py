"""What is being measured now: one line for each step on stderr, with what it found and how long the whole has taken."""

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
    """A line."""
    print(f"{_clock()} {words}", file=sys.stderr, flush=True)


@contextmanager
def step(words: str) -> Iterator[Callable[[str], None]]:
    """Say what begins, and, by what the block is given, what it found."""
    print(f"{_clock()} {words}", end="", file=sys.stderr, flush=True)
    found: list[str] = []
    try:
        yield found.append
    finally:
        print(f": {', '.join(found)}" if found else "", file=sys.stderr, flush=True)
