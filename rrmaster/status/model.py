"""What is known of a running master at one moment?

::

    Master.status() ── Snapshot ──┬── to_json, from_json     the control socket, `status --json`
                                  └── report, tables         `status`, `workers`, `top`

Everything outside the master reads a snapshot and nothing else.  Numbers are plain: seconds, bytes, microseconds,
counts since the start.  An unknown value is None.

This module knows no terminal, no clock and no process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

import attrs
from attrs import Factory, frozen

from ..events.totals import FleetTotals, SlotTotals
from ..protocol.pages.figures import DURATIONS, WAITS, Histogram


@frozen
class WorkerStatus:
    """One worker."""

    slot: int
    id: int
    pid: int | None
    """None while its process is being started."""
    generation: int
    state: str
    """A value of `lifecycle.State`."""
    state_s: float
    """Seconds in this state."""
    uptime_s: float | None
    """Seconds since the worker began to serve; None before that."""
    open: int
    """Connections handed to the worker and not finished, whether it has taken them or not."""
    unclaimed: int
    """Connections in its letterbox: handed over, and not taken yet."""
    handed: int
    """Connections handed to the worker since it started, less those recalled."""
    closed: int
    """Connections that the worker has finished since it started."""
    busy: int | None = None
    """Requests in progress.  Before the first report, this field and the following counts are None."""
    requests: int | None = None
    """Requests finished since the worker started; for a stream handler, connections."""
    oldest_ms: int | None = None
    """Milliseconds for which its oldest request has been in progress at the last report, websockets not counted."""
    lag_us: int | None = None
    """The longest delay of its event loop in the last 5 to 10 seconds, in microseconds.  An overdue report counts at
    once.  None until it is ready."""
    overdue_ms: int | None = None
    """Milliseconds by which its next report is overdue: 0 unless its loop is blocked at present.  None until it is
    ready."""
    silent_ms: int | None = None
    """Milliseconds since its last message.  None until it is ready."""
    rss: int | None = None
    """Bytes of resident memory."""
    cpu_us: int | None = None
    """Microseconds of processor time since the worker started."""
    taking: bool = True
    """False while the worker asks for no more connections."""
    suspended: bool = False
    """True while the worker gets no connections until its next report: it was late, or asks for none."""
    full: bool = False
    """True while a further request would wait in the worker: all its threads are taken, or its application says so."""
    leaving: bool = False
    """True for a worker that is being replaced and serves until its replacement does."""
    restarts: int = 0
    """How many workers of this slot were replaced after they had ended by themselves or were killed."""
    last_exit: str = ""
    """How the previous worker of this slot ended."""
    latency_p50_s: float | None = None
    """Seconds that half of the requests of the last 5 to 10 seconds took at most; None if there were none, or if the
    worker does not measure them (stream handlers, programs)."""
    latency_p99_s: float | None = None
    """Seconds that 99 in 100 of them took at most."""
    request_duration: Histogram | None = None
    """How long its requests have taken since it started, by `Snapshot.request_duration_bounds_s`; None if the worker
    counts nothing."""
    accept_wait: Histogram | None = None
    """How long connections have waited from accept until it took them, by `Snapshot.accept_wait_bounds_s`."""


@frozen
class ListenerStatus:
    """One listening address."""

    address: str
    queued: int | None
    """Connections in its backlog; None for unix sockets, for which the kernel does not say."""
    limit: int
    """Connections that fit into the backlog."""
    workers: int | None = None
    """Workers that serve this address."""


@frozen
class ReloadStatus:
    """The reload that is running, or the last one that ran."""

    phase: str
    """A value of `rollout.Phase`."""
    generation: int
    """The generation that the reload starts."""
    status: int | None = None
    """The result, as the exit status of `rrmaster reload`; None while the reload runs."""
    reason: str = ""
    """Why the reload failed; empty otherwise."""
    is_rollback: bool = False
    """Whether it brings back code from memory."""
    phases: Mapping[str, float] = Factory(dict)
    """Seconds in each `rollout.Phase` so far, in their order, without the one that ended it."""
    ended_s: float | None = None
    """Seconds since it ended; None while it runs."""


@frozen
class TemplateStatus:
    """The template of a generation: the process that has imported its code and forks its workers."""

    generation: int
    pid: int | None
    """None while the template is being started, and after it is lost."""
    state: str
    """loading, in use (the generation's workers are forked from it), in doubt (its last workers died before they were
    ready, and it may be the cause), none (the workers cannot be forked), previous (kept for a rollback) or lost."""
    age_s: float
    """Seconds since the import of the code finished, or began if it still runs."""
    spare: int | None = None
    """The process id of the spare template, which replaces this one if it is lost."""
    uss: int | None = None
    """Bytes of memory that no other process shares (unique set size); None if unknown."""
    pss: int | None = None
    """Bytes of memory, shared pages counted in part (proportional set size)."""
    rss: int | None = None
    """Bytes of memory, shared pages counted whole (resident set size)."""
    kept_s: float | None = None
    """Seconds for which a previous template is still kept."""


@frozen
class PoolStatus:
    """The idle pool: connections that rest between two requests.  All but `held` and the rate count since the start."""

    pid: int | None
    """None while no pool stands."""
    held: int
    """Connections that rest now.  No worker has them in hand, so they are in no worker's `open`."""
    parked: int
    """Connections that workers have parked; one counts each time."""
    parked_per_s: float
    """How many a second, in the last seconds."""
    resumed: int
    """Connections whose client has spoken, so that a worker was chosen for them."""
    left: int = 0
    """Connections that their client has closed or reset while they rested."""
    expired: int = 0
    """Connections that were closed when the keep-alive time was over, or the fleet stopped."""
    evicted: int = 0
    """Connections that were closed because more than --max-parked rested."""
    refused: int = 0
    """What workers have sent that was no connection of a client."""
    lost: int = 0
    """Connections that the kernel closed on their way, for want of descriptors."""
    cut: int = 0
    """Connections that were closed because the pool was killed."""
    restarts: int = 0
    """How often the pool has ended and was started again."""


@frozen
class DeadlyRequest:
    """A request that was in hand when workers died."""

    request: str
    """Method and path, without the query; what is no printable ASCII is escaped."""
    deaths: int


@frozen
class Snapshot:
    """A master at one moment: immutable, and independent of the master once taken.

    Made by `Master.status` in the master's process and by `Client.status` in the process of a verb.
    """

    name: str
    pid: int
    version: str
    application: str
    policy: str
    time: float
    """Seconds since the epoch."""
    uptime_s: float
    size: int
    """Workers wanted; 0 while the master stops."""
    generation: int
    accepted: int
    recalled_from_late: int
    recalled_from_dead: int
    suspensions: int
    breaches: int
    lost: int
    """Connections that were cut because the worker that had taken them died."""
    crash_loop: bool = False
    refused: str = ""
    """Why the last reload refused the code on disk; empty if it did not."""
    gone_back: bool = False
    """True after a rollback: the code that serves is older than the code on disk."""
    reload: ReloadStatus | None = None
    listeners: tuple[ListenerStatus, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    templates: tuple[TemplateStatus, ...] = ()
    stopping: bool = False
    """True from the moment that the master is told to stop; with --shutdown-delay its workers serve on for a while."""
    totals: FleetTotals = Factory(FleetTotals)
    """Counts that outlive the workers."""
    directory: str = ""
    """The working directory at the start, as it was written: a link stays a link.  Empty if unknown."""
    latency_p50_s: float | None = None
    """Seconds that half of the requests of all workers took at most, in the last 5 to 10 seconds; None without any."""
    latency_p99_s: float | None = None
    """Seconds that 99 in 100 of them took at most."""
    request_duration_bounds_s: tuple[float, ...] = DURATIONS
    """The upper bounds of each `request_duration`, in seconds; its last count is of what exceeds them all."""
    accept_wait_bounds_s: tuple[float, ...] = WAITS
    """The same for each `accept_wait`."""
    deadly_requests: tuple[DeadlyRequest, ...] = ()
    """What workers had in hand when they died, in the last 10 minutes, the most frequent first: at most 20."""
    pool: PoolStatus | None = None
    """The idle pool; None if no worker parks connections (--park-after)."""

    @property
    def serving(self) -> int:
        """The number of workers that serve."""
        return sum(worker.state == "serving" for worker in self.workers)

    def open_by_worker(self) -> int:
        """Open connections of all workers together."""
        return sum(worker.open for worker in self.workers)


# --- JSON


def to_json(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as a value for `json`.  The keys are the names of the fields, and never change."""
    plain: dict[str, Any] = _plain(snapshot)
    return plain


_PLAIN = (str, int, float, bool, type(None))


@cache
def _fields(kind: type) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    names = tuple(field.name for field in attrs.fields(kind))
    return names, attrgetter(*names)


# `attrs.asdict` takes three times as long, and the time is the master's, for each scrape.
def _plain(value: Any) -> Any:
    """The value for `json`.  In a tuple all are of one kind."""
    if isinstance(value, tuple):
        return list(value) if not value or type(value[0]) in _PLAIN else [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return dict(value)
    names, get = _fields(value.__class__)
    return dict(zip(names, [v if type(v) in _PLAIN else _plain(v) for v in get(value)], strict=True))


def from_json(data: Mapping[str, Any]) -> Snapshot:
    """The snapshot in a value that another process has sent.  Unknown keys are skipped.

    Raises ValueError if a required key is missing.
    """
    try:
        reload, pool = data.get("reload"), data.get("pool")
        return _build(
            Snapshot,
            data,
            reload=None if reload is None else _build(ReloadStatus, reload),
            listeners=tuple(_build(ListenerStatus, item) for item in data.get("listeners", ())),
            workers=tuple(_build(WorkerStatus, item, **_histograms(item)) for item in data.get("workers", ())),
            templates=tuple(_build(TemplateStatus, item) for item in data.get("templates", ())),
            deadly_requests=tuple(_build(DeadlyRequest, item) for item in data.get("deadly_requests", ())),
            pool=None if pool is None else _build(PoolStatus, pool),
            totals=_totals(data.get("totals", {})),
            **{name: tuple(data[name]) for name in _BOUNDS if name in data},
        )
    except (TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"this is no status of a master: {error}") from None


_BOUNDS = ("request_duration_bounds_s", "accept_wait_bounds_s")

_T = TypeVar("_T", bound=attrs.AttrsInstance)


def _build(kind: type[_T], data: Mapping[str, Any], **parts: Any) -> _T:
    known = {field.name for field in attrs.fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in known} | parts)


def _totals(data: Mapping[str, Any]) -> FleetTotals:
    slots = tuple(_build(SlotTotals, item, **_histograms(item)) for item in data.get("slots", ()))
    return _build(FleetTotals, data, slots=slots)


def _histograms(data: Mapping[str, Any]) -> dict[str, Histogram]:
    """The histograms of a worker, or of a slot; an older master sends none."""
    found = {name: data.get(name) for name in ("request_duration", "accept_wait")}
    return {name: Histogram(tuple(each["counts"]), each["sum_s"]) for name, each in found.items() if each is not None}


def as_json_text(snapshot: Snapshot) -> str:
    """The output of `status --json`: indented for people, valid for jq."""
    return json.dumps(to_json(snapshot), indent=2)
