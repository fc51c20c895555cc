"""How does the log reach a descriptor or a file?  In a thread, so that the master waits for no disk and no reader.

::

    put ── bounded queue ── a daemon thread ── write(2) ── Descriptor (stderr) or RotatingFile

A stalled reader of stderr blocks write(2) for good, and O_NONBLOCK on an inherited stderr would change it for every
process that shares it.  So a thread writes.  What does not fit the queue is counted, and the number is logged when
there is room.  The queue's size is the difference of two counters, as a worker's load is: bytes given, which `put`
counts, and bytes taken, which the thread counts; so neither counter has two writers.

`RotatingFile`, and not `logging.handlers.RotatingFileHandler`: the latter writes through two buffers, which keep what a
full disk refused, block on it, and cannot say how many lines were lost; it holds on to a file that was moved away; and
it trusts its own count of a size that copytruncate changes.  Here one ``stat`` before each write solves all three, for
1.5 us.  The names are the same as its (and logrotate's): app.log.1 is younger than app.log.2.

This module knows bytes.  It does not know what a record, a level or an event is.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Protocol

from attrs import Factory, define

from ..config.directory import logical_path
from .trusted_path import open_trusted, trusted_place

MAX_QUEUED = 8 * 1024 * 1024
"""Bytes that wait for a slow reader at most: seconds of a busy log, and the memory that a stalled reader costs."""

END_S = 1.0
"""Seconds that the last lines may take when the master ends."""

NOTICE_EVERY = 1.0
"""Seconds between two notices of dropped lines, while the reader stays too slow."""


class Destination(Protocol):
    """Where a sink writes.  Only the sink's thread calls these methods."""

    def write(self, data: bytes) -> int:
        """Write some of the data, waiting if necessary; returns the number of bytes.  Raises OSError."""

    def reopen(self) -> None:
        """Open the file that has this name now.  Raises OSError."""


class _Command(Enum):
    REOPEN = auto()
    END = auto()


@define(eq=False)
class Sink:
    """A destination, and the thread that writes to it from now until `end`.

    Any thread may call the methods.  None raises, and none waits except `end`, for a second.
    """

    destination: Destination
    notice: Callable[[int, bool], bytes]
    """The line that says how many lines were dropped, and whether that is an estimate."""
    on_error: Callable[[str], None] = lambda _: None
    """Called in the thread when writing starts to fail, with the reason; once for each reason."""
    _queue: SimpleQueue[bytes | _Command] = Factory(SimpleQueue)
    _lock: threading.Lock = Factory(threading.Lock)
    _given: int = 0
    _refused: int = 0
    """Lines for which there was no room."""
    _estimated: bool = False
    """Whether `_refused` is an estimate."""
    _taken: int = 0
    _lost: int = 0
    """Lines that could not be written.  Only the thread changes it, and the fields below."""
    _reported: int = 0
    """The number of dropped lines at the last notice."""
    _reported_at: float = float("-inf")
    _torn: bool = False
    """Whether the last line that was written is incomplete."""
    _trouble: str | None = None
    _thread: threading.Thread = None  # type: ignore[assignment]

    def __attrs_post_init__(self) -> None:
        # A daemon: a write that is stuck must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="rrmaster log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # threads count as processes, and the limit of those is reached
            raise OSError(errno.EAGAIN, f"{error}; allow more processes (ulimit -u, TasksMax=)") from None

    @property
    def dropped(self) -> int:
        """Lines that were not written, since the start."""
        return self._refused + self._lost

    @property
    def queued(self) -> int:
        """Bytes in the queue."""
        return self._given - self._taken

    def room(self) -> bool:
        """Whether the queue has room for the next line."""
        return self.queued < MAX_QUEUED

    def put(self, data: bytes) -> None:
        """Queue whole lines to be written, or count them as dropped."""
        with self._lock:  # several threads may log; held for no longer than this, so the loop may take it
            if self.room():
                self._given += len(data)
                self._queue.put(data)
            else:
                self._refused += data.count(b"\n")

    def count_dropped(self, lines: int, estimated: bool = False) -> None:
        """Count lines that were not even made, because there was no room for them."""
        with self._lock:
            self._refused += lines
            self._estimated = self._estimated or estimated

    def reopen(self) -> None:
        """Have the destination opened again, after everything that was put before."""
        self._queue.put(_Command.REOPEN)

    def end(self) -> bool:
        """Let the thread finish, for as long as a healthy reader needs.  Returns whether it has finished.

        With a stalled reader it has not: the thread then ends with the process.
        """
        self._queue.put(_Command.END)
        self._thread.join(END_S)
        return not self._thread.is_alive()

    # --- in the thread

    def _run(self) -> None:
        while (item := self._next()) is not _Command.END:
            if item is None:
                self._report_dropped()
            elif item is _Command.REOPEN:
                self._reopen()
            else:
                assert isinstance(item, bytes)
                self._write(item)
                self._taken += len(item)
                if time.monotonic() - self._reported_at >= NOTICE_EVERY:
                    self._report_dropped()
        self._report_dropped()

    def _next(self) -> bytes | _Command | None:
        """The next item; None if the queue is empty and dropped lines should be reported."""
        if self.dropped == self._reported:
            return self._queue.get()
        try:
            return self._queue.get(timeout=max(self._reported_at + NOTICE_EVERY - time.monotonic(), 0.0))
        except Empty:
            return None

    def _report_dropped(self) -> None:
        dropped = self.dropped
        if dropped == self._reported:
            return
        self._reported_at = time.monotonic()
        if self._write(self.notice(dropped - self._reported, self._estimated), counts=False):
            self._reported, self._estimated, self._trouble = dropped, False, None

    def _write(self, data: bytes, counts: bool = True) -> bool:
        """Whether all of it was written."""
        rest = b"\n" + data if self._torn else data
        try:
            while rest:
                written = self.destination.write(rest)
                self._torn = rest[written - 1 : written] != b"\n" if written else self._torn
                rest = rest[written:]
        except OSError as error:  # a full disk, a reader that has gone: the master goes on, and the lines are counted
            self._lost += rest.count(b"\n") if counts else 0
            self._have_trouble(os.strerror(error.errno or 0))
            return False
        return True

    def _reopen(self) -> None:
        try:
            self.destination.reopen()
        except OSError as error:
            self._have_trouble(f"it cannot be opened again: {os.strerror(error.errno or 0)}")

    def _have_trouble(self, what: str) -> None:
        if what != self._trouble:
            self._trouble = what
            self.on_error(what)


@define(eq=False)
class Descriptor:
    """An open descriptor as a destination.  The caller owns it and closes it."""

    _fd: int

    def write(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                # Another process that shares the descriptor has made it non-blocking; this thread may wait all the
                # same.
                waiter = select.poll()
                waiter.register(self._fd, select.POLLOUT)
                waiter.poll()

    def reopen(self) -> None:
        """Nothing to do: a descriptor has no name."""


@define(eq=False)
class RotatingFile:
    """A file of at most `max_size` bytes (0: any size), and the `keep` files before it.

    *Resource handling*: opens at once, and closes what it replaces; `close` closes the last.
    *Error handling*: a file that cannot be rotated grows, and rotation is tried again when it has grown by `max_size`
    more.  One that cannot be opened again (moved away, and the directory is not writable) is written on under its other
    name.  `on_error` is told what went wrong.  Raises OSError only if the file cannot be opened at first or written.
    """

    path: str
    max_size: int
    keep: int
    on_error: Callable[[str], None] = lambda _: None
    _fd: int = -1
    _same: tuple[int, int] = (0, 0)
    """Device and inode of the open file."""
    _limit: float = float("inf")
    created: bool = False
    """Whether this process created the file."""
    _trouble: str | None = None
    """The trouble that was reported last, so that it is reported once."""

    def __attrs_post_init__(self) -> None:
        self.path = logical_path(self.path)  # the process may change its directory later
        self._open()

    def write(self, data: bytes) -> int:
        self._check_name(len(data))
        return os.write(self._fd, data)

    def reopen(self) -> None:
        self._open()

    def give_ownership(self, uid: int, gid: int) -> None:
        """Let the user that root is about to become open the file again.

        Only a file that this process created is given away.  Otherwise the user could put a link into a directory of
        their own, and root would give them any file of the system.
        """
        if self.created:
            with suppress(OSError):  # a file system without owners
                os.fchown(self._fd, uid, gid)

    def close(self) -> None:
        """Close the file; only after the thread that writes to it has ended."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        # O_NONBLOCK: to open a FIFO without a reader would otherwise block, and the master with it when it starts.
        how = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            fd, created = open_trusted(self.path, how | os.O_CREAT | os.O_EXCL), True  # --umask limits its mode
        except FileExistsError:
            fd, created = open_trusted(self.path, how | os.O_CREAT), False
        os.set_blocking(fd, True)
        if self._fd >= 0:
            os.close(self._fd)
        found = os.fstat(fd)
        self._fd, self.created, self._same = fd, created, (found.st_dev, found.st_ino)
        # Only a regular file can be rotated: /dev/stdout and a FIFO cannot.
        self._trouble = None
        self._limit = self.max_size if self.max_size and stat.S_ISREG(found.st_mode) else float("inf")

    def _check_name(self, more: int) -> None:
        """Open the file anew if the name leads elsewhere now, and rotate if there is no room for `more` bytes."""
        try:
            found = os.stat(self.path)
            if (found.st_dev, found.st_ino) != self._same:
                self._open()
            elif found.st_size and found.st_size + more > self._limit:
                self._limit = found.st_size + self.max_size  # for the case that this fails
                self._rotate()
        except FileNotFoundError:
            self._open_or_stay()
        except OSError as error:
            self._have_trouble(f"it cannot be rotated: {error.strerror}")

    def _open_or_stay(self) -> None:
        """Open the file anew after it was moved away or deleted.  A moved one may be written on, a deleted one not."""
        try:
            self._open()
        except OSError as error:
            if os.fstat(self._fd).st_nlink == 0:  # deleted: no one could ever read what is written to it
                raise
            self._have_trouble(f"it was moved away and cannot be opened again: {error.strerror}")

    def _have_trouble(self, what: str) -> None:
        if what != self._trouble:
            self._trouble = what
            self.on_error(what)

    def _rotate(self) -> None:
        """Delete the oldest file, move the others one up, and begin a new one."""
        with trusted_place(self.path) as place:
            names = [place.name, *(f"{place.name}.{number}" for number in range(1, self.keep + 1))]
            for older, younger in zip(names[:0:-1], names[-2::-1], strict=True):
                with suppress(FileNotFoundError):  # there are fewer than `keep` as yet
                    os.replace(younger, older, src_dir_fd=place.directory, dst_dir_fd=place.directory)
            if not self.keep:
                place.unlink()
        self._open()
