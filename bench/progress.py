"""What is being measured now: one line for each step on stderr, with what it found and how long the whole has taken."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_start = time.monotonic()


def tell(words: str) -> None:
    """A line."""
    print(words, file=sys.stderr, flush=True)


@contextmanager
def step(words: str) -> Iterator[Callable[[str], None]]:
    """Say what begins, and, by what the block is given, what it found."""
    minutes, seconds = divmod(int(time.monotonic() - _start), 60)
    print(f"[{minutes:2}:{seconds:02}] {words}", end="", file=sys.stderr, flush=True)
    found: list[str] = []
    try:
        yield found.append
    finally:
        print(f": {', '.join(found)}" if found else "", file=sys.stderr, flush=True)
