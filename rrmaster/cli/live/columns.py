"""Which columns does `rrmaster top` have, and in which order does it show the workers?

The columns are those of `status`, without those that only count up, and with rates and the past.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from attrs import define, evolve

from ...config.names import one_of
from ...status.formatting import sparkline
from ...status.model import WorkerStatus
from ...status.tables import COLUMNS, Column, Table
from .history import REFRESHES, FleetHistory, WorkerHistory

SHORTEST, LONGEST = 8, 60
"""Columns of a sparkline."""

MOST_OPEN, MOST_LAG_US = 8.0, 10_000.0
"""The least value of the highest bar: a quiet fleet should look quiet.  The scale is the same for all rows."""

_SOONER = {"P99": 3, "P50": 7}
"""Ranks of columns that are more wanted here than in a report: the other ones make room for the sparklines."""

_LEFT_OUT = ("LAST EXIT", "HANDED")
_SPARKS = ("CONNECTIONS", "LAG HISTORY")

ASCENDING = ("SLOT", "ID", "PID", "GEN", "STATE")
"""Columns whose smallest value comes first.  Of the others the largest is what an operator looks for."""


def columns(history: FleetHistory, bars: int, ascii_only: bool) -> list[Column]:
    """All columns, with sparklines of this width."""
    rates = {
        "CPU": Column("CPU%", lambda w: f"{100 * history.workers[w.id].cpu:.0f}", "share of one processor", rank=4),
        "REQS": Column(
            "REQ/S", lambda w: f"{history.workers[w.id].requests.now:.0f}", "requests finished a second", rank=2
        ),
    }

    def sparks(title: str, about: str, of: Callable[[WorkerHistory], deque[float]], most: float) -> Column:
        def cell(worker: WorkerStatus) -> str:
            return sparkline(list(of(history.workers[worker.id])), bars, most, ascii_only)

        return Column(title, cell, f"{about}, up to {REFRESHES} refreshes, the newest at the right", rank=1, left=True)

    past = {
        "OPEN": sparks("CONNECTIONS", "OPEN in the past", lambda h: h.open, max(MOST_OPEN, history.most_open)),
        "LAG": sparks("LAG HISTORY", "LAG in the past", lambda h: h.lag, max(MOST_LAG_US, history.most_lag)),
    }
    found = []
    for column in COLUMNS:
        column = rates.get(column.title, column)
        if column.title not in _LEFT_OUT:
            found.append(evolve(column, rank=_SOONER.get(column.title, column.rank + 2)) if column.rank else column)
        if column.title in past:
            found.append(past[column.title])
    return found


def fitted(history: FleetHistory, workers: Sequence[WorkerStatus], width: int, ascii_only: bool) -> Table:
    """A table as wide as the terminal: the sparklines share the width that the numbers leave."""
    bare = Table.fitting(columns(history, SHORTEST, ascii_only), workers, width)
    shown = [title for title in _SPARKS if bare.shows(title)]
    left = width - len(bare.gap) * (len(bare.columns) - 1) - sum(bare.widths)
    sparks = sum(wide for column, wide in zip(bare.columns, bare.widths, strict=True) if column.title in shown)
    bars = min(max((left + sparks) // max(len(shown), 1), 1), LONGEST)
    titles = {column.title for column in bare.columns}
    chosen = [evolve(column, rank=0) for column in columns(history, bars, ascii_only) if column.title in titles]
    return Table.fitting(chosen, workers, width)


@define
class Order:
    """The order of the rows: by which column, and which way round."""

    by: str = "SLOT"
    reverse: bool = False

    @property
    def descending(self) -> bool:
        """Whether the largest value comes first."""
        return (self.by not in ASCENDING) is not self.reverse

    def step(self, titles: Sequence[str], step: int) -> None:
        """Sort by the next of these columns to the right, or to the left; behind the last one comes the first."""
        known = [title for title in titles if title not in _SPARKS]
        place = known.index(self.by) if self.by in known else 0
        self.by, self.reverse = known[(place + step) % len(known)], False

    def turn(self) -> None:
        """The other way round."""
        self.reverse = not self.reverse

    def of(self, workers: Sequence[WorkerStatus], known: Sequence[Column]) -> list[WorkerStatus]:
        """The workers in this order; those whose value is unknown come last, and equal ones by their slots."""
        column = next((column for column in known if column.title == self.by), known[0])
        certain = [worker for worker in workers if column.cell(worker) != "-"]
        unknown = [worker for worker in workers if column.cell(worker) == "-"]
        return sorted(certain, key=column.sort_key, reverse=self.descending) + unknown


SORTABLE = tuple(c.title for c in columns(FleetHistory(), SHORTEST, True) if c.title not in _SPARKS)


def parse_column(value: object) -> str:
    """A column to sort by, in capitals or not.  Raises ValueError."""
    return one_of("column", SORTABLE)(str(value).upper())
