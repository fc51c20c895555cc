"""What does a person see: which worker is stuck, what happened in the last reload, how many requests there are?

The page is made here, by Jinja, for the first look and for each second after it; its script only puts the new text in
the place of the old.  Without JavaScript it is the same page, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from ...config.readiness import ReadyWhen
from ...status.formatting import count, duration, gist, lag, number, shortened, size
from ...status.model import Snapshot
from ...status.readiness import why_not_ready
from ...status.report import reload_line, troubles
from ...status.tables import shown_state
from .assets import render
from .history import HEIGHT, WIDTH, History, curve

STUCK_MS, LATE_US = 10_000, 1_000_000
"""Milliseconds of the oldest request, and microseconds of a loop's delay, from which a worker is shown as one to look
at.  Most requests take less, and a loop that is late by a second delays every client that it has."""

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
        "troubles": troubles(s),
        "about": f"{s.policy}, version {s.version}, pid {s.pid}, generation {s.generation}, up {duration(s.uptime_s)}",
        "serving": f"{s.serving} of {count(s.size, 'worker')}",
        "workers": [_worker(s, w) for w in s.workers],
        "vacant": sorted(set(range(s.size)) - {worker.slot for worker in s.workers}),
        "listeners": [(each.address, number(each.queued), each.limit) for each in s.listeners],
        "curves": _curves(glance.history),
        "reload": reload_line(s.reload) if s.reload is not None else "",
        "lost": s.lost,
        "size": (WIDTH, HEIGHT),
        **logs,
    }


def _worker(s: Snapshot, w: Any) -> dict[str, Any]:
    most = max([worker.open for worker in s.workers] + [1])
    warnings = []
    if (w.oldest_ms or 0) >= STUCK_MS:
        warnings.append(f"a request has been in progress for {duration(w.oldest_ms / 1000)}")
    if (w.lag_us or 0) >= LATE_US:
        warnings.append(f"its loop was late by {lag(w.lag_us)}")
    return {
        "slot": w.slot,
        "generation": w.generation,
        "pid": number(w.pid),
        "state": shown_state(w),
        "since": duration(w.state_s),
        "open": w.open,
        "most": most,
        "busy": number(w.busy),
        "oldest": duration(w.oldest_ms / 1000) if w.oldest_ms else "-",
        "lag": lag(w.lag_us),
        "memory": size(w.rss),
        "requests": number(w.requests),
        "restarts": w.restarts,
        "last_exit": w.last_exit,
        "warning": "; ".join(warnings),
    }


def _curves(history: History) -> list[dict[str, Any]]:
    curves = (
        ("connections a second", history.rates(lambda sample: sample.accepted)),
        ("requests a second", history.rates(lambda sample: sample.requests)),
        ("open connections", history.values(lambda sample: sample.open)),
        ("requests in progress", history.values(lambda sample: sample.busy)),
        ("waiting in the backlog", history.values(lambda sample: sample.backlog)),
    )
    return [
        {
            "name": name,
            "now": f"{values[-1]:,.0f}" if values else "-",
            "most": f"{max(values):,.0f}" if values else "-",
            "points": curve(values, max(values, default=0.0)),
        }
        for name, values in curves
    ]


def _entry(entry: dict[str, Any], who: str) -> dict[str, Any]:
    text = str(entry.get("text", ""))
    return {
        "id": f"{entry.get('time')}-{entry.get('slot', '')}",
        "time": datetime.fromtimestamp(float(entry.get("time", 0.0)), UTC).strftime("%H:%M:%S"),
        "level": str(entry.get("level", "")),
        "who": who,
        "short": shortened(text if "\n" not in text else f"{text.splitlines()[0]} {gist(text)}", TEXT),
        "whole": text if "\n" in text or len(text) > TEXT else "",
    }
