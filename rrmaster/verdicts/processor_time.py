"""How long has a process run, and how long has it waited for a processor?

``/proc/PID/task/TID/schedstat`` says so for each thread, in nanoseconds: time on a processor, time in a run queue (also
while its cgroup has used up its ``cpu.max``), and the number of turns.  A wait is added when it ends.  A kernel without
it (CONFIG_SCHED_INFO) has the time on a processor in ``stat``; how long the whole machine's processes waited is then in
``/proc/pressure/cpu``, where that exists (CONFIG_PSI).

A look costs about 20 us for each thread, so it is taken only at a process that is silent.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from attrs import Factory, frozen

MOST_THREADS = 64
"""Threads of one process that are looked at: the first ones, and the main thread is the first."""

MOST_PROCESSES = 64
"""Processes that are looked at together: a worker may have any number of children."""

_TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds, the unit of the times in ``/proc/PID/stat``."""


class Used(NamedTuple):
    """What one thread had since its start, in seconds."""

    ran: float
    waited: float


@frozen
class Look:
    """What some processes had, at one moment."""

    threads: dict[int, Used] = Factory(dict)
    """By the thread's number."""
    runnable: bool = False
    """Whether a thread runs or waits for a processor."""
    waits_known: bool = True
    """Whether the kernel says how long each thread waited."""
    pressure: float | None = None
    """Seconds for which some process of the machine waited for a processor, since boot; asked only if needed."""

    def since(self, first: Look) -> Used:
        """What they had since an earlier look.  A thread that is new was born meanwhile, and counts whole."""
        ran = waited = 0.0
        for number, (its_run, its_wait) in self.threads.items():
            before = first.threads.get(number, Used(0.0, 0.0))
            ran += its_run - before.ran
            waited += its_wait - before.waited
        if not self.waits_known and self.pressure is not None and first.pressure is not None:
            waited = self.pressure - first.pressure
        return Used(ran, waited)


def look(pids: Iterable[int]) -> Look:
    """Look at these processes, and at their children; those that have ended count nothing."""
    return _look((pid, number) for pid in _with_descendants(pids) for number in _numbers(f"/proc/{pid}/task"))


def look_here() -> Look:
    """Look at the present thread alone.  What a process's other threads wait for does not keep this one waiting."""
    return _look([(os.getpid(), threading.get_native_id())])


def _look(numbers: Iterable[tuple[int, int]]) -> Look:
    threads: dict[int, Used] = {}
    runnable, known = False, True
    for pid, number in numbers:
        state, used, has_waits = _thread(pid, number)
        if used is not None:
            threads[number] = used
            runnable, known = runnable or state == "R", known and has_waits
    known = known and bool(threads)
    return Look(threads, runnable, known, None if known else _pressure())


def waited_here() -> float:
    """Seconds for which the present thread has waited for a processor since its start; 0 where that is not known."""
    times = _read("/proc/thread-self/schedstat").split()
    return int(times[1]) / 1e9 if len(times) >= 2 else 0.0


def children_of(pid: int) -> set[int]:
    """The children of a process; empty where the kernel does not say (CONFIG_PROC_CHILDREN)."""
    found: set[int] = set()
    for number in _numbers(f"/proc/{pid}/task"):
        found.update(map(int, _read(f"/proc/{pid}/task/{number}/children").split()))
    return found


def _with_descendants(pids: Iterable[int]) -> Iterator[int]:
    seen: set[int] = set()
    waiting = list(pids)
    while waiting and len(seen) < MOST_PROCESSES:
        pid = waiting.pop(0)
        if pid not in seen:
            seen.add(pid)
            yield pid
            waiting += children_of(pid)


def _thread(pid: int, number: int) -> tuple[str, Used | None, bool]:
    """Its state, what it had (None: it has just ended), and whether the kernel says how long it waited."""
    fields = _read(f"/proc/{pid}/task/{number}/stat").rpartition(")")[2].split()
    if len(fields) < 13:
        return "", None, True
    times = _read(f"/proc/{pid}/task/{number}/schedstat").split()
    if len(times) >= 2:
        return fields[0], Used(int(times[0]) / 1e9, int(times[1]) / 1e9), True
    return fields[0], Used((int(fields[11]) + int(fields[12])) * _TICK, 0.0), False


def _pressure() -> float | None:
    for line in _read("/proc/pressure/cpu").splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1e6
    return None


def _numbers(folder: str) -> list[int]:
    try:
        return sorted(map(int, os.listdir(folder)))[:MOST_THREADS]
    except OSError:  # the process has ended, belongs to another user, or no descriptor is left
        return []


def _read(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(4096).decode("latin-1")
    except OSError:
        return ""  # it has ended, or this kernel does not have it
