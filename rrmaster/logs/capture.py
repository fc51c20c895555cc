"""How what a worker prints becomes lines: read at full speed, cut, made harmless, and thrown away beyond a rate.

A worker that prints without end is never blocked by us, and costs the master little: of each second the first part is
kept, and of the rest a sixteenth is read to see how many lines it holds; the kernel drops the remainder.  The same
while nobody has room for it.  What was thrown away is counted, and said once there is room.

This module knows a worker's pipe and a `Sink`.  It does not know what is done with a line.
"""

from __future__ import annotations

import fcntl
import functools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import trio
from attrs import define, field, frozen

LINE = 4 * 1024
"""Bytes of one line of a worker's output; a longer one is cut into several."""

RATE = 2 * 1024 * 1024
"""Bytes a second of one worker's output that are logged, every line counted as `LINE_COST` more.  It holds an access
log of 10,000 lines of 100 bytes; more is a flood that nobody reads."""

LINE_COST = 64
"""What a line costs beside its bytes: prefix, and time.  Without it a megabyte of newlines would be a million lines."""

CHUNK = 64 * 1024
"""Bytes of output that are made into lines at once: 0.3 ms, in which nothing else happens in the master."""

PIPE = 1024 * 1024
"""Bytes of pipe to ask for, so that a flood is thrown away a megabyte at a time; the default is 64 KiB."""


class Sink(Protocol):
    """Where a worker's lines go."""

    def room(self) -> bool:
        """Whether the next ones would be taken."""

    def take(self, lines: list[str]) -> None:
        """Log them."""

    def miss(self, lines: int, estimated: bool) -> None:
        """So many were thrown away because there was no room."""


@frozen(eq=False)
class _Each:
    """A sink that always has room."""

    emit: Callable[[str], None]

    def room(self) -> bool:
        return True

    def take(self, lines: list[str]) -> None:
        for line in lines:
            self.emit(line)

    def miss(self, lines: int, estimated: bool) -> None:
        """Never."""


def _as_sink(sink: Sink | Callable[[str], None]) -> Sink:
    """A bare callable gets line after line."""
    return _Each(sink) if callable(sink) else sink


@define(eq=False)
class Lines:
    """Bytes to whole lines, bounded, and no more of them than `RATE` allows and the sink has room for."""

    sink: Sink = field(converter=_as_sink)
    clock: Callable[[], float] = time.monotonic
    dropped: int = 0
    """Lines beyond `RATE`, thrown away and not yet told."""
    flooding: bool = False
    """The last of its output was thrown away."""
    _partial: bytes = b""
    _torn: bool = False
    """The beginning of the next line was thrown away."""
    _density: float = 0.0
    """Lines in a byte of what was thrown away last."""
    _estimated: bool = False
    _budget: float = RATE
    _filled: float = float("-inf")

    def feed(self, data: bytes) -> None:
        """Take some output."""
        lines = data.count(b"\n")
        room = self.sink.room()
        self.flooding = not (room and self._afford(len(data) + lines * LINE_COST))
        if self.flooding:
            self._drop(lines, len(data), data.endswith(b"\n"), room)
            return
        if self._torn:
            _, newline, data = data.partition(b"\n")
            self._torn = not newline
        self.say_dropped()
        *whole, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE:
            whole, self._partial = [*whole, self._partial], b""
        if whole:
            self.sink.take(_readable(whole))

    def skip(self, size: int) -> None:
        """So many bytes more were thrown away without a look, so their lines are estimated."""
        self._estimated = self._torn = True
        self._count(round(size * self._density), self.sink.room())

    def end(self) -> None:
        """There will be no more: say the unfinished line."""
        self.say_dropped()
        if self._partial:
            self.sink.take(_readable([self._partial]))
            self._partial = b""

    def say_dropped(self) -> None:
        """Tell what was thrown away, if anything was."""
        if self.dropped:
            about = "about " if self._estimated else ""
            said = f"({about}{self.dropped} lines dropped: more than {RATE >> 20} MiB a second)"
            if self.sink.room():
                self.sink.take([said])
            else:
                self.sink.miss(self.dropped, self._estimated)
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
        """Each line is counted when it begins, so that the rest of a torn one needs no counting."""
        begun = lines + (not whole) - self._torn
        self._density, self._partial, self._torn = lines / max(size, 1), b"", not whole
        self._count(begun, room)

    def _count(self, lines: int, room: bool) -> None:
        if room:
            self.dropped += lines
        elif lines:
            self.sink.miss(lines, self._estimated)


def _readable(lines: list[bytes]) -> list[str]:
    """Text that may be logged: printable, and no longer than `LINE`."""
    if max(map(len, lines)) > LINE:
        lines = [line[start : start + LINE] for line in lines for start in range(0, max(len(line), 1), LINE)]
    whole = b"\n".join(lines).decode(errors="backslashreplace")
    if whole.replace("\n", "").isprintable():  # all at once, in C
        return whole.split("\n")
    return [printable(line) for line in lines]


def printable(line: bytes) -> str:
    """Text without control characters: what a client sent may be printed, and must not drive the terminal."""
    return harmless(line.decode(errors="backslashreplace").rstrip("\r"))


def harmless(text: str) -> str:
    """The same with all control characters spelled out, but for tabs and the ends of lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\t\n" else f"\\x{ord(c):02x}" for c in text)


def open_pipe() -> tuple[int, int]:
    """A pipe for a worker's output: (ours, the worker's).  Ours does not block."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(ours, False)
    with suppress(OSError):  # over this user's allowance of pipe memory: the default will do
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE)
    return ours, theirs


async def relay(fd: int, lines: Lines) -> None:
    """Read a worker's pipe until its end or cancellation, then what is left in it, and close it.

    The end may never come: a grandchild holds the other side.  Whoever waits for the worker cancels.
    """
    try:
        while True:
            with trio.move_on_after(1.0 if lines.dropped else float("inf")) as quiet:
                await trio.lowlevel.wait_readable(fd)
            if quiet.cancelled_caught:
                lines.say_dropped()
            elif _read(fd, lines) == 0:
                return
    finally:
        # Bounded, or a grandchild that keeps writing would keep us here.
        for _ in range(PIPE // CHUNK + 1):
            if not _read(fd, lines):
                break
        lines.end()
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


def _read(fd: int, lines: Lines) -> int | None:
    """Bytes read; 0 at the end, None if there is nothing just now."""
    try:
        data = os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    lines.feed(data)
    if lines.flooding and len(data) == CHUNK:
        _throw_away(fd, lines)
    return len(data)


def _throw_away(fd: int, lines: Lines) -> None:
    """Let the kernel drop the rest of a flood: to read it and count its lines costs five times as much (0.4 s a GB)."""
    try:
        lines.skip(os.splice(fd, _nowhere(), PIPE, flags=os.SPLICE_F_NONBLOCK))
    except OSError:
        pass  # nothing more just now, or no descriptor for it: what there is will be read


@functools.cache
def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
