"""On which machine was it measured, what has a process cost so far, and how are figures summarized?"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import trio
from attrs import frozen

SERVERS = ("rrmaster", "uvicorn", "uvloop", "httptools", "gunicorn", "hypercorn", "granian")
"""Packages whose versions go into the results."""

HOME = Path(__file__).resolve().parent
RESULTS = HOME / "results"


def cpu_ns(pid: int) -> int:
    """Nanoseconds that the threads of a process have spent on a processor, since each began.

    The scheduler's own account: exact, where utime and stime are sampled.  A thread that has ended is not in it, so the
    difference of two readings is that of the threads that ran all the time between them.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            pass  # it ended while we looked
    return total


def children(pid: int) -> list[int]:
    """The living child processes of all threads of this process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found += map(int, (task / "children").read_text().split())
        except FileNotFoundError:
            pass  # it ended while we looked
    return found


def memory(pid: int) -> tuple[float, float]:
    """USS and PSS of a process, in MiB; zeros if it has ended."""
    kilobytes: dict[str, int] = {}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, value = line.partition(":")
            kilobytes[name] = int(value.split()[0])
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended while we looked
    private = kilobytes.get("Private_Clean", 0) + kilobytes.get("Private_Dirty", 0)
    return private / 1024, kilobytes.get("Pss", 0) / 1024


def describe() -> dict[str, Any]:
    """The machine, and the versions of the programs."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "trio": trio.__version__,
        "node": _version("node", "--version"),
        "cc": _version("cc", "--version"),
        "servers": {name: found for name in SERVERS if (found := _installed(name)) is not None},
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of the values does not exceed (nearest rank); nan if there are none."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.nan


@frozen
class Spread:
    """The median of some figures, and the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def show(self, digits: int = 1) -> str:
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}..{self.most:.{digits}f})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows under their heads, the first column aligned left and the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for head, *cells in rows:
        rest = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([head.ljust(widths[0]), *rest]).rstrip())
    return "\n".join(lines)


def unwritable() -> str | None:
    """The reason why results cannot be written; None if they can."""
    try:
        RESULTS.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=RESULTS):
            return None
    except OSError as error:
        return f"{error.strerror} ({RESULTS})"


def keep(name: str, content: dict[str, Any]) -> Path:
    """Write results, with the date; returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    path.write_text(json.dumps({"date": date, **content}, indent=2) + "\n")
    return path
