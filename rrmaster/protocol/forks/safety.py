"""Is it safe to fork a process that has imported the application, and if not, why?

A fork shares open descriptors and loses threads.  Two processes that read one socket get parts of its answers each, and
a lock that a thread held stays locked for ever.  So what the import has left behind decides: the difference between two
`Traces`, one taken before the import and one after.

- Threads that end by themselves before a fork (OpenBLAS, which numpy uses, has handlers for that) are no hindrance: the
  second traces are taken after a first fork has been tried.  Nor are those of `HARMLESS_THREADS`, and of
  `RENEWED_THREADS` those that the first fork has.
- Files that are open for reading only are none: each worker opens them again, so that it has an offset of its own.
- Locks on files, and memory that forked processes share, are hindrances: all workers would be one holder of the lock.
- A name that `tempfile` chose is one: each worker would have another, and remove it at its end.
- An import that reads an environment variable that each worker has for itself is one: all workers would get one value.
  So is one that takes its process id or a random value: a name made from it would be the name of all workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

HARMLESS = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
"""Devices without a state: sharing them does no harm."""

HARMLESS_THREADS = frozenset({"jemalloc_bg_thd"})
"""Threads whose library makes them right after a fork.  jemalloc (in pyarrow, which pandas loads where it is installed)
takes its locks before a fork and frees memory without the thread after it: `jemalloc_postfork_child` in its 5.3."""

RENEWED_THREADS = frozenset({"OtelBatchSpanRecordProcessor", "OtelBatchLogRecordProcessor"})
"""Threads that their library starts again in a forked process, and that do nothing in the one that forked: those of
OpenTelemetry's batch processors (SDK 1.45), whose queue is empty there.  That they are started again is tried.  A
thread that works by itself, as OpenTelemetry's reader of metrics does, would report a template as if it served."""

_KINDS = (
    ("socket:", "opened a socket"),
    ("pipe:", "opened a pipe"),
    ("anon_inode:[eventpoll]", "made an event loop"),
    ("anon_inode:[eventfd]", "made an event loop"),
    ("anon_inode:[io_uring]", "made an event loop"),
    ("anon_inode:inotify", "watches files"),
    ("anon_inode:[pidfd]", "started a process"),
    ("anon_inode:", "opened something of the kernel's"),
    ("/memfd:", "opened shared memory"),
    ("/dev/shm/", "opened shared memory"),
    ("/dev/", "opened a device"),
)
"""How the targets in /proc/self/fd begin, and what the import then did."""


_OWN = ", which each worker has for itself"
"""How the phrases end for what would be the same in all forked workers."""


@frozen
class OpenDescriptor:
    """One open descriptor."""

    number: int
    target: str
    """The target of its link in /proc/self/fd."""
    writable: bool
    """Whether it is open for writing."""
    plain: bool = True
    """Whether it is a file or a directory, and no device or named pipe, which have one reader."""
    locked: bool = False
    """Whether the file is locked through it."""


@frozen
class Traces:
    """What a process has that a fork would lose or share."""

    threads: tuple[str, ...] = ()
    """The names of all threads but the main one."""
    held: frozenset[OpenDescriptor] = frozenset()
    """The open descriptors."""
    children: int = 0
    """The number of child processes."""
    timer: bool = False
    """Whether an interval timer runs."""
    looping: bool = False
    """Whether an event loop runs in this thread."""
    asked: tuple[str, ...] = ()
    """The environment variables it has read that each worker has for itself."""
    taken: tuple[str, ...] = ()
    """What else it has taken that each worker should have for itself, and where: ``its process id (shop.py:7)``."""
    renewed: tuple[str, ...] = ()
    """The names of the threads that a process forked from it has from its beginning, by `os.register_at_fork`."""
    shared: tuple[str, ...] = ()
    """The names of the memory that it shares with the processes that it forks, and can write to."""


def hindrances(before: Traces, after: Traces) -> tuple[str, ...]:
    """What the import did that makes a fork unsafe, as phrases that follow "it"; empty if the fork is safe."""
    harmless = HARMLESS_THREADS | (RENEWED_THREADS & {*after.renewed})
    threads = (name for name in _beyond(before.threads, after.threads) if name not in harmless)
    found = [f"started a thread ({name})" for name in threads]
    unsafe = sorted((held for held in after.held - before.held if _is_unsafe(held)), key=lambda held: held.number)
    found += [_opened(held) for held in unsafe]
    seen = {held.target for held in unsafe}
    found += [_shared(name) for name in _beyond(before.shared, after.shared) if name not in seen]
    if after.children > before.children:
        found.append("started a process")
    if after.timer:
        found.append("started an interval timer")
    if after.looping:
        found.append("left an event loop running")
    return tuple(dict.fromkeys([*found, *asked_for(after.asked), *(f"took {what}{_OWN}" for what in after.taken)]))


def asked_for(names: Iterable[str]) -> tuple[str, ...]:
    """The phrases for the environment variables that it read."""
    return tuple(f"asked for {name}{_OWN}" for name in names)


def _beyond(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    left = list(after)
    for name in before:
        if name in left:
            left.remove(name)
    return left


def only_read(before: Traces, after: Traces) -> frozenset[OpenDescriptor]:
    """The files that the import has left open for reading.  Forked workers share their offsets if nothing is done."""
    return frozenset(held for held in after.held - before.held if held.plain and not _is_unsafe(held))


def _is_unsafe(held: OpenDescriptor) -> bool:
    if held.locked or not held.target.startswith("/") or held.target.startswith("/memfd:"):
        return True
    return held.target not in HARMLESS and (held.writable or not held.plain)


def _opened(held: OpenDescriptor) -> str:
    if held.locked:
        return file_locked(held.target, held.number)
    for beginning, what in _KINDS:
        if held.target.startswith(beginning):
            named = f" {held.target}" if held.target.startswith("/") else ""
            return f"{what}{named} (descriptor {held.number})"
    how = "for writing" if held.plain else "which is not an ordinary file"
    return f"opened {held.target}{'' if held.plain else ','} {how} (descriptor {held.number})"


def file_locked(path: str, number: int) -> str:
    """The phrase for a lock on a file."""
    return f"locked {path} (descriptor {number})"


def _shared(name: str) -> str:
    if name.startswith("/dev/shm/sem."):
        return "made a lock or semaphore between processes (like multiprocessing.Lock)"
    if name.startswith("/dev/zero"):
        return "made memory that forked processes share (like mmap.mmap(-1, ...))"
    return f"made shared memory of {name}"


def made_temporary(paths: Iterable[str]) -> tuple[str, ...]:
    """The phrases for the files and directories with names that `tempfile` chose."""
    return tuple(f"made {path}, a temporary name that each worker has for itself" for path in paths)


def describe_hindrances(application: str, found: tuple[str, ...], used: bool) -> str:
    """One line that says what makes a fork unsafe, and what to do about it.

    `used`: workers are forked all the same, because of --preload on.
    """
    what = " and ".join(found) if len(found) < 3 else f"{', '.join(found[:-1])} and {found[-1]}"
    what = re.sub(r"\s+", " ", what)
    todo = "do that in a start-up hook instead (the lifespan of ASGI, or rrmaster.on_fork)"
    if used:
        return (
            f"workers are forked although {application}, while it was imported, {what} (--preload on): what they "
            f"share may break; {todo}"
        )
    if all(phrase.endswith(_OWN) for phrase in found):
        todo += ", or say --preload on if all may have the same"
    return f"workers import {application} one by one: while it was imported, it {what}; to fork them, {todo}"
