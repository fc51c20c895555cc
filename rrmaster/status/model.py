"""What the whole master looks like now: one snapshot, as a table for people and as JSON for programs.

::

    Master.status() ── Snapshot ──┬── to_json, from_json     the control socket, `status --json`
                                  └── report, Table          `status`, `workers`, `top`

A snapshot is all that anything outside ever reads.  Numbers are plain (seconds, bytes, microseconds, counts since the
start); None is what is not known.  The text forms take a width in columns and use it: at 80 the essential columns
stand there and the last exits follow below, wider terminals get them and more as columns.

This module knows no terminal, no clock and no process: all that is handed to it.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from attrs import frozen

NARROWEST = 40
"""Columns below which nothing is fitted any more."""


@frozen
class WorkerStatus:
    """One worker."""

    slot: int
    id: int
    pid: int | None
    """None: its process is still being started."""
    generation: int
    state: str
    """As in `lifecycle.State`."""
    state_s: float
    """Seconds in this state."""
    uptime_s: float | None
    """Seconds since it began to serve; None: it has not."""
    open: int
    """Connections it has: taken or not."""
    unclaimed: int
    """Connections in its letterbox."""
    handed: int
    """Connections handed to it since its birth, without those taken back."""
    closed: int
    """Connections it has finished since its birth."""
    busy: int | None = None
    """Requests in progress.  This and what follows is None before its first report."""
    requests: int | None = None
    """Requests it has finished since its birth; of a stream handler, connections."""
    lag_us: int | None = None
    """By how much its loop was late at worst in its last reporting period."""
    rss: int | None = None
    """Bytes of resident memory."""
    cpu_us: int | None = None
    """Microseconds of processor time since its birth."""
    taking: bool = True
    """False: it asks for no more connections for now."""
    suspended: bool = False
    """It gets nothing until its next report: it was late, or asks for nothing."""
    leaving: bool = False
    """It is to be replaced, and serves until its replacement does."""
    restarts: int = 0
    """How often a worker of this slot was replaced after it had ended by itself or was killed."""
    last_exit: str = ""
    """How the last worker of this slot ended."""


@frozen
class ListenerStatus:
    """One address."""

    address: str
    queued: int | None
    """Connections in its backlog; None where the kernel does not say (unix sockets)."""
    limit: int
    workers: int | None = None
    """How many serve it."""


@frozen
class ReloadStatus:
    """The reload that runs, or ran last."""

    phase: str
    generation: int
    status: int | None = None
    """Its result, as the exit status of `rrmaster reload`; None: it runs."""
    reason: str = ""


@frozen
class TemplateStatus:
    """The template of a generation: the process that has its code, and forks its workers."""

    generation: int
    pid: int | None
    """None: it is lost, or still being started."""
    state: str
    """loading, in use (the generation's workers are forked from it), in doubt (not before it is known whether it is to
    blame for those who died), none (they cannot be), previous (what a rollback brings back) or lost."""
    age_s: float
    """Seconds since its code was imported, or began to be."""
    spare: int | None = None
    """The process id of the one that takes its place if it is lost."""
    uss: int | None = None
    """Bytes of memory that are its own alone; None: not known."""
    pss: int | None = None
    """The same, with its share of what it has in common with others."""
    rss: int | None = None
    """The same, with all of that."""
    kept_s: float | None = None
    """Seconds for which a previous one is still kept."""


@frozen
class Snapshot:
    """The whole master at one moment."""

    name: str
    pid: int
    version: str
    application: str
    policy: str
    time: float
    """Seconds since the epoch."""
    uptime_s: float
    size: int
    """Workers wanted; 0: it stops."""
    generation: int
    accepted: int
    recalled_from_late: int
    recalled_from_dead: int
    suspensions: int
    breaches: int
    lost: int
    """Connections that died in workers' hands."""
    crash_loop: bool = False
    refused: str = ""
    """Why the code on disk was refused last; empty: it was not."""
    gone_back: bool = False
    """What serves is older than the code on disk: that was rolled back."""
    reload: ReloadStatus | None = None
    listeners: tuple[ListenerStatus, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    templates: tuple[TemplateStatus, ...] = ()

    @property
    def serving(self) -> int:
        """How many workers serve."""
        return sum(worker.state == "serving" for worker in self.workers)

    def open_by_worker(self) -> int:
        """Connections that workers have, all together."""
        return sum(worker.open for worker in self.workers)


# --- JSON


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as what `json` can spell.  Names are those of the fields, and stay."""
    return attrs.asdict(snapshot)


def from_json(data: Mapping[str, Any]) -> Snapshot:
    """The snapshot that another process has told.  Fields that this version does not know are skipped.

    Raises ValueError if one is missing that it needs.
    """
    try:
        reload = data.get("reload")
        return _build(
            Snapshot,
            data,
            reload=None if reload is None else _build(ReloadStatus, reload),
            listeners=tuple(_build(ListenerStatus, item) for item in data.get("listeners", ())),
            workers=tuple(_build(WorkerStatus, item) for item in data.get("workers", ())),
            templates=tuple(_build(TemplateStatus, item) for item in data.get("templates", ())),
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"this is no status of a master: {error}") from None


_T = TypeVar("_T", bound=attrs.AttrsInstance)


def _build(kind: type[_T], data: Mapping[str, Any], **parts: Any) -> _T:
    known = {field.name for field in attrs.fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in known} | parts)


def as_json_text(snapshot: Snapshot) -> str:
    """`status --json`: indented, for eyes and for jq."""
    return json.dumps(to_json(snapshot), indent=2)


# --- how one value is written


def duration(seconds: float | None) -> str:
    """At most five characters: 12s, 3m05s, 2h03m, 4d07h, 400d."""
    if seconds is None:
        return "-"
    s = int(seconds)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02}s" if s < 600 else f"{s // 60}m"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02}m" if s < 36000 else f"{s // 3600}h"
    return f"{s // 86400}d{s % 86400 // 3600:02}h" if s < 864000 else f"{s // 86400}d"


def size(count: int | None) -> str:
    """Bytes in at most four characters: 999K, 26M, 1.5G."""
    if count is None:
        return "-"
    value = count / 1024
    for unit in "KMG":
        if value < 10 and unit == "G":
            return f"{value:.1f}{unit}"
        if value < 1000:
            return f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def lag(us: int | None) -> str:
    """Microseconds in at most five characters: 80us, 1.2ms, 300ms, 2.5s, 120s."""
    if us is None:
        return "-"
    if us < 1000:
        return f"{us}us"
    if us < 10_000:
        return f"{us // 100 / 10:.1f}ms"  # rounded down, or 9.99 would be 10.0
    if us < 1_000_000:
        return f"{us // 1000}ms"
    return f"{us // 100_000 / 10:.1f}s" if us < 100_000_000 else f"{us // 1_000_000}s"


def number(value: int | None) -> str:
    """A count, or a dash."""
    return "-" if value is None else str(value)


def plain(text: str) -> str:
    """One line without control characters: what a terminal shows must not drive it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def gist(text: str) -> str:
    """Of a traceback its last line says what happened."""
    lines = [line for line in text.splitlines() if line.strip()]
    return plain(lines[-1].strip()) if lines else ""


def shortened(text: str, width: int) -> str:
    """The text in at most so many columns."""
    text = plain(text)
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"[:width]


_BARS = "▁▂▃▄▅▆▇█"
_BARS_IN_ASCII = " .:-=+*#"


def sparkline(values: Sequence[float], width: int, most: float, ascii_only: bool = False) -> str:
    """The last values as bars, `most` being the highest one; what is not known yet is left blank."""
    bars = _BARS_IN_ASCII if ascii_only else _BARS
    last = values[-width:] if width > 0 else []
    steps = [round(min(max(value / most, 0.0), 1.0) * (len(bars) - 1)) if most > 0 else 0 for value in last]
    return "".join(bars[step] for step in steps).rjust(max(width, 0))


# --- tables


ROOMY = 10


@frozen
class Column:
    """One column of a table of workers."""

    title: str
    cell: Callable[[WorkerStatus], str]
    rank: int = 0
    """0: always there.  Others come in the order of their ranks, as far as the width goes; from `ROOMY` on only where
    there is room for two blanks between all of them."""
    left: bool = False
    """Text is written from the left, numbers from the right."""


def shown_state(worker: WorkerStatus) -> str:
    """The state in one word, finer than the law's where that helps."""
    if worker.state != "serving":
        return worker.state
    if worker.leaving:
        return "leaving"
    if not worker.taking:
        return "paused"
    return "suspended" if worker.suspended else "serving"


COLUMNS = (
    Column("SLOT", lambda w: str(w.slot)),
    Column("ID", lambda w: str(w.id), rank=7),
    Column("PID", lambda w: number(w.pid)),
    Column("GEN", lambda w: str(w.generation), rank=8),
    Column("STATE", shown_state, left=True),
    Column("FOR", lambda w: duration(w.state_s), rank=13),
    Column("OPEN", lambda w: str(w.open)),
    Column("UNCL", lambda w: str(w.unclaimed), rank=3),
    Column("BUSY", lambda w: number(w.busy), rank=1),
    Column("HANDED", lambda w: str(w.handed), rank=11),
    Column("CLOSED", lambda w: str(w.closed), rank=12),
    Column("REQS", lambda w: number(w.requests), rank=14),
    Column("LAG", lambda w: lag(w.lag_us), rank=2),
    Column("RSS", lambda w: size(w.rss), rank=4),
    Column("CPU", lambda w: "-" if w.cpu_us is None else duration(w.cpu_us / 1e6), rank=9),
    Column("UP", lambda w: duration(w.uptime_s), rank=6),
    Column("RST", lambda w: str(w.restarts), rank=5),
    Column("LAST EXIT", lambda w: gist(w.last_exit) or "-", rank=10, left=True),
)


@frozen
class Table:
    """Workers in rows; what fits stands there, and nothing is cut off but at the very edge."""

    columns: tuple[Column, ...]
    """Those that are shown."""
    widths: tuple[int, ...]
    gap: str

    @classmethod
    def fitting(cls, columns: Sequence[Column], workers: Sequence[WorkerStatus], width: int) -> Table:
        """As many of the columns as fit, those with the lowest ranks first."""
        chosen = [column for column in columns if column.rank == 0]
        for column in sorted((c for c in columns if c.rank), key=lambda c: c.rank):
            trial = [c for c in columns if c in chosen or c is column]
            if _needed(trial, workers, 2 if column.rank >= ROOMY else 1) <= width:
                chosen = trial
        gap = "  " if _needed(chosen, workers, 2) <= width else " "
        return cls(tuple(chosen), tuple(_width(column, workers) for column in chosen), gap)

    @property
    def head(self) -> str:
        """The titles."""
        return self._line(column.title for column in self.columns)

    def row(self, worker: WorkerStatus) -> str:
        """One worker."""
        return self._line(column.cell(worker) for column in self.columns)

    def shows(self, title: str) -> bool:
        """Whether there is room for this column."""
        return any(column.title == title for column in self.columns)

    def _line(self, cells: Iterable[str]) -> str:
        parts = zip(self.columns, self.widths, cells, strict=True)
        return self.gap.join(cell.ljust(w) if column.left else cell.rjust(w) for column, w, cell in parts).rstrip()


def _width(column: Column, workers: Iterable[WorkerStatus]) -> int:
    return max([len(column.title), *(len(column.cell(worker)) for worker in workers)])


def _needed(columns: Sequence[Column], workers: Sequence[WorkerStatus], gap: int) -> int:
    return sum(_width(column, workers) for column in columns) + gap * (len(columns) - 1)


# --- the forms for people


def workers_table(snapshot: Snapshot, width: int) -> list[str]:
    """`workers`: the table, and below it the last exits where they had no room in it."""
    width = max(width, NARROWEST)
    table = Table.fitting(COLUMNS, snapshot.workers, width)
    lines = [table.head, *(table.row(worker) for worker in snapshot.workers)]
    if not table.shows("LAST EXIT"):
        lines += _last_exits(snapshot)
    return [shortened(line, width) for line in lines]


def _last_exits(snapshot: Snapshot) -> list[str]:
    """One line for each way to end."""
    slots: dict[str, list[int]] = {}
    for worker in snapshot.workers:
        if worker.last_exit and worker.slot not in slots.setdefault(worker.last_exit, []):
            slots[worker.last_exit].append(worker.slot)
    return [f"last exit in slot {', '.join(map(str, found))}: {gist(how)}" for how, found in slots.items()]


def headline(snapshot: Snapshot) -> str:
    """Who this is, and whether all is well, in one line."""
    if snapshot.size == 0:
        state = f"stopping, {_count(len(snapshot.workers), 'worker')} left"
    else:
        state = f"{snapshot.serving} of {_count(snapshot.size, 'worker')} serve"
    up = duration(snapshot.uptime_s)
    return f"{snapshot.name} (pid {snapshot.pid}): {snapshot.application}, {state}, {snapshot.policy}, up {up}"


def troubles(snapshot: Snapshot) -> list[str]:
    """What an operator should know first; empty when all is well."""
    found = []
    if snapshot.crash_loop:
        found.append("crash loop: workers keep dying; they are started again, with pauses")
    if snapshot.refused:
        found.append(f"code on disk was refused: {gist(snapshot.refused)}")
    if snapshot.size and not snapshot.serving:
        found.append("nobody serves: connections wait in the backlog")
    return found


def totals(snapshot: Snapshot) -> str:
    """The counters since the start, in a line or two."""
    s = snapshot
    return (
        f"open {s.open_by_worker()}, accepted {s.accepted}, recalled {s.recalled_from_late} from late and "
        f"{s.recalled_from_dead} from dead workers, suspended {s.suspensions}, breaches {s.breaches}, "
        f"lost in hands {s.lost}"
    )


def reload_line(reload: ReloadStatus) -> str:
    """The reload that runs or ran last."""
    if reload.status is None:
        return f"generation {reload.generation}: {reload.phase}"
    result = RESULTS.get(reload.status, f"status {reload.status}")
    because = f": {gist(reload.reason)}" if reload.reason and reload.status else ""
    return f"generation {reload.generation} was {result}{because}"


def template_line(template: TemplateStatus) -> str:
    """One template."""
    text = f"generation {template.generation}, {template.state}"
    if template.kept_s is not None:
        text += f" for {duration(template.kept_s)}"
    if template.pid is not None:
        spare = f", spare {template.spare}" if template.spare is not None else ""
        text += f" (pid {template.pid}{spare}), {duration(template.age_s)} old"
    if template.rss is not None:
        text += f", {size(template.uss)} of its own, {size(template.rss)} in all"
    return text


RESULTS = {
    0: "committed",
    10: "refused before any traffic",
    11: "rolled back after traffic",
    12: "given up, out of time",
    13: "not begun, another one runs",
}
"""What the exit statuses of `rrmaster reload` mean."""


def report(snapshot: Snapshot, width: int) -> list[str]:
    """`status`: everything, in at most so many columns."""
    width = max(width, NARROWEST)
    lines = [line for trouble in troubles(snapshot) for line in _labelled("trouble", trouble, width)]
    lines += _labelled("master", headline(snapshot), width)
    for listener in snapshot.listeners:
        queued = number(listener.queued)
        text = f"{listener.address}, backlog {queued} of {listener.limit}"
        if listener.workers is not None and listener.workers != snapshot.serving:
            text += f", served by {listener.workers} of {snapshot.serving}"
        lines += _labelled("listens", text, width)
    lines += _labelled("counts", totals(snapshot), width)
    if snapshot.reload is not None:
        lines += _labelled("reload", reload_line(snapshot.reload), width)
    if snapshot.gone_back and not snapshot.refused:
        lines += _labelled("disk", "its code was rolled back: it serves again after a reload or a restart", width)
    for template in snapshot.templates:
        lines += _labelled("template", template_line(template), width)
    return [*lines, "", *workers_table(snapshot, width)]


def _labelled(label: str, text: str, width: int) -> list[str]:
    indent = " " * 9
    return textwrap.wrap(
        plain(text), width, initial_indent=f"{label:<9}", subsequent_indent=indent, break_on_hyphens=False
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
