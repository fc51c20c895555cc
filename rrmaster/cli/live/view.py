"""What does the screen of `rrmaster top` show, at any size, and what does each key do?

It knows no terminal and no master: it is given snapshots, keys and stacks, and answers with lines and their colours.
What a key asks of the master stands in `wanted` until it is done.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import Factory, define

from ...status.formatting import number, plain, shortened, took
from ...status.model import Snapshot, WorkerStatus
from ...status.report import headline, reload_line, troubles
from ...status.tables import Column, legend, shown_state
from .columns import SHORTEST, SORTABLE, Order, columns, fitted
from .history import FleetHistory

Lines = list[tuple[str, str]]
"""Lines, each with the name of its colour."""

_COLOURS = {"serving": "normal", "suspended": "yellow", "full": "yellow", "paused": "yellow", "killed": "bright_red"}
"""The colour of a row by its state.  Every other state is a transition, and cyan."""

COLOUR_KEY = (
    "Rows: yellow suspended, full or paused, cyan in transition, red killed;",
    "inverse the chosen one.",
)

KEYS = (
    ("q", "quit"),
    ("?, h", "this page, and back"),
    ("arrows, j, k, PgUp, PgDn", "choose a worker, or scroll a page"),
    ("s, Enter", "stacks of the chosen worker, or the first; Esc: back"),
    ("<, >, left, right", "sort by the column to the left, to the right"),
    ("r", "sort the other way round"),
)
"""The keys and what they do, for the help screen."""

_STEPS = {"KEY_DOWN": 1, "j": 1, "KEY_UP": -1, "k": -1}
_PAGES = {"KEY_PGDOWN": 1, "KEY_PGUP": -1}
"""The direction in which a key moves, by one line or by half a screen."""

_SORTS = {"<": -1, ",": -1, "KEY_LEFT": -1, ">": 1, ".": 1, "KEY_RIGHT": 1}


@define
class LiveView:
    """The snapshots so far, and the screen that shows them."""

    ascii_only: bool = False
    order: Order = Factory(Order)
    snapshot: Snapshot | None = None
    history: FleetHistory = Factory(FleetHistory)
    chosen: int | None = None
    """The id of the worker whose row is chosen."""
    scroll: int = 0
    """Lines above the first that is shown, of the rows or of a page."""
    helping: bool = False
    """True while the help screen is shown."""
    stacks: tuple[str, list[str]] | None = None
    """A title and the stacks of a worker, while they are shown."""
    stacks_of: WorkerStatus | None = None
    """The worker whose stacks are shown."""
    wanted: WorkerStatus | None = None
    """The worker that must be asked for its stacks."""
    _titles: tuple[str, ...] = SORTABLE
    """The columns that the screen has had room for."""

    # --- what comes in

    def record(self, snapshot: Snapshot) -> None:
        """Add the snapshot of one refresh."""
        self.snapshot = snapshot
        self.history.record(snapshot)

    def answer(self, title: str, lines: Sequence[str]) -> None:
        """The worker has been asked, and these are its stacks, or why there are none."""
        self.stacks, self.stacks_of, self.wanted = (title, list(lines)), self.wanted, None
        self.scroll = 0

    def press(self, key: str, height: int) -> bool:
        """React to a key, on a screen of `height` lines.  Returns False for a key that quits."""
        on_page = self.helping or self.stacks is not None
        if key in ("q", "Q") or (key == "KEY_ESCAPE" and not on_page):
            return False
        move = _STEPS.get(key, 0) + _PAGES.get(key, 0) * (height // 2)
        if key in ("?", "h", "KEY_ESCAPE"):
            self.helping = not self.helping if self.stacks is None else False
            self.stacks, self.scroll = None, 0
        elif key in ("s", "KEY_ENTER") and not self.helping:
            self.wanted = self.stacks_of if self.stacks is not None else self._chosen()
        elif on_page:
            self.scroll += move
        elif key in _SORTS:
            self.order.step(self._titles, _SORTS[key])
        elif key == "r":
            self.order.turn()
        elif move:
            self._choose(move)
        return True

    def _choose(self, move: int) -> None:
        """The first key chooses the first row, and the next ones move from there."""
        ids = [worker.id for worker in self._ordered()]
        if ids:
            place = ids.index(self.chosen) + move if self.chosen in ids else 0
            self.chosen = ids[min(max(place, 0), len(ids) - 1)]

    def _chosen(self) -> WorkerStatus | None:
        rows = self._ordered()
        return next((worker for worker in rows if worker.id == self.chosen), rows[0] if rows else None)

    def _ordered(self) -> list[WorkerStatus]:
        return [] if self.snapshot is None else self.order.of(self.snapshot.workers, self._columns())

    def _columns(self) -> list[Column]:
        return columns(self.history, SHORTEST, self.ascii_only)

    # --- what is shown

    def screen(self, width: int, height: int) -> Lines:
        """The lines, each with the name of its colour."""
        s = self.snapshot
        if s is None:
            return []
        if self.stacks is not None:
            title, lines = self.stacks
            rows = [(_end_of(line, width), "normal") for line in lines]
            return self._page(_between(f" {title}", "s again, Esc back, q quits ", width), rows, height)
        top = _between(f" rrmaster {headline(s)}", "? back, q quits " if self.helping else self._hint(), width)
        if self.helping:
            return self._page(top, self._help(width), height)
        return self._table(top, s, width, height)

    def _hint(self) -> str:
        arrow = ("v^" if self.ascii_only else "↓↑")[not self.order.descending]
        sort = "" if self.order == Order() else f"by {self.order.by} {arrow} "
        return f"{sort}? help, q quits "

    def _page(self, top: str, rows: Lines, height: int) -> Lines:
        self.scroll = min(max(self.scroll, 0), max(len(rows) - max(height - 1, 1), 0))
        return [(top, "reverse"), *rows[self.scroll :]][:height]

    def _table(self, top: str, s: Snapshot, width: int, height: int) -> Lines:
        table = fitted(self.history, s.workers, width, self.ascii_only)
        self._titles = tuple(column.title for column in table.columns)
        fixed = [(top, "reverse"), *self._overview(s, width), ("", "normal"), (shortened(table.head, width), "bold")]
        workers = self._ordered()
        rows = [(shortened(table.row(worker), width), self._colour(worker)) for worker in workers]
        room = max(height - len(fixed), 1)
        place = next((place for place, worker in enumerate(workers) if worker.id == self.chosen), self.scroll)
        # As little as shows the chosen row.
        self.scroll = min(max(self.scroll, place - room + 1), place, max(len(rows) - room, 0))
        return [*fixed, *rows[self.scroll : self.scroll + room]][:height]

    def _colour(self, worker: WorkerStatus) -> str:
        colour = _COLOURS.get(shown_state(worker), "cyan")
        if worker.id != self.chosen:
            return colour
        return "reverse" if colour == "normal" else f"{colour}_reverse"

    def _overview(self, s: Snapshot, width: int) -> Lines:
        """What stands above the table, and does not scroll."""
        lines = [(shortened(f" {trouble}", width), "bright_red") for trouble in troubles(s)]
        return lines + [(shortened(f" {line}", width), "normal") for line in self._numbers(s, width - 1)]

    def _help(self, width: int) -> Lines:
        """The keys, and what each column means, whether it fits the table now or not."""
        indent = max(len(keys) for keys, _ in KEYS) + 2
        lines = [f"{keys:<{indent}}{deed}" for keys, deed in KEYS]
        lines += ["", *legend(self._columns(), width - 1), "", *COLOUR_KEY]
        return [(shortened(f" {line}" if line else "", width), "normal") for line in lines]

    def _numbers(self, s: Snapshot, width: int) -> list[str]:
        backlogs = ", ".join(f"{plain(listener.address)} backlog {number(listener.queued)}" for listener in s.listeners)
        known = s.latency_p50_s is not None
        latency = f" p50 {took(s.latency_p50_s)} p99 {took(s.latency_p99_s)}" if known else ""
        parked = [f"parked {s.pool.held} ({s.pool.parked_per_s:.0f}/s)"] if s.pool is not None else []
        counts = [
            f"{self.history.requests.now:.0f} requests/s{latency}",
            f"open {s.open_by_worker()}",
            *parked,
            f"accepted {s.accepted} ({self.history.accepted.now:.0f}/s)",
            f"recalled {s.recalled_from_late + s.recalled_from_dead}",
            f"suspended {s.suspensions}",
            f"lost {s.lost}",
        ]
        reload = [f"reload {reload_line(s.reload)}"] if s.reload is not None else []
        return [backlogs, *_filled(counts, width), *reload]


def _filled(parts: list[str], width: int) -> list[str]:
    """Lines of at most `width` columns that have these parts in their order, three columns apart."""
    lines = parts[:1]
    for part in parts[1:]:
        if len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    return lines


def _end_of(line: str, width: int) -> str:
    """A frame of a stack in at most `width` columns: the end of its path tells more than the beginning."""
    line = plain(line)
    text = line.lstrip()
    indent = line[: len(line) - len(text)][: width // 2]
    room = width - len(indent)
    return line if len(line) <= width else f"{indent}…{text[len(text) - room + 1 :]}"


def _between(left: str, right: str, width: int) -> str:
    """One line with a text at either edge; the left one is shortened to make room."""
    left = shortened(left, max(width - len(right) - 1, 0))
    return shortened(left + " " * (width - len(left) - len(right)) + right, width)
