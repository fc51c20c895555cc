"""How a run goes: it measures one figure after another, prints and keeps the results, and leaves no server running."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from types import FrameType

from .machine import describe, keep, unwritable
from .programs import Missing
from .progress import tell
from .rounds import Record, Target

Figure = tuple[Record, Sequence[Target], Callable[[], None]]
"""The record of a figure, its targets, and the function that measures it."""

QUICK = "quick-"
PART = "part-"
"""Prefixes of the names of results that are not whole figures.  Nothing is published from these."""


def conduct(figures: Iterable[Figure], keep_them: bool = True, prefix: str = "") -> int:
    """Measure all figures; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    machine = describe()
    print(", ".join(f"{name} {value}" for name, value in machine.items() if value is not None), flush=True)
    if keep_them and (why := unwritable()):
        tell(f"results are printed here and not kept: {why}")
        keep_them = False
    status = 0
    for record, targets, measure in figures:
        whole = _measured(record, measure)
        if record.found or record.notes:
            _told(record, targets)
        if record.found and keep_them:
            path = keep((prefix if whole else PART) + record.name, {"machine": machine, **record.content(targets)})
            print(f"\nwritten: {os.path.relpath(path)}", flush=True)
        if whole is None:
            return 130
        status = status or int(not whole)
    return status


def _measured(record: Record, measure: Callable[[], None]) -> bool | None:
    """Whether the figure was measured to its end; None if it was interrupted."""
    try:
        measure()
    except KeyboardInterrupt:
        tell(f"{record.name}: interrupted; all that was started is ended")
        return None
    except (Missing, OSError, RuntimeError, subprocess.SubprocessError) as error:
        tell(f"{record.name}: not measured to its end: {error}")
        return False
    return True


def _told(record: Record, targets: Sequence[Target]) -> None:
    print(f"\n== {record.name} ==\n\n{record.tables()}")
    for more in (record.ratio_table(targets), record.verdict_table(targets)):
        if more:
            print(f"\n{more}")
    for note in record.notes:
        print(f"note: {note}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Obey the first signal only: a second one during the clean-up would leave servers behind."""
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt
