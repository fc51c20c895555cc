"""Which processes descend from a worker, and how does a process end those that another leaves?

A worker's process group ends with it.  A child in a session or a group of its own (``start_new_session=True``, a
daemon) is in no such group, and once its parent has ended no parent leads to the worker.  Two traces lead there: the
parents that still live, and the environment, which a child inherits and /proc shows.  The master gives each worker a
variable with its *mark* for that.

Nothing here trusts a number: a process is signalled through a pidfd, and only if it is still the one that was seen.
All functions find nothing where /proc is missing, or is that of another pid namespace.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from attrs import frozen

VARIABLE = "RRMASTER_STARTED_BY"
"""The environment variable whose value is a `Mark`.  A child without it cannot be told from a stranger's."""

_PREFIX = f"{VARIABLE}=".encode()

TEMPLATE = 0
"""The worker's number in the mark of a template, and of what an import starts.  Workers count from 1."""

_MOST = 2**18
"""Bytes of an environment that are read: twice what one string of it may have (execve(2))."""

_PASSES_S = 1.0
"""Seconds for which processes that start others are ended again and again."""

_PAUSE_S = 0.005
"""Seconds between two passes.  A process that was killed is a zombie before."""


@frozen
class Mark:
    """Which worker of which master started a process."""

    master: str
    """12 hexadecimal digits, which no two masters share."""
    worker: int
    """The worker's number, or `TEMPLATE`."""

    def __str__(self) -> str:
        # Always of the same length: a forked worker writes its own over its template's, in place.
        return f"{self.master}.{self.worker:010}"

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """The mark in such a text; None if it is none."""
        master, dot, worker = text.partition(".")
        return cls(master, int(worker)) if dot and worker.isascii() and worker.isdigit() else None


@frozen
class Seen:
    """A process, as it was when it was looked at."""

    pid: int
    parent: int
    group: int
    began: int
    """When it was started, in clock ticks since the machine was; proc_pid_stat(5)."""
    name: str
    ended: bool = False
    """It is a zombie."""


def is_ours() -> bool:
    """Whether /proc numbers processes as this process does; not so with another pid namespace's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def now() -> float:
    """The time in clock ticks since the machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")


def look(pid: int) -> Seen | None:
    """This process; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            head, _, rest = file.read(4096).rpartition(b") ")
        fields = rest.split()
        name = head.partition(b" (")[2].decode(errors="replace")
        return Seen(pid, int(fields[1]), int(fields[2]), int(fields[19]), name, fields[0] in (b"Z", b"X"))
    except (OSError, ValueError, IndexError):
        return None


def mark_of(pid: int) -> Mark | None:
    """The mark that a process was started with; None if it has none, or another user's process hides it."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            found = _value(file.read(_MOST))
    except OSError:
        return None
    return Mark.parse(found[1].decode(errors="replace")) if found is not None else None


def _value(environ: bytes) -> tuple[int, bytes] | None:
    """Where the variable's value begins in an environment, and the value."""
    start = 0 if environ.startswith(_PREFIX) else environ.find(b"\0" + _PREFIX) + 1
    if start == 0 and not environ.startswith(_PREFIX):
        return None
    start += len(_PREFIX)
    return start, environ[start:].partition(b"\0")[0]


def children_of(pid: int) -> list[int]:
    """The children of a process, zombies included."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
        except OSError:
            pass  # the thread has just ended, or the kernel does not tell (CONFIG_PROC_CHILDREN)
    return found


def tree_of(roots: Iterable[int]) -> list[Seen]:
    """These processes and all their descendants, parents first, without zombies."""
    found: dict[int, Seen] = {}
    waiting = list(roots)
    while waiting:
        seen = look(waiting.pop())
        if seen is not None and seen.pid not in found:
            found[seen.pid] = seen
            waiting += children_of(seen.pid)
    return [seen for seen in found.values() if not seen.ended]


def marked(mark: Mark) -> list[Seen]:
    """All processes of this machine that have this mark, and their descendants, without zombies and this process.

    Reads the environment of each process that this user may look at: some 20 us for each.
    """
    everything = {int(name): look(int(name)) for name in os.listdir("/proc") if name.isdigit()} if is_ours() else {}
    living = {pid: seen for pid, seen in everything.items() if seen is not None and pid != os.getpid()}
    found = {pid for pid in living if mark_of(pid) == mark}
    return [seen for seen in living.values() if not seen.ended and not found.isdisjoint(_line_of(seen, living))]


def _line_of(seen: Seen, living: Mapping[int, Seen]) -> Iterator[int]:
    """A process, its parent, and so on.  Numbers may be reused while they are collected, so no circle may trap it."""
    passed: set[int] = set()
    current: Seen | None = seen
    while current is not None and current.pid not in passed:
        passed.add(current.pid)
        yield current.pid
        current = living.get(current.parent)


def kill(found: Collection[Seen]) -> list[Seen]:
    """Send SIGKILL to each that is still the process that was seen; returns those that were sent it."""
    return [seen for seen in found if _kill(seen)]


def _kill(seen: Seen) -> bool:
    try:
        pidfd = os.pidfd_open(seen.pid)
    except OSError:
        return False  # it has ended, or no descriptor is free: the next pass finds it
    try:
        now = look(seen.pid)
        if now is None or now.began != seen.began:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    except OSError:
        return False  # it has ended, or is another user's
    finally:
        os.close(pidfd)


def end_marked(mark: Mark) -> list[Seen]:
    """End all processes that have this mark.  Blocks, for a second at most; returns what was ended."""
    return end_all(lambda: marked(mark))


def end_own(mark: Mark | None, everything: bool) -> None:
    """End what this process has started and what descends from that, before this process ends.

    With `everything` the whole machine is searched for the mark, and the children that stayed in this process's group
    end too; else another process (the master) ends the group, and what has the mark.
    """
    own = os.getpgrp()

    def find() -> list[Seen]:
        tree = tree_of(children_of(os.getpid())) if is_ours() else []
        if everything:
            return tree + (marked(mark) if mark is not None else [])
        return [seen for seen in tree if seen.group != own]

    if everything or _has_children():
        end_all(find)


def _has_children() -> bool:
    """Whether this process has any child: one system call."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_all(find: Callable[[], list[Seen]]) -> list[Seen]:
    """Kill what `find` finds, until it finds nothing: what is killed may just have started another process."""
    ended: dict[int, Seen] = {}
    deadline = time.monotonic() + _PASSES_S
    while (killed := kill(find())) and time.monotonic() < deadline:
        ended.update((seen.pid, seen) for seen in killed)
        time.sleep(_PAUSE_S)
    return list(ended.values())


def overwrite(mark: Mark) -> None:
    """Show this mark in /proc for this process and for what it forks; its own environment is not changed by that.

    For a process that was forked: the kernel shows the environment with which an ancestor was executed, and reads it
    from the process's own memory, where it was put at the start; proc_pid_stat(5).
    """
    try:
        import ctypes

        with open("/proc/self/stat", "rb") as file:
            start = int(file.read().rpartition(b") ")[2].split()[47])  # env_start
        with open("/proc/self/environ", "rb") as file:
            found = _value(file.read(_MOST))
        text = str(mark).encode()
        if found is not None and len(found[1]) == len(text):
            ctypes.memmove(start + found[0], text, len(text))
    except (ImportError, OSError, ValueError, IndexError):
        pass  # an interpreter without ctypes, or no /proc: what it forks is told by its parents alone
