"""What does the screen of `rrmaster top` show, at any size, and what does each key do?

It knows no terminal and no master: it is given snapshots and keys, and answers with lines and their colours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import Factory, define, evolve

from ...status.formatting import plain, shortened, sparkline
from ...status.model import Snapshot, WorkerStatus
from ...status.report import headline, reload_line, troubles
from ...status.tables import COLUMNS, Column, Table, legend, shown_state

HISTORY = 120
"""Refreshes that are remembered: two minutes, and the widest sparkline."""

SHORTEST, LONGEST = 8, 60
"""Columns of a sparkline."""

MOST_OPEN, MOST_LAG_US = 8.0, 10_000.0
"""The least value of the highest bar: a quiet fleet should look quiet.  The scale is the same for all rows."""

_COLOURS = {"serving": "normal", "suspended": "yellow", "full": "yellow", "paused": "yellow", "killed": "bright_red"}
"""The colour of a row by its state.  Every other state is a transition, and cyan."""

COLOUR_KEY = "Rows: yellow suspended, full or paused, cyan in transition, red killed."

KEYS = (
    ("q, Esc", "quit"),
    ("?, h", "this page, and back"),
    ("arrows, j, k, PgUp, PgDn", "scroll"),
)
"""The keys and what they do, for the help screen."""

_STEPS = {"KEY_DOWN": 1, "j": 1, "KEY_UP": -1, "k": -1}
_PAGES = {"KEY_PGDOWN": 1, "KEY_PGUP": -1}
"""The direction in which a key scrolls, by one line or by half a screen."""


@define
class WorkerHistory:
    """The values that one worker has shown so far."""

    open: deque[float] = Factory(lambda: deque(maxlen=HISTORY))
    lag: deque[float] = Factory(lambda: deque(maxlen=HISTORY))
    cpu: float = 0.0
    """Share of one processor between the last two refreshes."""
    _cpu_us: int | None = None
    _time: float = 0.0

    def record(self, worker: WorkerStatus, now: float) -> None:
        """Add the values of one refresh."""
        self.open.append(worker.open)
        self.lag.append(worker.lag_us or 0)
        if worker.cpu_us is not None and self._cpu_us is not None and now > self._time:
            self.cpu = max(worker.cpu_us - self._cpu_us, 0) / 1e6 / (now - self._time)
        if worker.cpu_us is not None:
            self._cpu_us, self._time = worker.cpu_us, now


@define
class LiveView:
    """The snapshots so far, and the screen that shows them.  It knows no terminal."""

    ascii_only: bool = False
    snapshot: Snapshot | None = None
    histories: dict[int, WorkerHistory] = Factory(dict)
    """By worker id."""
    rate: float = 0.0
    """Connections accepted a second, between the last two refreshes."""
    scroll: int = 0
    helping: bool = False
    """True while the help screen is shown."""

    def record(self, snapshot: Snapshot) -> None:
        """Add the snapshot of one refresh."""
        before, self.snapshot = self.snapshot, snapshot
        if before is not None and snapshot.time > before.time:
            self.rate = (snapshot.accepted - before.accepted) / (snapshot.time - before.time)
        present = {worker.id for worker in snapshot.workers}
        self.histories = {id_: history for id_, history in self.histories.items() if id_ in present}
        for worker in snapshot.workers:
            self.histories.setdefault(worker.id, WorkerHistory()).record(worker, snapshot.time)

    def press(self, key: str, height: int) -> bool:
        """React to a key, on a screen of `height` lines.  Returns False for a key that quits."""
        if key in ("q", "Q") or (key == "KEY_ESCAPE" and not self.helping):
            return False
        if key in ("?", "h", "KEY_ESCAPE"):
            self.helping, self.scroll = not self.helping, 0
        self.scroll += _STEPS.get(key, 0) + _PAGES.get(key, 0) * (height // 2)
        return True

    def screen(self, width: int, height: int) -> list[tuple[str, str]]:
        """The lines, each with the name of its colour."""
        s = self.snapshot
        if s is None:
            return []
        fixed = [
            (
                _between(f" rrmaster {headline(s)}", "? back, q quits " if self.helping else "? help, q quits ", width),
                "reverse",
            )
        ]
        if self.helping:
            rows = self._help(width)
        else:
            table = self._table(s, width)
            fixed += [*self._overview(s, width), ("", "normal"), (shortened(table.head, width), "bold")]
            rows = [
                (shortened(table.row(worker), width), _COLOURS.get(shown_state(worker), "cyan")) for worker in s.workers
            ]
        room = max(height - len(fixed), 1)
        self.scroll = min(max(self.scroll, 0), max(len(rows) - room, 0))
        return [*fixed, *rows[self.scroll : self.scroll + room]][:height]

    def _overview(self, s: Snapshot, width: int) -> list[tuple[str, str]]:
        """What stands above the table, and does not scroll."""
        lines = [(shortened(f" {trouble}", width), "bright_red") for trouble in troubles(s)]
        return lines + [(shortened(f" {line}", width), "normal") for line in self._numbers(s)]

    def _help(self, width: int) -> list[tuple[str, str]]:
        """The keys, and what each column means, whether it fits the table now or not."""
        indent = max(len(keys) for keys, _ in KEYS) + 2
        lines = [f"{keys:<{indent}}{deed}" for keys, deed in KEYS]
        lines += ["", *legend(self._columns(SHORTEST), width - 1), "", COLOUR_KEY]
        return [(shortened(f" {line}" if line else "", width), "normal") for line in lines]

    def _numbers(self, s: Snapshot) -> list[str]:
        backlogs = ", ".join(
            f"{plain(listener.address)} backlog {'-' if listener.queued is None else listener.queued}"
            for listener in s.listeners
        )
        counts = (
            f"open {s.open_by_worker()}   accepted {s.accepted} ({self.rate:.0f}/s)   "
            f"recalled {s.recalled_from_late + s.recalled_from_dead}   suspended {s.suspensions}   lost {s.lost}"
        )
        reload = [f"reload {reload_line(s.reload)}"] if s.reload is not None else []
        return [backlogs, counts, *reload]

    def _table(self, s: Snapshot, width: int) -> Table:
        """A table as wide as the terminal: the sparklines share the width that the numbers leave."""
        bare = Table.fitting(self._columns(SHORTEST), s.workers, width)
        shown = [title for title in ("CONNECTIONS", "LAG HISTORY") if bare.shows(title)]
        left = width - len(bare.gap) * (len(bare.columns) - 1) - sum(bare.widths)
        bars = min(max((left + sum(w for c, w in _parts(bare) if c.title in shown)) // max(len(shown), 1), 1), LONGEST)
        titles = {column.title for column in bare.columns}
        return Table.fitting([evolve(c, rank=0) for c in self._columns(bars) if c.title in titles], s.workers, width)

    def _columns(self, bars: int) -> list[Column]:
        """The columns of `status`, with sparklines, and with processor time as a share of one processor."""
        most_open = max([MOST_OPEN, *(max(history.open) for history in self.histories.values())])
        most_lag = max([MOST_LAG_US, *(max(history.lag) for history in self.histories.values())])
        sparks = {
            "OPEN": self._sparks("CONNECTIONS", "OPEN in the past", lambda history: history.open, bars, most_open),
            "LAG": self._sparks("LAG HISTORY", "LAG in the past", lambda history: history.lag, bars, most_lag),
        }
        found = []
        for column in COLUMNS:
            if column.title == "CPU":
                column = Column(
                    "CPU%", lambda w: f"{100 * self.histories[w.id].cpu:.0f}", "share of one processor", rank=2
                )
            if column.title not in ("LAST EXIT", "HANDED"):
                found.append(evolve(column, rank=column.rank + 2) if column.rank else column)
            if column.title in sparks:
                found.append(sparks[column.title])
        return found

    def _sparks(
        self, title: str, about: str, of: Callable[[WorkerHistory], deque[float]], width: int, most: float
    ) -> Column:
        def cell(worker: WorkerStatus) -> str:
            return sparkline(list(of(self.histories[worker.id])), width, most, self.ascii_only)

        return Column(title, cell, f"{about}, up to {HISTORY} refreshes, the newest at the right", rank=1, left=True)


def _parts(table: Table) -> list[tuple[Column, int]]:
    return list(zip(table.columns, table.widths, strict=True))


def _between(left: str, right: str, width: int) -> str:
    """One line with a text at either edge; the left one is shortened to make room."""
    left = shortened(left, max(width - len(right) - 1, 0))
    return left + " " * (width - len(left) - len(right)) + right
