"""How a master is doing, live in the terminal: `rrmaster top`.

A table of workers with sparklines of their connections and of their loop's lag; q quits, the arrows scroll.  The lines
are `status`'s, so what is left for a library is the terminal: full screen and back whatever happens, keys, colours,
sizes.  Weighed in November 2026 (last release; installed; import and resident memory on Python 3.11):

=============  ==============  ======  =================  ===================================================
blessed 1.52   October 2026      8 MB   77 ms, 17 MiB     just that, and nothing to lay out; chosen
rich 15.0      April 2026       14 MB   49 ms,  7 MiB     no keys: they would be termios by hand
textual 8.2    June 2026        24 MB  141 ms, 24 MiB     an application framework around one table
curses         with Python       -       2 ms,  1 MiB     no Unicode widths, few colours, resizing by hand
=============  ==============  ======  =================  ===================================================

One look is one `status` on the control socket, once a second; the master notices nothing of it.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable

import blessed
from attrs import Factory, define, evolve

from ..control.client import Client
from ..status.model import (
    COLUMNS,
    Column,
    Snapshot,
    Table,
    WorkerStatus,
    headline,
    plain,
    reload_line,
    shortened,
    shown_state,
    sparkline,
    troubles,
)

HISTORY = 120
"""Looks that are remembered: two minutes, and the widest sparkline."""

SHORTEST, LONGEST = 8, 60
"""Columns of a sparkline."""

MOST_OPEN, MOST_LAG_US = 8.0, 10_000.0
"""What the highest bar stands for, at least: a quiet fleet should look quiet.  The scale is the same for all rows."""

KEY_S = 0.2
"""Seconds to wait for a key before looking whether the terminal has another size."""

FASTEST = 0.1
"""Seconds between looks, at least."""

_COLOURS = {"serving": "normal", "suspended": "yellow", "paused": "yellow", "killed": "bright_red"}
"""Of rows, by state; any other state passes, and is cyan."""


@define
class Past:
    """What one worker has shown so far."""

    open: deque[float] = Factory(lambda: deque(maxlen=HISTORY))
    lag: deque[float] = Factory(lambda: deque(maxlen=HISTORY))
    cpu: float = 0.0
    """Share of one processor between the last two looks."""
    _cpu_us: int | None = None
    _time: float = 0.0

    def note(self, worker: WorkerStatus, now: float) -> None:
        """One more look."""
        self.open.append(worker.open)
        self.lag.append(worker.lag_us or 0)
        if worker.cpu_us is not None and self._cpu_us is not None and now > self._time:
            self.cpu = max(worker.cpu_us - self._cpu_us, 0) / 1e6 / (now - self._time)
        if worker.cpu_us is not None:
            self._cpu_us, self._time = worker.cpu_us, now


@define
class Watch:
    """All looks so far, and the screen they make."""

    ascii_only: bool = False
    snapshot: Snapshot | None = None
    pasts: dict[int, Past] = Factory(dict)
    """By worker id."""
    rate: float = 0.0
    """Connections accepted a second, between the last two looks."""
    scroll: int = 0

    def note(self, snapshot: Snapshot) -> None:
        """One more look."""
        before, self.snapshot = self.snapshot, snapshot
        if before is not None and snapshot.time > before.time:
            self.rate = (snapshot.accepted - before.accepted) / (snapshot.time - before.time)
        living = {worker.id for worker in snapshot.workers}
        self.pasts = {id_: past for id_, past in self.pasts.items() if id_ in living}
        for worker in snapshot.workers:
            self.pasts.setdefault(worker.id, Past()).note(worker, snapshot.time)

    def screen(self, width: int, height: int) -> list[tuple[str, str]]:
        """The lines, each with the name of its colour."""
        s = self.snapshot
        if s is None:
            return []
        lines = [(_between(f" rrmaster {headline(s)}", "q quits ", width), "reverse")]
        lines += [(shortened(f" {trouble}", width), "bright_red") for trouble in troubles(s)]
        lines += [(shortened(f" {line}", width), "normal") for line in self._numbers(s)]
        table = self._table(s, width)
        lines += [("", "normal"), (shortened(table.head, width), "bold")]
        room = max(height - len(lines), 1)
        self.scroll = min(max(self.scroll, 0), max(len(s.workers) - room, 0))
        for worker in s.workers[self.scroll : self.scroll + room]:
            lines.append((shortened(table.row(worker), width), _COLOURS.get(shown_state(worker), "cyan")))
        return lines[:height]

    def _numbers(self, s: Snapshot) -> list[str]:
        backlogs = ", ".join(
            f"{plain(door.address)} backlog {'-' if door.queued is None else door.queued}" for door in s.listeners
        )
        counts = (
            f"open {s.open_by_worker()}   accepted {s.accepted} ({self.rate:.0f}/s)   "
            f"recalled {s.recalled_from_late + s.recalled_from_dead}   suspended {s.suspensions}   lost {s.lost}"
        )
        reload = [f"reload {reload_line(s.reload)}"] if s.reload is not None else []
        return [backlogs, counts, *reload]

    def _table(self, s: Snapshot, width: int) -> Table:
        """As wide as the terminal: the sparklines share what the numbers leave."""
        bare = Table.fitting(self._columns(SHORTEST), s.workers, width)
        shown = [title for title in ("CONNECTIONS", "LAG HISTORY") if bare.shows(title)]
        left = width - len(bare.gap) * (len(bare.columns) - 1) - sum(bare.widths)
        bars = min(max((left + sum(w for c, w in _parts(bare) if c.title in shown)) // max(len(shown), 1), 1), LONGEST)
        titles = {column.title for column in bare.columns}
        return Table.fitting([evolve(c, rank=0) for c in self._columns(bars) if c.title in titles], s.workers, width)

    def _columns(self, bars: int) -> list[Column]:
        """The columns of `status`, with sparklines, and a share of a processor for its seconds."""
        most_open = max([MOST_OPEN, *(max(past.open) for past in self.pasts.values())])
        most_lag = max([MOST_LAG_US, *(max(past.lag) for past in self.pasts.values())])
        sparks = {
            "OPEN": Column("CONNECTIONS", self._bars(lambda past: past.open, bars, most_open), rank=1, left=True),
            "LAG": Column("LAG HISTORY", self._bars(lambda past: past.lag, bars, most_lag), rank=1, left=True),
        }
        found = []
        for column in COLUMNS:
            if column.title == "CPU":
                column = Column("CPU%", lambda w: f"{100 * self.pasts[w.id].cpu:.0f}", rank=2)
            if column.title not in ("LAST EXIT", "HANDED"):
                found.append(evolve(column, rank=column.rank + 2) if column.rank else column)
            if column.title in sparks:
                found.append(sparks[column.title])
        return found

    def _bars(self, of: Callable[[Past], deque[float]], width: int, most: float) -> Callable[[WorkerStatus], str]:
        return lambda worker: sparkline(list(of(self.pasts[worker.id])), width, most, self.ascii_only)


def _parts(table: Table) -> list[tuple[Column, int]]:
    return list(zip(table.columns, table.widths, strict=True))


def _between(left: str, right: str, width: int) -> str:
    """One text at either edge, the right one whole."""
    left = shortened(left, max(width - len(right) - 1, 0))
    return left + " " * (width - len(left) - len(right)) + right


def show(client: Client, interval: float) -> None:
    """Until q.  Raises NoMaster when the master ends, ValueError if this is no terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError("top needs a terminal; `rrmaster status` does not")
    terminal = blessed.Terminal()
    encoding = (sys.stdout.encoding or "").lower()
    watch = Watch(ascii_only=not encoding.startswith("utf"))
    # Ctrl-C is as good as q.
    with contextlib.suppress(KeyboardInterrupt), terminal.fullscreen(), terminal.cbreak(), terminal.hidden_cursor():
        _loop(terminal, watch, client, max(interval, FASTEST))


def _loop(terminal: blessed.Terminal, watch: Watch, client: Client, interval: float) -> None:
    due, size = 0.0, (0, 0)
    while True:
        now = time.monotonic()
        if now >= due:
            watch.note(client.status())
            due, size = now + interval, (0, 0)
        if size != (terminal.width, terminal.height):
            size = terminal.width, terminal.height
            _draw(terminal, watch.screen(*size))
        key = terminal.inkey(timeout=min(KEY_S, max(due - time.monotonic(), 0.0)))
        if key in ("q", "Q") or key.name == "KEY_ESCAPE":
            return
        if step := _STEPS.get(key.name or str(key)):
            watch.scroll += step * (terminal.height // 2 if abs(step) > 1 else 1)
            size = (0, 0)


_STEPS = {"KEY_DOWN": 1, "j": 1, "KEY_UP": -1, "k": -1, "KEY_PGDOWN": 2, "KEY_PGUP": -2}
"""By one line, or by half a screen."""


def _draw(terminal: blessed.Terminal, lines: list[tuple[str, str]]) -> None:
    """All at once, and each line to its end, so that nothing flickers and nothing old remains."""
    shown = [getattr(terminal, colour)(text) if colour != "normal" else text for text, colour in lines]
    text = (terminal.clear_eol + "\r\n").join(shown)
    sys.stdout.write(terminal.home + text + terminal.clear_eos)
    sys.stdout.flush()


__all__ = ["HISTORY", "Past", "Watch", "show"]
