"""Is it safe to fork a process that has imported the application, and if not, why?

A fork shares open descriptors and loses threads.  Two processes that read one socket get parts of its answers each, and
a lock that a thread held stays locked for ever.  So what the import has left behind decides: the difference between two
`Traces`, one taken before the import and one after.

- Threads that end by themselves before a fork (OpenBLAS, which numpy uses, has handlers for that) are no hindrance: the
  second traces are taken after a first fork has been tried.
- Of some threads there is evidence that a forked process does without them, or has them again: those are *in doubt*,
  and a trial decides (`worker.preload.trial`).  A thread without such evidence is a hindrance, and nothing is tried: a
  first request tells nothing of what a library does later.
- Files that are open for reading only are none: each worker opens them again, so that it has an offset of its own.
- Locks on files, and memory that forked processes share, are hindrances: all workers would be one holder of the lock.
- Timers of the kernel's, locks on memory and a signal at the parent's death are: a forked process has none.
- A name that `tempfile` chose is one: each worker would have another, and remove it at its end.
- An import that reads an environment variable that each worker has for itself is one: all workers would get one value.
  So is one that takes its process id or a random value: a name made from it would be the name of all workers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

import attrs
from attrs import frozen

HARMLESS = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
"""Devices without a state: sharing them does no harm."""

DISPENSABLE_THREADS = {
    "jemalloc_bg_thd": "jemalloc takes its locks before a fork, and frees memory without this thread after it",
    "polars-ooc-clea": "it deletes what ended processes have left on the disk, and no query needs it",
}
"""Threads without which their library is right, by their names.  jemalloc 5.3 is in pyarrow, which pandas loads where
it is installed (`jemalloc_postfork_child`); the other is what the import of polars 2.1 starts, and no query.

Not so onnxruntime 1.32, whose import opens a database and starts a thread that sends figures of its use: a process that
is forked from it works, writes to the same database, and aborts at its end, where it waits for the thread."""

RENEWED_THREADS = frozenset({"OtelBatchSpanRecordProcessor", "OtelBatchLogRecordProcessor"})
"""Threads that their library starts again in a forked process, and that do nothing in the one that forked although they
look for work by themselves: those of OpenTelemetry's batch processors (SDK 1.45), whose queue is empty there."""

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

_USED = "used the generator of "


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
    peer: str = ""
    """For a socket: to what it is connected, as a word and an address; empty if to nothing."""


@frozen
class Thread:
    """One thread."""

    name: str
    id: int = 0
    """The kernel's number of it."""
    waits: bool = False
    """Whether it waits, without a limit of time, for work that another thread gives it."""


def _as_threads(threads: Iterable[Thread | str]) -> tuple[Thread, ...]:
    return tuple(Thread(each) if isinstance(each, str) else each for each in threads)


@frozen
class Traces:
    """What a process has that a fork would lose or share."""

    threads: tuple[Thread, ...] = attrs.field(default=(), converter=_as_threads)
    """All threads but the main one."""
    held: frozenset[OpenDescriptor] = frozenset()
    """The open descriptors."""
    children: tuple[str, ...] = ()
    """The names of the child processes."""
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
    lost: tuple[str, ...] = ()
    """What else the kernel does for it and for no process that it forks, as phrases that follow "it"."""


class Verdict(Enum):
    """What a trace means for a fork."""

    HINDRANCE = "prevents forking"
    DOUBT = "in doubt"
    """A trial decides."""
    HARMLESS = "harmless"


@frozen
class Finding:
    """One thing that the import did, and what it means for a fork."""

    what: str
    """A phrase that follows "it"."""
    verdict: Verdict = Verdict.HINDRANCE
    why: str = ""
    """Why a doubt is no hindrance, and what is harmless does no harm."""
    trace: str = ""
    """By which its origin is known: ``thread 4711``, ``descriptor 7``, ``memory /dev/zero (deleted)``."""


def findings(before: Traces, after: Traces) -> tuple[Finding, ...]:
    """What the import did that a fork would lose or share."""
    found = [_of_thread(thread, after.renewed) for thread in _new_threads(before, after)]
    held = sorted(after.held - before.held, key=lambda held: held.number)
    found += [_of_descriptor(each) for each in held]
    unsafe = {each.target for each in held if _is_unsafe(each)}
    shared = _beyond(before.shared, after.shared)
    found += [Finding(_shared(name), trace=f"memory {name}") for name in shared if name not in unsafe]
    found += [
        Finding(f"started a process ({name})", trace="process") for name in _beyond(before.children, after.children)
    ]
    if after.timer:
        found.append(Finding("started an interval timer", trace="timer"))
    found += [Finding(what, trace=f"lost {what}") for what in _beyond(before.lost, after.lost)]
    if after.looping:
        found.append(Finding("left an event loop running", trace="loop"))
    found += [Finding(what, trace=what) for what in asked_for(after.asked)]
    return (*found, *(Finding(f"took {what}{_OWN}", trace=f"taken {what}") for what in after.taken))


def hindrances(before: Traces, after: Traces) -> tuple[str, ...]:
    """What the import did that makes a fork unsafe, as phrases that follow "it"; empty if nothing did."""
    return phrases(findings(before, after), Verdict.HINDRANCE)


def phrases(found: Iterable[Finding], verdict: Verdict) -> tuple[str, ...]:
    """The phrases of those with this verdict, each once."""
    return tuple(dict.fromkeys(each.what for each in found if each.verdict is verdict))


def _new_threads(before: Traces, after: Traces) -> list[Thread]:
    left = list(after.threads)
    for old in before.threads:
        same = next((each for each in left if (each.name, each.id) == (old.name, old.id)), None)
        if same is not None:
            left.remove(same)
    return left


def _of_thread(thread: Thread, renewed: tuple[str, ...]) -> Finding:
    why = DISPENSABLE_THREADS.get(thread.name, "")
    if not why and thread.name in renewed and (thread.waits or thread.name in RENEWED_THREADS):
        why = "its library starts it again in a forked process (os.register_at_fork), and it only waits for work here"
    verdict = Verdict.DOUBT if why else Verdict.HINDRANCE
    return Finding(f"started a thread ({thread.name})", verdict, why, f"thread {thread.id}")


def _of_descriptor(held: OpenDescriptor) -> Finding:
    trace = f"descriptor {held.number}"
    if _is_unsafe(held):
        return Finding(_opened(held), trace=trace)
    if held.plain:
        why = "each worker opens it again, and reads on from where the import stopped"
        return Finding(f"opened {held.target} for reading (descriptor {held.number})", Verdict.HARMLESS, why, trace)
    return Finding(f"opened {held.target} (descriptor {held.number})", Verdict.HARMLESS, "it has no state", trace)


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
            named = f" {held.target}" if held.target.startswith("/") else f" {held.peer}" if held.peer else ""
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


def draws_the_same(function: str) -> str:
    """The phrase for a generator in compiled code that a fork copies."""
    return f"{_USED}{function}, which goes on with the same values in each forked process"


def is_drawn(phrase: str) -> bool:
    """Whether this is such a phrase."""
    return phrase.startswith(_USED)


def made_temporary(path: str) -> str:
    """The phrase for a file or directory with a name that `tempfile` chose."""
    return f"made {path}, a temporary name that each worker has for itself"


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
