"""Where what the master says goes, and what its workers print: never waits, never grows.

::

    dispatcher, supervisor ──┐
    a worker's stdout, stderr ─ pipe ─ relay ─┴─ bounded queue ─ a daemon thread ─ write(2) ─ stderr

A stalled reader of stderr blocks write(2) for good, and O_NONBLOCK on an inherited stderr would be everybody's: so a
thread writes, the queue before it is bounded, and what does not fit is counted and said once there is room.  A worker
that prints without end is read at full speed, so that it is never blocked, and all but its first part of each second
is thrown away.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import trio
from attrs import Factory, define

logger = logging.getLogger("rrmaster")

QUEUE = 2_000
"""Records: with `LINE` of 4 KiB at most 8 MB wait for a stalled reader."""

LINE = 4 * 1024
"""Bytes of one line of a worker's output; a longer one is cut into several."""

RATE = 1024 * 1024
"""Bytes a second of one worker's output that are logged.  More is a flood that nobody reads."""

PIPE = 1024 * 1024
"""Bytes of pipe to ask for, so that a flood is thrown away a megabyte at a time; the default is 64 KiB."""

FAREWELL = 1.0
"""Seconds the last lines may take when the master ends."""


@define(eq=False)
class _Outlet(logging.Handler):
    """Queues what is logged for a daemon thread, which writes it to a descriptor."""

    _fd: int
    _queue: queue.Queue[str | None] = Factory(lambda: queue.Queue(QUEUE))
    _dropped: int = 0

    def __attrs_pre_init__(self) -> None:
        logging.Handler.__init__(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(self.format(record))
        except queue.Full:
            self._dropped += 1

    def write(self) -> None:
        """The thread's whole life."""
        while (text := self._queue.get()) is not None:
            self._put(text)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._put(f"rrmaster: {dropped} log lines were dropped: whoever reads the log was too slow")

    def _put(self, text: str) -> None:
        data = text.encode(errors="backslashreplace") + b"\n"
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self._dropped += 1  # a full disk, a closed reader: serving goes on, and the count is said if it can be

    def end(self, thread: threading.Thread) -> None:
        """Let the thread finish, for as long as a healthy reader needs."""
        with suppress(queue.Full):  # a stalled reader: the thread is left behind, it is a daemon
            self._queue.put(None, timeout=FAREWELL)
        thread.join(FAREWELL)


class _Text(logging.Formatter):
    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


def to_descriptor(fd: int, level: str) -> Callable[[], None]:
    """Write the log to this descriptor from now on; returns what ends it."""
    outlet = _Outlet(fd)
    outlet.setFormatter(_Text())
    thread = threading.Thread(target=outlet.write, name="rrmaster log", daemon=True)
    thread.start()
    logger.addHandler(outlet)
    logger.setLevel(level.upper())
    logger.propagate = False

    def end() -> None:
        logger.removeHandler(outlet)
        outlet.end(thread)

    return end


@define(eq=False)
class Lines:
    """Bytes to whole lines, bounded, and no more of them than `RATE` allows."""

    emit: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _partial: bytes = b""
    _budget: float = RATE
    _filled: float = float("-inf")
    dropped: int = 0
    """Lines thrown away and not yet told."""

    def feed(self, data: bytes) -> None:
        """Take some output."""
        now = self.clock()
        if self._budget < RATE:
            self._budget = min(self._budget + (now - self._filled) * RATE, RATE)
        self._filled = now
        if len(data) > self._budget:
            self.dropped += data.count(b"\n")
            self._partial = b""
            return
        self._budget -= len(data)
        self.say_dropped()
        *whole, self._partial = (self._partial + data).split(b"\n")
        for line in whole:
            self._line(line)
        if len(self._partial) > LINE:
            self._line(self._partial)
            self._partial = b""

    def end(self) -> None:
        """There will be no more: say the unfinished line."""
        if self._partial:
            self._line(self._partial)
            self._partial = b""
        self.say_dropped()

    def _line(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE):
            self.emit(printable(line[start : start + LINE]))

    def say_dropped(self) -> None:
        """Tell what was thrown away, if anything was."""
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            self.emit(f"({dropped} lines dropped: more than {RATE >> 20} MiB a second)")


def printable(line: bytes) -> str:
    """Text without control characters: what a client sent may be printed, and must not drive the terminal."""
    text = line.decode(errors="backslashreplace").rstrip("\r")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)


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
            elif not _read(fd, lines):
                return
    finally:
        # Bounded, or a grandchild that keeps writing would keep us here.
        for _ in range(4):
            if not _read(fd, lines):
                break
        lines.end()
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


def _read(fd: int, lines: Lines) -> bool:
    try:
        data = os.read(fd, PIPE)
    except BlockingIOError:
        return False
    lines.feed(data)
    return bool(data)
