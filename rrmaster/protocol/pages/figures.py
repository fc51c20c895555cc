"""A page of memory in which a worker counts how long its requests take, how long connections waited for it, and how
those have ended.

A message for each request would cost the master more than the connection, and what a worker had not told would be lost
when it is killed.  So a worker counts in memory that outlives it: a memfd, whose descriptor the master keeps, and reads
when it is asked for figures, and once more after the worker's end.  An observation costs the worker some 0.2 us, and
the master nothing.

::

    u64  `MARK` once the worker counts, else 0
    u64  for each bound of `DURATIONS` the requests that took no longer, and longer than the bound before; the rest
    f64  the sum of all, in seconds
    the same for `WAITS`
    u64  connections that the worker has closed
    u64  connections that it has parked instead

The last two are also in each of its reports, which are up to 2 ms older: with them the master knows what a worker that
was killed had in its hands.  So each is counted *before* the deed where that cannot fail, for a descriptor that is
still open at the death is closed by it; and what was parked right after it.

The counts are the worker's to write, so for the master they are numbers and no more.  It reads a copy and maps nothing:
a worker that cuts the page short would otherwise end the master by SIGBUS.  docs/protocol.md has the layout for workers
in other languages.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from bisect import bisect_left
from typing import Any

from attrs import define, frozen

MARK = 1
"""The version of the layout."""

DURATIONS = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Seconds of a request, as upper bounds.  From what the smallest applications take to the longest timeouts that proxies
have by default; the steps are those of Prometheus' own libraries, so that dashboards which know them fit."""

WAITS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
)  # fmt: skip
"""Seconds from accept to taken, as upper bounds.  An idle worker takes a connection in 0.1 ms; 3 ms is late."""

GRAIN = 1 << 20
"""Parts of a second to which the sum of a worker is cut, about a microsecond each.  Sums of such numbers are exact in
whatever order they are added.  Otherwise a total would fall by a last digit when a worker's part moves to those that
have ended, and Prometheus takes a counter that falls for one that began again."""

MOST_S = float(1 << 32)
"""Seconds of all observations of a worker: 136 years.  Sums up to twice that are exact."""

_PAGE = struct.Struct(f"<Q {len(DURATIONS) + 1}Qd {len(WAITS) + 1}Qd")
_WAITS_AT = 1 + len(DURATIONS) + 2
"""The 64-bit word with which the second histogram begins."""

_ENDS_AT = _PAGE.size
_ENDS = struct.Struct("<QQ")
"""Where it is counted how connections have ended."""

_MODULUS = 1 << 32
"""A handoff has 32 bits for the time of its accept, in microseconds: more than an hour."""


@frozen
class Histogram:
    """How many observations fell between any two neighbouring bounds, and their sum."""

    counts: tuple[int, ...] = ()
    """One for each bound, and one for what exceeds the last.  Empty: nothing was observed."""
    sum_s: float = 0.0
    """Seconds."""

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)

    def plus(self, other: Histogram) -> Histogram:
        """Both together."""
        if not (self.counts and other.counts):
            return self if self.counts else other
        both = zip(self.counts, other.counts, strict=True)
        return Histogram(tuple(one + two for one, two in both), self.sum_s + other.sum_s)

    def since(self, before: Histogram) -> Histogram:
        """What was observed after `before`, an earlier state of the same worker's."""
        if not before.counts:
            return self
        both = zip(self.counts, before.counts, strict=True)
        return Histogram(tuple(max(now - then, 0) for now, then in both), max(self.sum_s - before.sum_s, 0.0))


NOTHING = Histogram()


@frozen
class Figures:
    """What a worker has counted so far."""

    durations: Histogram = NOTHING
    """How long its requests took."""
    waits: Histogram = NOTHING
    """How long connections waited from accept until it took them."""


@define(eq=False)
class Tally:
    """One histogram, as the worker counts it.  Only the loop that serves may call it."""

    bounds: tuple[float, ...]
    _counts: memoryview[int]
    """Of unsigned 64-bit numbers, one more than there are bounds."""
    _sum: memoryview[float]
    """Of one float of 64 bits."""

    @classmethod
    def at(cls, bounds: tuple[float, ...], words: memoryview[Any]) -> Tally:
        """A histogram whose words begin here."""
        end = (len(bounds) + 1) * 8
        return cls(bounds, words[:end].cast("Q"), words[end : end + 8].cast("d"))

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self.bounds, seconds)] += 1
        self._sum[0] += seconds


@define(eq=False)
class Counting:
    """The worker's side of the page."""

    durations: Tally
    waits: Tally
    ends: memoryview[int]
    """Connections that were closed, and connections that were parked instead."""
    _cuts: bool = False

    @classmethod
    def on(cls, page: mmap.mmap) -> Counting:
        """Count on this page from now on."""
        words = memoryview(page)
        words.cast("Q")[0] = MARK
        ends = words[_ENDS_AT : _ENDS_AT + _ENDS.size].cast("Q")
        return cls(Tally.at(DURATIONS, words[8:]), Tally.at(WAITS, words[8 * _WAITS_AT :]), ends)

    @classmethod
    def inherit(cls, fd: int) -> Counting:
        """Count on the page behind an inherited descriptor, which is closed.  Raises OSError, ValueError."""
        try:
            return cls.on(mmap.mmap(fd, mmap.PAGESIZE))
        finally:
            os.close(fd)

    @classmethod
    def unread(cls) -> Counting:
        """Count where no master reads: for its probes, and where there is no page."""
        return cls.on(mmap.mmap(-1, mmap.PAGESIZE))

    def closed(self) -> None:
        """A connection is about to be closed."""
        if not self._cuts:
            self.ends[0] += 1

    def cut(self) -> None:
        """This worker ends now, and cuts what it has in hand.  To be called before it cuts the first.

        What is closed from now on is lost with this worker, as if it were killed: it counts as nothing here, so that
        the master finds it to be what remains.
        """
        self._cuts = True

    def taken(self, accepted_at: int) -> None:
        """A connection was taken that the master had accepted then: see `clock_us`."""
        if accepted_at:
            self.waits.observe((clock_us() - accepted_at) % _MODULUS / 1e6)


def clock_us() -> int:
    """The time for `Handoff.accepted_at`: microseconds of CLOCK_MONOTONIC, which all processes share, to 32 bits."""
    return int(time.monotonic() * 1e6) % _MODULUS


def open_page() -> int:
    """A new page: a descriptor, which the caller owns.  Raises OSError."""
    fd = os.memfd_create("rrmaster: figures")
    try:
        os.ftruncate(fd, mmap.PAGESIZE)
    except OSError:
        os.close(fd)
        raise
    return fd


def read_page(fd: int) -> Figures | None:
    """What a worker has counted; None if it does not count, or has made the page unreadable."""
    data = b""
    with contextlib.suppress(OSError):  # a page that cannot be read says nothing
        data = os.pread(fd, _PAGE.size, 0)
    if len(data) < _PAGE.size:
        return None
    mark, *words = _PAGE.unpack(data)
    return Figures(_read(words[: _WAITS_AT - 1]), _read(words[_WAITS_AT - 1 :])) if mark == MARK else None


def read_ends(fd: int) -> tuple[int, int]:
    """How many connections a worker has closed, and parked instead, as far as it has counted that."""
    data = b""
    with contextlib.suppress(OSError):
        data = os.pread(fd, _ENDS.size, _ENDS_AT)
    closed, parked = _ENDS.unpack(data.ljust(_ENDS.size, b"\0"))
    return closed, parked


def _read(words: list[Any]) -> Histogram:
    *counts, total = words
    believed = total if 0.0 <= total < MOST_S else 0.0  # a worker may write what it likes
    return Histogram(tuple(counts), int(believed * GRAIN) / GRAIN)
