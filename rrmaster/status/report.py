"""How does a whole snapshot read, line by line: the output of `rrmaster status`?

Troubles come first, then the master, its listeners, its counters and its templates, then the table of workers.

This module knows no terminal.
"""

from __future__ import annotations

import textwrap

from .formatting import count, duration, gist, number, plain, size
from .model import PoolStatus, ReloadStatus, Snapshot, TemplateStatus
from .readiness import takes_connections
from .tables import NARROWEST, workers_table

RESULTS = {
    0: "committed",
    10: "refused before any traffic",
    11: "rolled back after traffic",
    12: "given up, out of time",
    13: "not begun, another one runs",
}
"""The exit statuses of `rrmaster reload` in words."""


def headline(snapshot: Snapshot) -> str:
    """Which master this is, and whether its workers serve, in one line."""
    if snapshot.size == 0:
        state = f"stopping, {count(len(snapshot.workers), 'worker')} left"
    elif snapshot.stopping:
        state = f"stopping, {count(snapshot.serving, 'worker')} serve until --shutdown-delay is over"
    else:
        state = f"{snapshot.serving} of {count(snapshot.size, 'worker')} serve"
        taking = sum(map(takes_connections, snapshot.workers))
        if taking < snapshot.serving:
            state += f" ({taking} take{'s' * (taking == 1)} connections now)"
    up = duration(snapshot.uptime_s)
    return f"{snapshot.name} (pid {snapshot.pid}): {snapshot.application}, {state}, {snapshot.policy}, up {up}"


def troubles(snapshot: Snapshot) -> list[str]:
    """What an operator must know first; empty when all is well."""
    found = []
    if snapshot.crash_loop:
        found.append("crash loop: workers keep dying; they are started again, with pauses")
    if snapshot.deadly_requests:
        worst = snapshot.deadly_requests[0]
        deaths = count(worst.deaths, "worker")
        found.append(f"a request kills workers: {worst.request} was in hand when {deaths} died in the last minutes")
    if snapshot.refused:
        found.append(f"code on disk was refused: {gist(snapshot.refused)}")
    if snapshot.size and not snapshot.serving:
        found.append("no worker serves: connections wait in the backlog")
    return found


def totals(snapshot: Snapshot) -> str:
    """The counters since the start."""
    s = snapshot
    return (
        f"open {s.open_by_worker()}, accepted {s.accepted}, recalled {s.recalled_from_late} from late and "
        f"{s.recalled_from_dead} from dead workers, suspended {s.suspensions}, breaches {s.breaches}, "
        f"lost in hands {s.lost}"
    )


def pool_line(pool: PoolStatus) -> str:
    """The idle pool; what should not be is told only where it is."""
    where = f"pid {pool.pid}" if pool.pid is not None else "being started"
    rate = f" ({pool.parked_per_s:.0f}/s)" if pool.parked_per_s >= 1 else ""
    odd = {
        "evicted": pool.evicted,
        "refused": pool.refused,
        "lost": pool.lost,
        "cut": pool.cut,
        "restarts": pool.restarts,
    }
    rest = f"{count(pool.held, 'connection')} {'rests' if pool.held == 1 else 'rest'}"
    return (
        f"{rest} in the idle pool ({where}), parked {pool.parked}{rate}, resumed {pool.resumed}, "
        f"left {pool.left}, expired {pool.expired}" + "".join(f", {name} {many}" for name, many in odd.items() if many)
    )


def reload_line(reload: ReloadStatus) -> str:
    """The reload that is running, or the last one that ran."""
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


def report(snapshot: Snapshot, width: int) -> list[str]:
    """The output of `status`, in lines of at most `width` columns."""
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
    if snapshot.pool is not None:
        lines += _labelled("parked", pool_line(snapshot.pool), width)
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
