"""How do the workers of a snapshot read as a table, and what does each column mean?

A table takes a width in columns and uses it.  At 80 columns the essential ones are shown, and the last exits follow
below; a wider terminal shows them, and more, as columns.  Each column is declared once, with its description, so
`status --help`, the help screen of `top` and ``docs/control.md`` say the same.

This module knows no terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

from attrs import frozen

from .formatting import duration, gist, lag, number, shortened, size, took
from .model import Snapshot, WorkerStatus

NARROWEST = 40
"""Columns below which a table is cut off instead of fitted."""

SPACIOUS_RANK = 10
"""The rank from which on a column is shown only if all columns can stand two blanks apart."""


@frozen
class Column:
    """One column of a table of workers."""

    title: str
    cell: Callable[[WorkerStatus], str]
    about: str
    """What the column means, for the legends."""
    rank: int = 0
    """0: always shown.  Other columns are added in the order of their ranks, as far as the width allows."""
    left: bool = False
    """True for text, which is aligned to the left.  Numbers are aligned to the right."""
    value: Callable[[WorkerStatus], float | None] | None = None
    """The number behind a cell that has a unit."""

    def sort_key(self, worker: WorkerStatus) -> tuple[float, str]:
        """What orders the rows by this column; rows with equal keys keep their order."""
        if self.value is not None:
            return self.value(worker) or 0.0, ""
        cell = self.cell(worker)
        return (float(cell), "") if cell.isdecimal() else (0.0, cell)


def shown_state(worker: WorkerStatus) -> str:
    """The state of a worker in one word; a serving worker may be leaving, paused, suspended or full."""
    if worker.state != "serving":
        return worker.state
    if worker.leaving:
        return "leaving"
    if not worker.taking:
        return "paused"
    if worker.suspended:
        return "suspended"
    return "full" if worker.full else "serving"


COLUMNS = (
    Column("SLOT", lambda w: str(w.slot), "position in the fleet, 0 to N-1; a replacement takes the same slot"),
    Column("ID", lambda w: str(w.id), "number of the worker; counts up, never used again", rank=7),
    Column("PID", lambda w: number(w.pid), "process id"),
    Column("GEN", lambda w: str(w.generation), "generation of the code; every reload starts the next one", rank=8),
    Column(
        "STATE",
        shown_state,
        "booting, proving (ready, no traffic yet), serving, draining, stopping or killed; of a worker that serves: "
        "leaving (its replacement is starting), paused (it asks for no connections), suspended (it was late, and "
        "gets none until its next report) or full (all its threads are taken, so others come first)",
        left=True,
    ),
    Column("FOR", lambda w: duration(w.state_s), "time in this state", rank=13, value=lambda w: w.state_s),
    Column("OPEN", lambda w: str(w.open), "connections handed to the worker and not finished"),
    Column("UNCL", lambda w: str(w.unclaimed), "unclaimed: open connections the worker has not taken yet", rank=3),
    Column("BUSY", lambda w: number(w.busy), "requests in progress", rank=1),
    Column("HANDED", lambda w: str(w.handed), "connections handed to it since its start, less those recalled", rank=11),
    Column("CLOSED", lambda w: str(w.closed), "connections finished since its start", rank=12),
    Column(
        "REQS",
        lambda w: number(w.requests),
        "requests finished since its start; of a stream handler, connections",
        rank=14,
    ),
    Column(
        "P50",
        lambda w: took(w.latency_p50_s),
        "time that half of its requests of the last seconds took at most",
        rank=17,
        value=lambda w: w.latency_p50_s,
    ),
    Column(
        "P99",
        lambda w: took(w.latency_p99_s),
        "time that 99 of 100 took at most",
        rank=16,
        value=lambda w: w.latency_p99_s,
    ),
    Column(
        "OLDEST",
        lambda w: duration(w.oldest_ms / 1000) if w.oldest_ms else "-",
        "time for which its oldest request has been in progress; websockets are not counted",
        rank=15,
        value=lambda w: w.oldest_ms,
    ),
    Column(
        "LAG",
        lambda w: lag(w.lag_us),
        "longest delay of its event loop in the last seconds, the present one included",
        rank=2,
        value=lambda w: w.lag_us,
    ),
    Column("RSS", lambda w: size(w.rss), "resident memory", rank=4, value=lambda w: w.rss),
    Column(
        "CPU",
        lambda w: "-" if w.cpu_us is None else duration(w.cpu_us / 1e6),
        "processor time since its start",
        rank=9,
        value=lambda w: w.cpu_us,
    ),
    Column("UP", lambda w: duration(w.uptime_s), "time since it began to serve", rank=6, value=lambda w: w.uptime_s),
    Column(
        "RST",
        lambda w: str(w.restarts),
        "restarts: times its worker ended by itself or was killed, and was replaced",
        rank=5,
    ),
    Column(
        "LAST EXIT",
        lambda w: gist(w.last_exit) or "-",
        "how the previous worker of this slot ended",
        rank=10,
        left=True,
    ),
)


def legend(columns: Iterable[Column], width: int) -> list[str]:
    """The description of each column, in lines of at most `width` columns."""
    described = [(column.title, column.about) for column in columns]
    indent = max(len(title) for title, _ in described) + 2
    lines: list[str] = []
    for title, about in described:
        lines += textwrap.wrap(
            about, max(width, NARROWEST), initial_indent=f"{title:<{indent}}", subsequent_indent=" " * indent
        )
    return lines


@frozen
class Table:
    """A table with one row per worker; only its rightmost text is ever cut off."""

    columns: tuple[Column, ...]
    """The columns that are shown."""
    widths: tuple[int, ...]
    gap: str

    @classmethod
    def fitting(cls, columns: Sequence[Column], workers: Sequence[WorkerStatus], width: int) -> Table:
        """A table of as many of the columns as fit, those with the lowest ranks first."""
        chosen = [column for column in columns if column.rank == 0]
        for column in sorted((c for c in columns if c.rank), key=lambda c: c.rank):
            trial = [c for c in columns if c in chosen or c is column]
            if _needed(trial, workers, 2 if column.rank >= SPACIOUS_RANK else 1) <= width:
                chosen = trial
        gap = "  " if _needed(chosen, workers, 2) <= width else " "
        return cls(tuple(chosen), tuple(_width(column, workers) for column in chosen), gap)

    @property
    def head(self) -> str:
        """The line of titles."""
        return self._line(column.title for column in self.columns)

    def row(self, worker: WorkerStatus) -> str:
        """The line of one worker."""
        return self._line(column.cell(worker) for column in self.columns)

    def shows(self, title: str) -> bool:
        """Whether the table has room for this column."""
        return any(column.title == title for column in self.columns)

    def _line(self, cells: Iterable[str]) -> str:
        parts = zip(self.columns, self.widths, cells, strict=True)
        return self.gap.join(cell.ljust(w) if column.left else cell.rjust(w) for column, w, cell in parts).rstrip()


def _width(column: Column, workers: Iterable[WorkerStatus]) -> int:
    return max([len(column.title), *(len(column.cell(worker)) for worker in workers)])


def _needed(columns: Sequence[Column], workers: Sequence[WorkerStatus], gap: int) -> int:
    return sum(_width(column, workers) for column in columns) + gap * (len(columns) - 1)


def workers_table(snapshot: Snapshot, width: int) -> list[str]:
    """The output of `workers`: the table, and below it the last exits if their column does not fit."""
    width = max(width, NARROWEST)
    table = Table.fitting(COLUMNS, snapshot.workers, width)
    lines = [table.head, *(table.row(worker) for worker in snapshot.workers)]
    if not table.shows("LAST EXIT"):
        lines += _last_exits(snapshot)
    return [shortened(line, width) for line in lines]


def _last_exits(snapshot: Snapshot) -> list[str]:
    """One line for each different exit, with the slots in which it happened."""
    slots: dict[str, list[int]] = {}
    for worker in snapshot.workers:
        if worker.last_exit and worker.slot not in slots.setdefault(worker.last_exit, []):
            slots[worker.last_exit].append(worker.slot)
    return [f"last exit in slot {', '.join(map(str, found))}: {gist(how)}" for how, found in slots.items()]
