"""What has an import left behind in this process, as far as it matters to a fork?

`protocol.forks.safety` decides from it whether the process may be forked.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from ...protocol.forks.safety import Finding, Thread, Traces, findings
from ...protocol.template_wire import MemoryUse
from .lost import lost_by_a_fork
from .sharing import open_descriptors, read, shared_memory
from .watch import ImportWatch

_NAMELESS = "of compiled code, without a name"
"""A thread to which its library has given no name has that of the process."""

_HELPERS = {
    "multiprocessing.resource_tracker": "multiprocessing's resource tracker",
    "multiprocessing.forkserver": "multiprocessing's fork server",
    "joblib.externals.loky.backend.resource_tracker": "loky's resource tracker",
}
"""Processes that a library starts for itself, by the module in their command: all of them are called python."""


def findings_of(before: Traces | None, after: Traces | None) -> tuple[Finding, ...]:
    """What the import did that matters to a fork.  None: it cannot be seen."""
    if before is None or after is None:
        return (Finding("could not be watched (there is no /proc)"),)
    return findings(before, after)


def traces_now(watch: ImportWatch | None = None, renewed: tuple[str, ...] = ()) -> Traces | None:
    """What this process has that matters to a fork, or None if that cannot be seen.

    `watch`: of the import, if there was one; `renewed`: the threads that a process forked from it has.
    """
    if not os.path.isdir("/proc/self/task"):
        return None
    tasks = [int(tid) for tid in os.listdir("/proc/self/task")]
    return Traces(
        threads=_threads(sorted(tid for tid in tasks if tid != os.getpid())),
        held=frozenset(held for held in open_descriptors() if not (watch and watch.is_made_again(held.target))),
        children=tuple(_process(pid) for tid in tasks for pid in read(f"/proc/self/task/{tid}/children").split()),
        timer=any(signal.getitimer(which)[0] for which in (0, 1, 2)),
        looping=_looping(),
        asked=watch.asked() if watch else (),
        taken=watch.taken() if watch else (),
        renewed=renewed,
        shared=tuple(name for name in shared_memory() if not (watch and watch.is_made_again(name))),
        lost=lost_by_a_fork(),
    )


def _threads(tids: list[int]) -> Iterator[Thread]:
    known = {thread.native_id: thread for thread in threading.enumerate()}
    own = read("/proc/self/comm").strip()
    for tid in tids:
        if (thread := known.get(tid)) is not None:
            yield Thread(thread.name, tid, waits=_waits(thread))
        else:
            name = read(f"/proc/self/task/{tid}/comm").strip()
            yield Thread(_NAMELESS if name == own else name, tid)


def _waits(thread: threading.Thread) -> bool:
    """Whether a thread waits for another to wake it: for the item of a queue, an event, a condition, without a limit of
    time.  Such a thread does nothing in a template, in which nothing runs."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None or (frame.f_code.co_filename, frame.f_code.co_name) != (threading.__file__, "wait"):
        return False
    return frame.f_locals.get("timeout") is None


def _process(pid: str) -> str:
    """The name of a process; of Python's own helpers, what they are."""
    command = read(f"/proc/{pid}/cmdline")
    known = (what for module, what in _HELPERS.items() if f"from {module} import" in command)
    return next(known, read(f"/proc/{pid}/comm").strip())


def _looping() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def memory_use() -> MemoryUse:
    """How much memory this process has for itself alone, and in all."""
    found: dict[str, int] = {}
    for line in read("/proc/self/smaps_rollup").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024
    own = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return MemoryUse(own, found.get("Pss", 0), found.get("Rss", 0))
