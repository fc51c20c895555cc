"""Which processes are in a control group, and how do they end together?  See cgroups(7) and the kernel's cgroup-v2.

A process can leave its process group, its session and its parents, but no control group into which it was put.  Where
the master may make such groups (`processes.cgroups`), it makes a directory of its own, and in it one group for each
worker, named by the worker's process id::

    the group that the master was started in
    └── rrmaster-9f3a61c0d2b4
        ├── 4711                 a worker, and all that it has started
        ├── 4712
        └── imports              the templates, and what imports have started

Nothing runs in the directory itself, and no controller is switched on: the limits stay those of the outer group.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from . import lineage
from .lineage import Seen

PREFIX = "rrmaster-"
"""How the name of a master's directory begins."""


def own() -> Path | None:
    """The directory of this process's group (version 2); None if it cannot be seen."""
    try:
        with open("/proc/self/cgroup") as file:
            path = next(line.rstrip("\n")[3:] for line in file if line.startswith("0::"))
        with open("/proc/self/mountinfo", errors="surrogateescape") as file:
            mounts = [line.split() for line in file]
    except (OSError, StopIteration):
        return None
    for fields in mounts:
        if fields[fields.index("-") + 1] == "cgroup2":
            place = Path(os.path.normpath(f"{fields[4]}/{os.path.relpath(path, fields[3])}"))
            if os.getpid() in members(place):  # another namespace's mount has other groups under these names
                return place
    return None


def members(group: Path) -> list[int]:
    """The processes in this very group, without zombies; none if the group is gone."""
    try:
        return list(map(int, (group / "cgroup.procs").read_text().split()))
    except OSError:
        return []


def end(group: Path, but: int = 0) -> list[Seen]:
    """Kill all processes in a group, except one.  Blocks, for a second at most; returns those that were seen in it."""
    found = _seen(group, but)
    if not but:
        with contextlib.suppress(OSError):  # Linux before 5.14; or it belongs to another user than what is in it
            (group / "cgroup.kill").write_text("1")
            return found
    return lineage.end_all(lambda: _seen(group, but))


def _seen(group: Path, but: int) -> list[Seen]:
    return [seen for seen in map(lineage.look, members(group)) if seen is not None and seen.pid != but]


def remove(group: Path) -> bool:
    """Remove a group, and those that its processes have made in it.  Returns whether it is gone."""
    for path, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # a process is still in it
            os.rmdir(path)
    return not group.exists()


def sweep(place: Path, leaving: int = 0) -> bool:
    """End what the workers of a master that has ended have left, except those that still finish what they hold.

    `leaving` is the process id of a worker that does this as its last act.  Returns whether all has been ended.
    """
    groups = [Path(entry.path) for entry in os.scandir(place) if entry.is_dir()]
    held = {group.name for group in groups if group.name.isdigit() and int(group.name) in members(group)}
    others = held - {str(leaving)}
    for group in groups:
        if group.name not in others and (group.name.isdigit() or not others):
            end(group, leaving if group.name == str(leaving) else 0)
            remove(group)
    return not others


def leave_nothing() -> None:
    """End what this worker, and others of its master that have ended, have started.  The master has ended, too."""
    group = own()
    if group is not None and group.name == str(os.getpid()) and group.parent.name.startswith(PREFIX):
        with contextlib.suppress(OSError):  # another worker removes the same at this moment
            sweep(group.parent, leaving=os.getpid())


def gone_within(group: Path, seconds: float) -> bool:
    """Remove a group whose processes were killed: they take a moment to end.  Blocks."""
    deadline = time.monotonic() + seconds
    while not (gone := remove(group)) and time.monotonic() < deadline:
        time.sleep(0.002)
    return gone
