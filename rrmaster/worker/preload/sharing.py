"""What would a forked worker share with the others, and how does it get its own?

A fork copies memory and shares *open file descriptions*: two processes that read one file through the same description
move one offset, and each gets parts of it (open(2), lseek(2)).  So a worker opens again what the import had open for
reading, before the application runs::

    template   5 ──► description, at 1200 ──► data.npz        5 ──► description, at 1200 ──┐
                     ▲                                                                     ├──► data.npz
    worker     5 ────┘                                        5 ──► its own, at 1200  ─────┘

The link in /proc/self/fd leads to the very file, also where its name is gone or another file's; so a worker reads what
the template has read, whatever lies on the disk by then.  Descriptors that led to one description do so again.

Memory is shared where it is mapped so (mmap(2), MAP_SHARED): a lock or a semaphore between processes lies there.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Iterable, Iterator

from attrs import frozen

from ...protocol.forks.safety import Finding, OpenDescriptor
from ..loading import CannotLoad

_SHARED_AND_WRITABLE = re.compile(r"^\S+ .w.s \S+ \S+ \S+ +(.*)$", re.MULTILINE)
"""A line of /proc/self/maps: addresses, permissions, offset, device, inode and name; proc_pid_maps(5)."""

_LOCK = re.compile(r"^lock:\s+\S+ (\S+)\s+\S+\s+(\S+)", re.MULTILINE)
"""A line of /proc/self/fdinfo: number, kind, ADVISORY, way, process, file and range."""


# --- what there is


def targets() -> dict[int, str]:
    """The descriptors of this process, and where each leads; none where there is no /proc."""
    try:
        found = {int(name): target(int(name)) for name in os.listdir("/proc/self/fd")}
    except OSError:
        return {}
    return {number: path for number, path in found.items() if path}  # not the descriptor of the listing itself


def target(number: int) -> str:
    """Where a descriptor leads; empty if it is closed."""
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def read(path: str) -> str:
    """What a file in /proc tells; empty if it has gone, or the kernel does not tell."""
    try:
        with open(path, errors="surrogateescape") as file:  # a file's name may be any bytes
            return file.read()
    except OSError:
        return ""


def open_descriptors() -> Iterator[OpenDescriptor]:
    """What this process has open."""
    for number, path in targets().items():
        try:
            flags = fcntl.fcntl(number, fcntl.F_GETFL)
            mode = os.fstat(number).st_mode
        except OSError:
            continue  # closed by now
        # A file in /proc that tells of this process would tell a worker of its template.
        plain = (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and not path.startswith(f"/proc/{os.getpid()}/")
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        locked = path.startswith("/") and _is_locked(number)
        yield OpenDescriptor(number, path, writable, plain, locked, _peer(number) if stat.S_ISSOCK(mode) else "")


def _peer(number: int) -> str:
    """To what a socket is connected: ``to 127.0.0.1:5432``.  An event loop has two that are connected to each other."""
    try:
        with socket.socket(fileno=os.dup(number)) as found:
            if found.family == socket.AF_UNIX and not found.getsockname():
                pid, _, _ = struct.unpack("3i", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if pid == os.getpid():
                    return "of a pair"
            peer = found.getpeername()
    except OSError:
        return ""  # it is not connected
    if isinstance(peer, tuple):
        return f"to {peer[0]}:{peer[1]}"
    return f"to {os.fsdecode(peer)}" if peer else ""


_SHARED_LOCK = ("FLOCK", "READ")
"""How the kernel names a lock that any number of processes may have (flock with LOCK_SH): HDF5 has one on each file
that it reads.  Each worker takes its own."""


def _is_locked(number: int) -> bool:
    """Whether the file is locked through it, and not only against writing."""
    return any(lock != _SHARED_LOCK for lock in _locks(number))


def _locks(number: int) -> list[tuple[str, str]]:
    """The kinds and ways of the locks on a file: ``FLOCK``, ``WRITE``; proc_pid_fdinfo(5)."""
    return _LOCK.findall(read(f"/proc/self/fdinfo/{number}"))


def shared_memory() -> tuple[str, ...]:
    """The names of the mappings that this process can write to and shares with those that it forks."""
    return tuple(_SHARED_AND_WRITABLE.findall(read("/proc/self/maps")))


# --- what each worker opens again


@frozen
class SharedFile:
    """An open file description that forked processes share."""

    numbers: tuple[int, ...]
    """The descriptors that lead to it."""
    target: str
    identity: tuple[int, int]
    """The file's device and number, by which it is known after the fork."""


def shared_files(descriptors: Iterable[OpenDescriptor]) -> tuple[SharedFile, ...]:
    """The descriptions behind these descriptors.  To be called in the template, which alone uses them yet."""
    found: list[SharedFile] = []
    for held in sorted(descriptors, key=lambda held: held.number):
        identity = _identity(held.number)
        if identity is None or fcntl.fcntl(held.number, fcntl.F_GETFL) & os.O_PATH:
            continue  # closed by now; or only a place in the tree, which has no offset
        for index, other in enumerate(found):
            if other.identity == identity and _are_one(other.numbers[0], held.number):
                found[index] = SharedFile((*other.numbers, held.number), other.target, identity)
                break
        else:
            found.append(SharedFile((held.number,), held.target, identity))
    return tuple(found)


def _are_one(one: int, other: int) -> bool:
    """Whether two descriptors of a file lead to one description.

    O_NONBLOCK belongs to the description, and means nothing for a file, so it can be changed for a moment.
    """
    flags, before = fcntl.fcntl(one, fcntl.F_GETFL), fcntl.fcntl(other, fcntl.F_GETFL)
    fcntl.fcntl(one, fcntl.F_SETFL, flags ^ os.O_NONBLOCK)
    try:
        return fcntl.fcntl(other, fcntl.F_GETFL) != before
    finally:
        fcntl.fcntl(one, fcntl.F_SETFL, flags)


def cannot_be_opened_again(files: Iterable[SharedFile]) -> tuple[Finding, ...]:
    """What a worker would be refused."""
    found = []
    for file in files:
        try:
            os.close(_own_description(file.numbers[0]))
        except OSError as error:
            what = f"opened {file.target}, which may not be opened again ({error.strerror})"
            found.append(Finding(what, trace=f"descriptor {file.numbers[0]}"))
    return tuple(found)


def open_again(files: Iterable[SharedFile]) -> None:
    """In a forked worker, before the application runs: give each descriptor a description of its own.

    Raises CannotLoad: with a shared offset the application would read other data, and not know.
    """
    for file in files:
        # A handler of `os.register_at_fork` may have closed a descriptor, and its number may be another file's.
        numbers = [number for number in file.numbers if _identity(number) == file.identity]
        try:
            if numbers:
                _replace(numbers)
        except OSError as error:
            raise CannotLoad(f"{file.target} cannot be opened again in a forked worker: {error.strerror}") from None


def _replace(numbers: list[int]) -> None:
    own = _own_description(numbers[0])
    try:
        for number in numbers:
            os.dup2(own, number, os.get_inheritable(number))
    finally:
        os.close(own)


def _own_description(number: int) -> int:
    """The same file with the same flags and a shared lock if it has one, at the same offset.

    The descriptor is the caller's.
    """
    # The path is a link, and SQLite opens with O_NOFOLLOW.
    flags = fcntl.fcntl(number, fcntl.F_GETFL) & ~os.O_NOFOLLOW
    own = os.open(f"/proc/self/fd/{number}", flags | os.O_CLOEXEC)
    try:
        os.lseek(own, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
        if _SHARED_LOCK in _locks(number):
            fcntl.flock(own, fcntl.LOCK_SH | fcntl.LOCK_NB)  # it is never refused: the template has one
    except OSError:
        os.close(own)
        raise
    return own


def _identity(number: int) -> tuple[int, int] | None:
    try:
        found = os.fstat(number)
    except OSError:
        return None  # it is closed
    return found.st_dev, found.st_ino
