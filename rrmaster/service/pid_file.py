"""How is the process id of a master written to a file, and removed at its end?

The file is locked (flock) for as long as the master lives, so one that a killed master left behind is known for what it
is, even when another process has the number by now.  No link is followed at the end of the path, as root none of
another user's anywhere, and nothing but a process id is ever overwritten: a mistyped path costs no file.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator

from ..control.socket_paths import try_lock
from ..logs.trusted_path import open_trusted, unlink_if_same
from ..protocol.family.children import kept_from_children
from .cannot_start import CannotStart

LONGEST = 32
"""Bytes that are read of a file: a process id has at most 7 digits, and a line end."""

CLOCKS_APART_S = 2.0
"""Seconds by which a process may seem to have begun after it wrote its file: clocks have steps of 10 ms, and some file
systems steps of 2 s."""


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Keep the process id in this file for the time of the block; None: in no file.  Raises CannotStart."""
    if path is None:
        yield
        return
    try:
        fd = open_trusted(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        why = "it is a link; name the file itself" if os.path.islink(path) else error.strerror
        raise CannotStart(f"cannot write --pid {path}: {why}") from None
    try:
        _write(fd, path)
        path = os.path.abspath(path)
        try:
            with kept_from_children(fd):  # or its lock would outlive the master
                yield
        finally:
            with contextlib.suppress(OSError):  # replaced by another master, or not removable after --user
                found = os.fstat(fd)
                if os.pread(fd, LONGEST, 0) == _own():
                    unlink_if_same(path, found.st_dev, found.st_ino)
    finally:
        os.close(fd)


def _own() -> bytes:
    return f"{os.getpid()}\n".encode()


def _write(fd: int, path: str) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise CannotStart(f"cannot write --pid {path}: it is no regular file")
    text = os.pread(fd, LONGEST + 1, 0).strip()
    if text and not re.fullmatch(rb"\d{1,%d}" % LONGEST, text):
        raise CannotStart(
            f"cannot write --pid {path}: it holds something other than a process id; remove it, if it may go"
        )
    if not try_lock(fd) or (text and _is_running(int(text), found.st_mtime)):
        whose = f"process {text.decode() or '?'} is running"
        raise CannotStart(f"--pid {path}: {whose}; stop it, or remove the file if it is not a master")
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, _own(), 0)
    except OSError as error:
        raise CannotStart(f"cannot write --pid {path}: {error.strerror}") from None


def _is_running(pid: int, written: float) -> bool:
    """Whether another process has this number, and had it already when the file was written."""
    if pid == os.getpid():
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            began = int(file.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return False
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - began) <= written + CLOCKS_APART_S
