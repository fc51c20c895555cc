"""What has an import left behind in this process, as far as it matters to a fork?

`protocol.fork_safety` decides from it whether the process may be forked.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...protocol import template_wire
from ...protocol.fork_safety import OpenDescriptor, Traces, hindrances
from ...protocol.template_wire import MemoryUse


def hindrances_of(before: Traces | None, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Why this process cannot be forked, after its import has asked for these variables; empty if it can."""
    after = traces_now(asked)
    if before is None or after is None:
        return ("could not be watched (there is no /proc)",)
    return hindrances(before, after)


@contextmanager
def own_environment() -> Iterator[list[str]]:
    """List the variables that the import asks for and that each worker has for itself; the template has none of them.

    An import that depends on such a variable must not be shared by workers.
    """
    asked: list[str] = []

    class Noting(dict[bytes, bytes]):
        def __missing__(self, key: bytes) -> bytes:
            name = os.fsdecode(key)
            if name in template_wire.OWN_TO_EACH and name not in asked:
                asked.append(name)
            raise KeyError(key)

    environ, environb = os.environ, os.environb
    plain = environ._data  # type: ignore[attr-defined]  # what both are a view of
    environ._data = environb._data = Noting(plain)  # type: ignore[attr-defined]
    try:
        yield asked
    finally:
        plain.clear()
        plain.update(environ._data)  # type: ignore[attr-defined]
        environ._data = environb._data = plain  # type: ignore[attr-defined]


def traces_now(asked: tuple[str, ...] = ()) -> Traces | None:
    """What this process has that matters to a fork, or None if that cannot be seen."""
    if not os.path.isdir("/proc/self/task"):
        return None
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    tasks = [int(tid) for tid in os.listdir("/proc/self/task")]
    others = sorted(tid for tid in tasks if tid != os.getpid())
    return Traces(
        threads=tuple(named.get(tid) or _read(f"/proc/self/task/{tid}/comm") for tid in others),
        held=frozenset(_held()),
        children=sum(len(_read(f"/proc/self/task/{tid}/children").split()) for tid in tasks),
        timer=any(signal.getitimer(which)[0] for which in (0, 1, 2)),
        looping=_looping(),
        asked=asked,
    )


def _held() -> Iterator[OpenDescriptor]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
        except OSError:
            continue  # the descriptor of the listing itself
        yield OpenDescriptor(int(name), target, flags & os.O_ACCMODE != os.O_RDONLY)


def _looping() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""  # a thread that has just ended, or a kernel that does not tell


def memory_use() -> MemoryUse:
    """How much memory this process has for itself alone, and in all."""
    found: dict[str, int] = {}
    for line in _read("/proc/self/smaps_rollup").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024
    own = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return MemoryUse(own, found.get("Pss", 0), found.get("Rss", 0))
