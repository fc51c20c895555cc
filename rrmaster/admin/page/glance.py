"""What does a person see: which worker is stuck, what happened in the last reload, how many requests there are?

The page is made here, by Jinja, for the first look and for each second after it; its script only puts the new text in
the place of the old.  Without JavaScript it is the same page, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from ...config.readiness import ReadyWhen
from ...status.formatting import count, duration, gist, lag, number, shortened, size
from ...status.model import ReloadStatus, Snapshot, WorkerStatus
from ...status.readiness import why_not_ready
from ...status.report import RESULTS, pool_line, troubles
from ...status.tables import COLUMNS, shown_state
from .assets import render
from .history import HEIGHT, WIDTH, History, curve

STUCK_MS, LATE_US, BLOCKED_MS = 10_000, 1_000_000, 1_000
"""Milliseconds of the oldest request, microseconds of a loop's delay, and milliseconds by which a report is overdue,
from which a worker is shown as one to look at.  Most requests take less, and a loop that is late by a second delays all
of its clients."""

RECENT_S = 60
"""Seconds for which the end of a worker stands at the top of the page."""

TEXT = 160
"""Characters of a log line; all of a longer one is behind a click."""


@frozen
class Glance:
    """All that the page shows at one moment."""

    snapshot: Snapshot | None
    """None: the master does not answer."""
    history: History
    events: Sequence[dict[str, Any]]
    """Log entries, the oldest first."""
    output: Sequence[dict[str, Any]]
    """Lines that workers have printed, the oldest first."""
    ready_when: ReadyWhen
    can_act: bool = False
    """Whether there are actions."""


def whole_page(glance: Glance) -> str:
    """The page."""
    return render("page.html", content=content(glance), title=_title(glance.snapshot))


def content(glance: Glance) -> str:
    """The part of the page that changes."""
    return render("content.html", **_facts(glance))


def _title(s: Snapshot | None) -> str:
    return "rrmaster" if s is None else f"{s.name}: {s.application}"


def _facts(glance: Glance) -> dict[str, Any]:
    s = glance.snapshot
    events = [_entry(entry, "") for entry in reversed(glance.events)]
    output = [_entry(entry, f"worker {entry.get('slot', '-')}") for entry in glance.output]
    logs = {"events": events, "output": output, "can_act": glance.can_act}
    if s is None:
        return {"up": False, "title": "rrmaster", **logs}
    return {
        "up": True,
        "title": _title(s),
        "why_not_ready": why_not_ready(s, glance.ready_when),
        "troubles": [*_stuck(s), *_crashes(s, glance.history), *troubles(s)],
        "about": f"{s.policy}, version {s.version}, pid {s.pid}, generation {s.generation}, up {duration(s.uptime_s)}",
        "serving": f"{s.serving} of {count(s.size, 'worker')}",
        "workers": [_worker(s, w) for w in s.workers],
        "vacant": sorted(set(range(s.size)) - {worker.slot for worker in s.workers}),
        "listeners": [(each.address, number(each.queued), each.limit) for each in s.listeners],
        "pool": pool_line(s.pool) if s.pool is not None else "",
        "curves": _curves(glance.history),
        "columns": _COLUMNS,
        "reload": _reload(s.reload) if s.reload is not None else None,
        "lost": f"{count(s.lost, 'connection')} cut because the worker that had taken them ended." if s.lost else "",
        "size": (WIDTH, HEIGHT),
        **logs,
    }


_LABELS = {
    "slot": "SLOT", "state": "STATE", "open": "OPEN", "busy": "BUSY", "oldest": "OLDEST", "p99": "", "lag": "LAG",
    "memory": "RSS", "requests": "REQS", "restarts": "RST", "code": "GEN", "pid": "PID", "last exit": "LAST EXIT",
}  # fmt: skip
_P99 = "time that 99 of 100 requests of the last seconds took at most"
_COLUMNS = [(name, {column.title: column.about for column in COLUMNS}.get(of, _P99)) for name, of in _LABELS.items()]
"""The columns of the page by its own names, as `status --help` explains them."""


def _stuck(s: Snapshot) -> list[str]:
    """The workers whose loop is blocked at present, in words for the top of the page."""
    return [
        f"worker {w.slot} is stuck: its loop has been blocked for {duration((w.overdue_ms or 0) / 1000)}, and its "
        f"clients wait; `rrmaster stacks {w.slot}` shows where"
        for w in s.workers
        if (w.overdue_ms or 0) >= BLOCKED_MS
    ]


def _crashes(s: Snapshot, history: History) -> Iterator[str]:
    """Deaths are told before the master calls them a loop, and also if each may be the fault of a request."""
    crashes = history.growth(lambda sample: sample.crashes, RECENT_S)
    if crashes and not s.crash_loop:
        ends = [worker.last_exit for worker in s.workers if worker.last_exit and worker.restarts]
        how = f"; one of them {_short(ends[-1])}" if ends else ""
        yield f"{count(crashes, 'worker')} ended without being asked in the last minute{how}"


def _warnings(w: WorkerStatus) -> Iterator[str]:
    if (w.overdue_ms or 0) >= BLOCKED_MS:
        yield f"stuck: blocked for {duration((w.overdue_ms or 0) / 1000)}"
    elif (w.lag_us or 0) >= LATE_US:
        yield f"its loop was late by {lag(w.lag_us)}"
    if (w.oldest_ms or 0) >= STUCK_MS:
        yield f"a request has been in progress for {duration((w.oldest_ms or 0) / 1000)}"


def _worker(s: Snapshot, w: WorkerStatus) -> dict[str, Any]:
    return {
        "slot": w.slot,
        "generation": w.generation,
        "pid": number(w.pid),
        "state": shown_state(w),
        "since": duration(w.state_s),
        "open": w.open,
        "most": max([worker.open for worker in s.workers] + [1]),
        "busy": number(w.busy),
        "oldest": duration(w.oldest_ms / 1000) if w.oldest_ms else "-",
        "p99": _time(w.latency_p99_s),
        "lag": lag(w.lag_us),
        "memory": size(w.rss),
        "requests": number(w.requests),
        "restarts": w.restarts,
        "id": w.id,
        "last_exit": _short(w.last_exit),
        "last_whole": _whole(w.last_exit),
        "warning": "; ".join(_warnings(w)),
    }


def _time(seconds: float | None) -> str:
    return lag(int(seconds * 1e6)) if seconds else "-"


_PHASES = {
    "starting": "the new workers start beside the old ones",
    "probation": "they must live on, without traffic",
    "soaking": "they serve their share, beside the old ones",
}


def _reload(reload: ReloadStatus) -> dict[str, Any]:
    """The reload that runs, or the last one: each phase with its time, and its end."""
    what = "rollback" if reload.is_rollback else "reload"
    ago = "" if reload.ended_s is None else f", {duration(reload.ended_s)} ago"
    phases = [
        {
            "name": name,
            "about": about,
            "time": _time(reload.phases.get(name)) if name in reload.phases else "",
            "look": "now" if name == reload.phase else "passed" if name in reload.phases else "later",
        }
        for name, about in _PHASES.items()
        if name in reload.phases or reload.status is None  # what an end has left out did not come
    ]
    if reload.status is not None:
        result = RESULTS.get(reload.status, f"status {reload.status}")
        about = "the new code serves alone" if reload.status == 0 else "the old code serves on"
        look = "good" if reload.status == 0 else "failed"
        phases.append({"name": result, "about": about, "time": "", "look": look})
    return {
        "title": f"{'This' if reload.status is None else 'Last'} {what}, to generation {reload.generation}{ago}",
        "phases": phases,
        "reason": reload.reason if reload.status else "",
        "gist": gist(reload.reason) if reload.reason else "",
    }


def _curves(history: History) -> list[dict[str, Any]]:
    return [
        _curve("connections a second", history.rates(lambda sample: sample.accepted)),
        _curve("requests a second", history.rates(lambda sample: sample.requests)),
        *_latency(history),
        _curve("open connections", history.values(lambda sample: sample.open)),
        _curve("requests in progress", history.values(lambda sample: sample.busy)),
        _curve("connections in the backlog", history.values(lambda sample: sample.backlog)),
    ]


def _latency(history: History) -> Iterator[dict[str, Any]]:
    """The line of 99 in 100 requests, and that of half of them; nothing for a fleet that does not measure them."""
    p99 = history.values(lambda sample: sample.p99)
    highest = max(p99, default=0.0)
    if highest:
        lines = [curve(p99, highest), curve(history.values(lambda sample: sample.p50), highest)]
        yield {
            "name": "latency, p99 (dashed: p50)",
            "now": _time(p99[-1]),
            "most": _time(highest),
            "lines": lines,
        }


def _curve(name: str, values: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "now": f"{values[-1]:,.0f}" if values else "-",
        "most": f"{max(values):,.0f}" if values else "-",
        "lines": [curve(values, max(values, default=0.0))],
    }


def _entry(entry: dict[str, Any], who: str) -> dict[str, Any]:
    text = str(entry.get("text", ""))
    return {
        "id": f"{entry.get('time')}-{entry.get('slot', '')}",
        "time": datetime.fromtimestamp(float(entry.get("time", 0.0)), UTC).strftime("%H:%M:%S"),
        "level": str(entry.get("level", "")),
        "who": who,
        "short": _short(text),
        "whole": _whole(text),
    }


def _short(text: str) -> str:
    """What of a text is shown at once: the first line and the gist of a traceback."""
    first = text.splitlines()[0] if text else ""
    what = "" if first.startswith("Traceback ") else first
    return shortened(text if "\n" not in text else f"{what} {gist(text)}".strip(), TEXT)


def _whole(text: str) -> str:
    """What is behind a click; empty if all is shown at once."""
    return text if "\n" in text or len(text) > TEXT else ""
