"""How does a worker's output become lines?  Read at full speed, cut, made harmless, and dropped beyond a rate.

A worker that prints without end is never blocked by the master, and costs it little: of each second the first 2 MiB are
kept, and of the rest a sixteenth is read to see how many lines it holds; the kernel drops the remainder.  The same
happens while no sink has room.  Dropped lines are counted, and the number is logged when there is room.

This module knows a worker's pipe and a `LineConsumer`.  It does not know what happens to a line.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Protocol

import trio
from attrs import define, field, frozen

from ..waiting import close, readable

LINE = 4 * 1024
"""Bytes of one line of output; a longer one is cut into several, and each but the first begins with `CONTINUED`."""

CONTINUED = b"... "
"""Without a mark, what a client sent could begin a line of its own: 4 KiB of filling, and then a forged line."""

UNSEEN = b"|"
"""What is behind a mark that only says where its line begins."""

RATE = 2 * 1024 * 1024
"""Bytes a second that are logged of one stream of a worker; each line counts `LINE_COST` bytes more.  An access log of
10,000 lines of 100 bytes fits; more is a flood that no person reads."""

LINE_COST = 64
"""Bytes that each line counts beside its own, for its prefix and the time it takes.  Without this a megabyte of
newlines would be a million lines."""

CHUNK = 64 * 1024
"""Bytes of output that become lines at once: 0.3 ms, in which nothing else happens in the master."""

PIPE = 1024 * 1024
"""Bytes of pipe to ask for, so that a flood is dropped a megabyte at a time; the default is 64 KiB."""


class LineConsumer(Protocol):
    """Where a worker's lines go."""

    def room(self) -> bool:
        """Whether there is room for more lines."""

    def take(self, lines: list[str]) -> None:
        """Log these lines."""

    def count_dropped(self, lines: int, estimated: bool) -> None:
        """Count lines that were dropped because there was no room."""


@frozen(eq=False)
class _EachLine:
    """A consumer that passes each line to a function, and always has room."""

    emit: Callable[[str], None]

    def room(self) -> bool:
        return True

    def take(self, lines: list[str]) -> None:
        for line in lines:
            self.emit(line)

    def count_dropped(self, lines: int, estimated: bool) -> None:
        """Never called, because there is always room."""


def _as_consumer(consumer: LineConsumer | Callable[[str], None]) -> LineConsumer:
    """A callable is called with each line."""
    return _EachLine(consumer) if callable(consumer) else consumer


@define(eq=False)
class LineSplitter:
    """Splits bytes into whole, bounded lines; drops what exceeds `RATE` or finds no room in the consumer."""

    consumer: LineConsumer = field(converter=_as_consumer)
    clock: Callable[[], float] = time.monotonic
    mark: bytes = b""
    """Begins a line wherever it stands: what an application prints without a newline is no part of the line after it.
    With `UNSEEN` behind it, it is left out."""
    dropped: int = 0
    """Lines dropped beyond `RATE` and not yet reported."""
    flooding: bool = False
    """Whether the last output was dropped."""
    _partial: bytes = b""
    _torn: bool = False
    """Whether the beginning of the next line was dropped."""
    _cut: bool = False
    """Whether the beginning of the next line was logged."""
    _density: float = 0.0
    """Lines per byte in the output that was dropped last."""
    _estimated: bool = False
    """Whether `dropped` is an estimate."""
    _budget: float = RATE
    """Bytes that may still be logged now: a token bucket that holds one second's worth."""
    _filled: float = float("-inf")
    """When the budget was last increased."""

    def feed(self, data: bytes) -> None:
        """Process some output."""
        lines = data.count(b"\n")
        room = self.consumer.room()
        self.flooding = not (room and self._afford(len(data) + lines * LINE_COST))
        if self.flooding:
            self._drop(lines, len(data), data.endswith(b"\n"), room)
            return
        if self._torn:
            _, newline, data = data.partition(b"\n")
            self._torn = not newline
        self.report_dropped()
        text = self._partial + data
        if self.mark and self.mark in text:
            text = self._apart(text)
        *whole, self._partial = text.split(b"\n")
        if whole and self._cut:
            self._cut, whole[0] = False, whole[0] and CONTINUED + whole[0]
            whole = whole if whole[0] else whole[1:]
        if len(self._partial) > LINE:
            begin = CONTINUED if self._cut else b""
            whole, self._partial, self._cut = [*whole, begin + self._partial], b"", True
        if whole:
            self.consumer.take(_readable(whole))

    def _apart(self, text: bytes) -> bytes:
        """The text with each mark at the beginning of a line."""
        mark = self.mark
        begins = text.startswith(mark)
        if text.count(mark) > text.count(b"\n" + mark) + begins:
            text = re.sub(rb"(?<=[^\n])" + re.escape(mark), b"\n" + mark, text)
        if begins and self._cut:  # what was logged has no newline yet
            text = b"\n" + text
        return text.replace(mark + UNSEEN, b"")

    def skip(self, size: int) -> None:
        """Count `size` bytes that were dropped unread; the number of their lines is estimated."""
        self._estimated = self._torn = True
        self._count(round(size * self._density), self.consumer.room())

    def end(self) -> None:
        """End of the output: log the unfinished line."""
        self.report_dropped()
        if self._partial:
            self.consumer.take(_readable([(CONTINUED if self._cut else b"") + self._partial]))
            self._partial = b""

    def report_dropped(self) -> None:
        """Log the number of dropped lines, if there are any."""
        if self.dropped:
            about = "about " if self._estimated else ""
            report = f"({about}{self.dropped} lines dropped: more than {RATE >> 20} MiB a second)"
            if self.consumer.room():
                self.consumer.take([report])
            else:
                self.consumer.count_dropped(self.dropped, self._estimated)
            self.dropped, self._estimated = 0, False

    def _afford(self, cost: int) -> bool:
        now = self.clock()
        if self._budget < RATE:
            self._budget = min(self._budget + (now - self._filled) * RATE, RATE)
        self._filled = now
        if cost > self._budget:
            return False
        self._budget -= cost
        return True

    def _drop(self, lines: int, size: int, whole: bool, room: bool) -> None:
        """Count each line where it begins; the rest of a torn line is then not counted again."""
        begun = lines + (not whole) - self._torn
        self._density, self._partial, self._torn, self._cut = lines / max(size, 1), b"", not whole, False
        self._count(begun, room)

    def _count(self, lines: int, room: bool) -> None:
        if room:
            self.dropped += lines
        elif lines:
            self.consumer.count_dropped(lines, self._estimated)


def _readable(lines: list[bytes]) -> list[str]:
    """Lines that may be logged: printable, and no longer than `LINE`."""
    if max(map(len, lines)) > LINE:
        lines = [part for line in lines for part in _parts(line)]
    whole = b"\n".join(lines).decode(errors="backslashreplace")
    if whole.replace("\n", "").isprintable():  # the usual case, decided in C for all lines at once
        return whole.split("\n")
    return [printable(line) for line in lines]


def _parts(line: bytes) -> Iterator[bytes]:
    """A line in pieces of at most `LINE`."""
    yield line[:LINE]
    each = LINE - len(CONTINUED)
    for start in range(LINE, len(line), each):
        yield CONTINUED + line[start : start + each]


def printable(line: bytes) -> str:
    """Text without control characters: a worker may print what a client sent, which must not drive the terminal."""
    return harmless(line.decode(errors="backslashreplace").rstrip("\r"))


def harmless(text: str) -> str:
    """The text with all control characters spelled out, except tabs and the ends of lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\t\n" else f"\\x{ord(c):02x}" for c in text)


def open_pipe() -> tuple[int, int]:
    """A pipe for a worker's output: the reading end, which does not block, and the worker's end, which does.

    The caller owns both.  Raises OSError.
    """
    reading_end, worker_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading_end, False)
    with suppress(OSError):  # EPERM, this user has too much pipe memory: the default size will do
        fcntl.fcntl(reading_end, fcntl.F_SETPIPE_SZ, PIPE)
    return reading_end, worker_end


async def capture_output(fd: int, lines: LineSplitter) -> None:
    """Read a worker's pipe until its end or cancellation, then what is left in it, and close the descriptor.

    The end may never come, because a grandchild can hold the other side: the task that waits for the worker cancels
    this one when the worker has ended.
    """
    try:
        while True:
            with trio.move_on_after(1.0 if lines.dropped else float("inf")) as quiet:
                await readable(fd)
            if quiet.cancelled_caught:
                lines.report_dropped()
            elif _read(fd, lines) == 0:
                return
    finally:
        # Bounded: a grandchild may keep writing.
        for _ in range(PIPE // CHUNK + 1):
            if not _read(fd, lines):
                break
        lines.end()
        trio.lowlevel.notify_closing(fd)
        close(fd)


def _read(fd: int, lines: LineSplitter) -> int | None:
    """Read and process once: the number of bytes, 0 at the end, None if the pipe is empty."""
    try:
        data = os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    lines.feed(data)
    if lines.flooding and len(data) == CHUNK:
        _discard(fd, lines)
    return len(data)


def _discard(fd: int, lines: LineSplitter) -> None:
    """Have the kernel drop a flood: to read it and count its lines costs five times as much (0.4 s a GB)."""
    try:
        lines.skip(os.splice(fd, _devnull(), PIPE, flags=os.SPLICE_F_NONBLOCK))
    except OSError:
        pass  # the pipe is empty, or no descriptor is free for /dev/null: the next read takes what there is


@functools.cache
def _devnull() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
