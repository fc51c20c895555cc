"""How what is logged reaches a descriptor or a file: by a thread, so that nobody waits for a disk or a reader.

::

    put ── bounded queue ── a daemon thread ── write(2) ── Descriptor (stderr) or File (rotated, reopened)

A stalled reader of stderr blocks write(2) for good, and O_NONBLOCK on an inherited stderr would be everybody's: so a
thread writes, and what does not fit the queue before it is counted, and said once there is room.  How much waits is
the difference of two counters, as a worker's load is: bytes given, kept by whoever puts, and bytes taken, kept by the
thread.

`File`, and not `logging.handlers.RotatingFileHandler`: that one writes through two buffers, which keep what a full
disk refused, block on it, and cannot say how many lines were lost; it holds on to a file that was moved away; and it
trusts its own count of a size that copytruncate changes.  Here one ``stat`` before each write answers all three, for
1.5 us.  The names are the same as its (and logrotate's): app.log.1 is younger than app.log.2.

This module knows bytes.  It does not know what a record, a level or an event is.
"""

from __future__ import annotations

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

WAITING = 8 * 1024 * 1024
"""Bytes that wait for a slow reader at most: seconds of a busy log, and what a stalled reader costs the master."""

FAREWELL = 1.0
"""Seconds the last lines may take when the master ends."""

SAY_AGAIN = 1.0
"""Seconds between two notices of dropped lines, while a reader keeps being too slow."""


class Place(Protocol):
    """Where bytes go.  Only the outlet's thread writes and reopens."""

    def write(self, data: bytes) -> int:
        """Write some of it, waiting if need be; returns how much.  Raises OSError."""

    def reopen(self) -> None:
        """Open what is there under this name now.  Raises OSError."""


class _Order(Enum):
    REOPEN = auto()
    END = auto()


@define(eq=False)
class Outlet:
    """A place, and the thread that writes there.  Nothing here waits or raises, except `end`, for a second."""

    place: Place
    notice: Callable[[int, bool], bytes]
    """The line that says how many lines were dropped, and whether that is an estimate."""
    complain: Callable[[str], None] = lambda _: None
    """Called in the thread, once for each trouble: the place cannot be written, and why."""
    _queue: SimpleQueue[bytes | _Order] = Factory(SimpleQueue)
    _lock: threading.Lock = Factory(threading.Lock)
    _given: int = 0
    _refused: int = 0
    """Lines for which there was no room."""
    _estimated: bool = False
    _taken: int = 0
    _lost: int = 0
    """Lines that could not be written.  The thread's, as the three below."""
    _told: int = 0
    _told_at: float = float("-inf")
    _torn: bool = False
    """The last line that was written is not whole."""
    _trouble: str | None = None
    _thread: threading.Thread = None  # type: ignore[assignment]

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._live, name="rrmaster log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written, since birth."""
        return self._refused + self._lost

    @property
    def waiting(self) -> int:
        """Bytes in the queue."""
        return self._given - self._taken

    def room(self) -> bool:
        """Whether the next line would be taken."""
        return self.waiting < WAITING

    def put(self, data: bytes) -> None:
        """Have whole lines written, or count them as dropped."""
        with self._lock:  # several threads may log; nobody holds it for longer than this
            if self.room():
                self._given += len(data)
                self._queue.put(data)
            else:
                self._refused += data.count(b"\n")

    def miss(self, lines: int, estimated: bool = False) -> None:
        """Count lines that were not even made, because there was no room for them."""
        with self._lock:
            self._refused += lines
            self._estimated = self._estimated or estimated

    def reopen(self) -> None:
        """Have the place opened again, after all that was put before."""
        self._queue.put(_Order.REOPEN)

    def end(self) -> bool:
        """Let the thread finish, for as long as a healthy reader needs; whether it did.

        A stalled reader keeps it.  It is a daemon, and goes with the process.
        """
        self._queue.put(_Order.END)
        self._thread.join(FAREWELL)
        return not self._thread.is_alive()

    # --- in the thread

    def _live(self) -> None:
        """The thread's whole life."""
        while (item := self._next()) is not _Order.END:
            if item is None:
                self._say_dropped()
            elif item is _Order.REOPEN:
                self._reopen()
            else:
                assert isinstance(item, bytes)
                self._write(item)
                self._taken += len(item)
                if time.monotonic() - self._told_at >= SAY_AGAIN:
                    self._say_dropped()
        self._say_dropped()

    def _next(self) -> bytes | _Order | None:
        """What is to be done; None: nothing else, and there is time to tell what was dropped."""
        if self.dropped == self._told:
            return self._queue.get()
        try:
            return self._queue.get(timeout=max(self._told_at + SAY_AGAIN - time.monotonic(), 0.0))
        except Empty:
            return None

    def _say_dropped(self) -> None:
        dropped = self.dropped
        if dropped == self._told:
            return
        self._told_at = time.monotonic()
        if self._write(self.notice(dropped - self._told, self._estimated), counts=False):
            self._told, self._estimated, self._trouble = dropped, False, None

    def _write(self, data: bytes, counts: bool = True) -> bool:
        """Whether all of it was written."""
        rest = b"\n" + data if self._torn else data
        try:
            while rest:
                written = self.place.write(rest)
                self._torn = rest[written - 1 : written] != b"\n" if written else self._torn
                rest = rest[written:]
        except OSError as error:  # a full disk, a closed reader: serving goes on, and the count is said if it can be
            self._lost += rest.count(b"\n") if counts else 0
            self._have_trouble(os.strerror(error.errno or 0))
            return False
        return True

    def _reopen(self) -> None:
        try:
            self.place.reopen()
        except OSError as error:
            self._have_trouble(f"it cannot be opened again: {os.strerror(error.errno or 0)}")

    def _have_trouble(self, what: str) -> None:
        if what != self._trouble:
            self._trouble = what
            self.complain(what)


@define(eq=False)
class Descriptor:
    """A descriptor that somebody else opened, and closes."""

    _fd: int

    def write(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                # Somebody else made it non-blocking (it is shared); we wait all the same, this thread may.
                waiter = select.poll()
                waiter.register(self._fd, select.POLLOUT)
                waiter.poll()

    def reopen(self) -> None:
        """Nothing: it has no name."""


@define(eq=False)
class File:
    """A file of at most `max_size` bytes (0: any size), and the `keep` files before it.

    *Resource handling*: opens at once, and closes what it replaces; `close` closes the last.
    *Error handling*: a file that cannot be rotated grows, and it is tried again when it has grown by as much once more;
    one that cannot be opened again (moved away, and the directory is not ours) is written on under its other name.
    What went wrong is told to `complain`; raises OSError only for what could not be opened at first or not be written.
    """

    path: str
    max_size: int = 0
    keep: int = 5
    complain: Callable[[str], None] = lambda _: None
    _fd: int = -1
    _same: tuple[int, int] = (0, 0)
    """Device and inode of what is open."""
    _limit: float = float("inf")
    created: bool = False
    """Whether the file was ours from the first byte."""
    _trouble: str | None = None
    """What was said, and said once."""

    def __attrs_post_init__(self) -> None:
        self.path = os.path.abspath(self.path)  # whatever directory we work in later
        self._open()

    def write(self, data: bytes) -> int:
        self._look(len(data))
        return os.write(self._fd, data)

    def reopen(self) -> None:
        self._open()

    def give_to(self, uid: int, gid: int) -> None:
        """Before root becomes another user: let that user open it again.

        Only a file that was not there before us is given away: with a link that the user laid into a directory of
        his own root would make him a present of any file of the system.
        """
        if self.created:
            with suppress(OSError):  # a file system without owners
                os.fchown(self._fd, uid, gid)

    def close(self) -> None:
        """Close it, once no thread writes to it any more."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> None:
        # Not blocking: a FIFO without a reader would keep us, and the master with us, at birth.
        how = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            fd, created = os.open(self.path, how | os.O_CREAT | os.O_EXCL, 0o666), True  # --umask decides who reads it
        except FileExistsError:
            fd, created = os.open(self.path, how | os.O_CREAT, 0o666), False
        os.set_blocking(fd, True)
        if self._fd >= 0:
            os.close(self._fd)
        found = os.fstat(fd)
        self._fd, self.created, self._same = fd, created, (found.st_dev, found.st_ino)
        # Only a file can be rotated: /dev/stdout and a FIFO cannot.
        self._trouble = None
        self._limit = self.max_size if self.max_size and stat.S_ISREG(found.st_mode) else float("inf")

    def _look(self, more: int) -> None:
        """Follow the name to where it leads now, and rotate if there is no room for so many bytes more."""
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
        """It was moved away, or deleted: to a deleted one nothing is written, nobody would ever read it."""
        try:
            self._open()
        except OSError as error:
            if os.fstat(self._fd).st_nlink == 0:
                raise
            self._have_trouble(f"it was moved away and cannot be opened again: {error.strerror}")

    def _have_trouble(self, what: str) -> None:
        if what != self._trouble:
            self._trouble = what
            self.complain(what)

    def _rotate(self) -> None:
        """The oldest goes, the others move one up, and a new one begins."""
        names = [self.path, *(f"{self.path}.{number}" for number in range(1, self.keep + 1))]
        for older, younger in zip(names[:0:-1], names[-2::-1], strict=True):
            with suppress(FileNotFoundError):  # there were not so many yet
                os.replace(younger, older)
        if not self.keep:
            os.unlink(self.path)
        self._open()
