"""Was an import safe to fork, and if not, what was in the way?

A fork shares what is open and loses what runs: two processes that read one socket get halves of its answers, a lock
that a thread held stays locked for ever.  So what an import leaves behind decides.  Looked at are the differences
between two `Traces`, one from before it and one from after.

- Threads that end by themselves before a fork (OpenBLAS, below numpy, has handlers for that) are no hindrance: the
  traces from after are taken when one fork has been tried.
- What is open for reading alone is none, for so are fonts and databases of time zones.
- Whoever only asks for what each worker has for itself would get one answer for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

HARMLESS = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
"""Devices without a state."""

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
"""How /proc/self/fd names what is open, and what that is."""


@frozen
class OpenDescriptor:
    """One open descriptor."""

    number: int
    target: str
    """As /proc/self/fd has it."""
    writable: bool


@frozen
class Traces:
    """What a process holds of which a fork would have too little or too much."""

    threads: tuple[str, ...] = ()
    """The names of all but the main one."""
    held: frozenset[OpenDescriptor] = frozenset()
    children: int = 0
    timer: bool = False
    """An interval timer runs."""
    looping: bool = False
    """An event loop runs in this thread."""
    asked: tuple[str, ...] = ()
    """Environment it has asked for that each worker has for itself."""


def hindrances(before: Traces, after: Traces) -> tuple[str, ...]:
    """What the import did that makes a fork unsafe, in words that follow "it"; empty: nothing."""
    found = [f"started a thread ({name})" for name in _beyond(before.threads, after.threads)]
    found += [_opened(held) for held in sorted(after.held - before.held, key=lambda held: held.number) if _bad(held)]
    if after.children > before.children:
        found.append("started a process")
    if after.timer:
        found.append("started an interval timer")
    if after.looping:
        found.append("left an event loop running")
    return tuple(dict.fromkeys([*found, *asked_for(after.asked)]))


def asked_for(names: Iterable[str]) -> tuple[str, ...]:
    """The same of environment that it asked for."""
    return tuple(f"asked for {name}, which each worker has for itself" for name in names)


def _beyond(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    left = list(after)
    for name in before:
        if name in left:
            left.remove(name)
    return left


def _bad(held: OpenDescriptor) -> bool:
    if held.target.startswith("/") and not held.target.startswith("/memfd:"):
        return held.writable and held.target not in HARMLESS
    return True


def _opened(held: OpenDescriptor) -> str:
    for beginning, what in _KINDS:
        if held.target.startswith(beginning):
            named = f" {held.target}" if held.target.startswith("/") else ""
            return f"{what}{named} (descriptor {held.number})"
    return f"opened {held.target} for writing (descriptor {held.number})"


def in_words(application: str, found: tuple[str, ...], used: bool) -> str:
    """One line that says what was in the way, and what to do about it."""
    what = " and ".join(found) if len(found) < 3 else f"{', '.join(found[:-1])} and {found[-1]}"
    what = re.sub(r"\s+", " ", what)
    todo = "do that in a start-up hook instead (the lifespan of ASGI, or rrmaster.on_fork)"
    if used:
        return (
            f"workers are forked although {application}, while it was imported, {what} (--preload on): what is shared "
            f"so may break; {todo}"
        )
    return f"workers import {application} one by one: while it was imported, it {what}; to fork them, {todo}"
