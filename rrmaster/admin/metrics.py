"""How do the numbers of a snapshot read as metrics?  Names, types and units as Prometheus recommends them.

A counter of a slot is the sum over all workers that the slot has had, so it never falls while the master lives.  Gauges
of a worker carry its generation: during a reload a slot has two workers.

`prometheus_client` writes the text.  Its choice between the two formats ignores the preferences (``q``) that a scraper
gives, so the choice is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate

from attrs import Factory, define, frozen
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from ..events.totals import SlotTotals
from ..protocol.pages.figures import NOTHING, Histogram
from ..rules.rollout import STATUS
from ..status.model import PoolStatus, Snapshot, WorkerStatus

EXITS = ("asked", "failed", "exit", "fault", "killed")
RELOADS = (*(phase.value for phase in STATUS), "superseded")
"""Labels that are there from the start, at 0: of a counter that begins at 1 Prometheus sees no increase."""

TEXT, OPENMETRICS = CONTENT_TYPE_LATEST, openmetrics.CONTENT_TYPE_LATEST


def exposition(snapshot: Snapshot | None, accept: str) -> tuple[bytes, str]:
    """The metrics in the format that a scraper prefers, with their content type.

    `snapshot` is None if the master does not answer, which is a metric too.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(snapshot))
    if _prefers_openmetrics(accept):
        return openmetrics.generate_latest(registry), OPENMETRICS  # type: ignore[no-untyped-call]
    return generate_latest(registry), TEXT


@define(eq=False)
class LatestMetrics:
    """The text of the latest snapshot, for all scrapes that share it: with 32 workers it takes 8 ms to be made."""

    _of: Snapshot | None = None
    _made: dict[bool, tuple[bytes, str]] = Factory(dict)
    """By whether it is OpenMetrics."""

    def of(self, snapshot: Snapshot | None, accept: str) -> tuple[bytes, str]:
        """What `exposition` makes of it."""
        if snapshot is not self._of:
            self._of, self._made = snapshot, {}
        key = _prefers_openmetrics(accept)
        if key not in self._made:
            self._made[key] = exposition(snapshot, accept)
        return self._made[key]


def _prefers_openmetrics(accept: str) -> bool:
    """Whether the header Accept gives OpenMetrics a higher preference than the text format."""
    preferences = {"application/openmetrics-text": 0.0, "text/plain": 0.0, "*/*": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (word.strip() for word in part.split(";"))
        if kind in preferences:
            preferences[kind] = max(preferences[kind], _quality(parameters))
    return preferences["application/openmetrics-text"] > max(preferences["text/plain"], preferences["*/*"])


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


@frozen(eq=False)
class _Snapshot:
    """A collector, as prometheus_client calls it."""

    snapshot: Snapshot | None

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("rrmaster_up", "Whether the master answers.", value=float(self.snapshot is not None))
        if self.snapshot is not None:
            yield from _of_the_fleet(self.snapshot)
            yield from _of_listeners(self.snapshot)
            yield from _of_workers(self.snapshot)
            yield from _of_slots(self.snapshot)
            yield from _of_templates(self.snapshot)
            if self.snapshot.pool is not None:
                yield from _of_the_pool(self.snapshot.pool)


def _gauge(name: str, about: str, labels: Iterable[str], values: Iterable[tuple[list[str], float | None]]) -> Metric:
    """A gauge with labels; a value that is unknown is left out."""
    family = GaugeMetricFamily(f"rrmaster_{name}", about, labels=list(labels))
    for of, value in values:
        if value is not None:
            family.add_metric(of, value)
    return family


def _counter(name: str, about: str, labels: Iterable[str], values: Iterable[tuple[list[str], float]]) -> Metric:
    family = CounterMetricFamily(f"rrmaster_{name}", about, labels=list(labels))
    for of, value in values:
        family.add_metric(of, value)
    return family


def _of_the_fleet(s: Snapshot) -> Iterator[Metric]:
    about = {"name": s.name, "version": s.version, "application": s.application, "policy": s.policy}
    yield InfoMetricFamily("rrmaster", "The master.", value=about)
    plain = (
        ("start_time_seconds", "When the master started, in seconds since the epoch.", s.time - s.uptime_s),
        ("workers_wanted", "The size of the fleet; 0 while the master stops.", s.size),
        ("workers_serving", "Workers that serve.", s.serving),
        ("generation", "The generation of the code; each reload starts the next one.", s.generation),
        ("crash_loop", "Whether the fleet is in a crash loop.", s.crash_loop),
        ("code_refused", "Whether the last reload refused the code on the disk.", bool(s.refused)),
        ("code_gone_back", "Whether a rollback has brought back code that is older than the disk's.", s.gone_back),
    )
    for name, text, value in plain:
        yield GaugeMetricFamily(f"rrmaster_{name}", text, value=float(value))
    counted = (
        ("connections_accepted", "Connections accepted by the master.", s.accepted),
        ("connections_lost", "Connections cut because the worker that had taken them ended.", s.lost),
        ("suspensions", "How often a worker was given nothing until its next report.", s.suspensions),
        ("breaches", "How often a worker broke the protocol of its line.", s.breaches),
    )
    for name, text, value in counted:
        yield CounterMetricFamily(f"rrmaster_{name}", text, value=value)
    recalled = [(["late"], float(s.recalled_from_late)), (["dead"], float(s.recalled_from_dead))]
    yield _counter("connections_recalled", "Connections taken back from a worker's letterbox.", ["from"], recalled)
    exits = [([how], float(number)) for how, number in (dict.fromkeys(EXITS, 0) | dict(s.totals.exits)).items()]
    yield _counter("worker_exits", "Workers that have ended, by how.", ["how"], exits)
    reloads = [([end], float(number)) for end, number in (dict.fromkeys(RELOADS, 0) | dict(s.totals.reloads)).items()]
    yield _counter("reloads", "Reloads and rollbacks that have ended, by their result.", ["result"], reloads)


def _of_the_pool(pool: PoolStatus) -> Iterator[Metric]:
    held = "Connections that rest between two requests, in no worker's hands."
    yield GaugeMetricFamily("rrmaster_parked_connections", held, value=float(pool.held))
    yield CounterMetricFamily("rrmaster_connections_parked", "Connections parked by workers.", value=pool.parked)
    yield CounterMetricFamily("rrmaster_connections_resumed", "Connections whose client spoke.", value=pool.resumed)
    ends = [([how], float(getattr(pool, how))) for how in ("left", "expired", "evicted", "lost", "cut")]
    yield _counter("parked_connections_ended", "Parked connections that have ended, by how.", ["how"], ends)
    yield CounterMetricFamily("rrmaster_idle_pool_restarts", "How often the idle pool has ended.", value=pool.restarts)


def _of_listeners(s: Snapshot) -> Iterator[Metric]:
    each = [([listener.address], listener) for listener in s.listeners]
    waiting = ((of, listener.queued) for of, listener in each)
    yield _gauge("backlog_connections", "Connections that wait in the kernel's backlog.", ["listener"], waiting)
    limits = ((of, listener.limit) for of, listener in each)
    yield _gauge("backlog_limit_connections", "Connections that fit into the backlog.", ["listener"], limits)


_OF_A_WORKER: tuple[tuple[str, str, Callable[[WorkerStatus], float | None]], ...] = (
    ("open_connections", "Connections handed to the worker and not finished.", lambda w: w.open),
    ("unclaimed_connections", "Connections in the worker's letterbox.", lambda w: w.unclaimed),
    ("busy_requests", "Requests in progress.", lambda w: w.busy),
    ("oldest_request_seconds", "Age of the oldest request in progress.", lambda w: _scaled(w.oldest_ms, 1e3)),
    ("event_loop_lag_seconds", "The longest delay of the worker's loop, recently.", lambda w: _scaled(w.lag_us, 1e6)),
    ("resident_memory_bytes", "Resident memory of the worker.", lambda w: w.rss),
    ("paused", "Whether the worker asks for no more connections.", lambda w: not w.taking),
    ("suspended", "Whether the worker is given nothing until its next report.", lambda w: w.suspended),
    ("full", "Whether all of the worker's threads are taken, so that others come first.", lambda w: w.full),
)


def _scaled(value: int | None, units: float) -> float | None:
    return None if value is None else value / units


def _of_workers(s: Snapshot) -> Iterator[Metric]:
    states: dict[str, int] = dict.fromkeys(("booting", "proving", "serving", "draining", "stopping", "killed"), 0)
    for worker in s.workers:
        states[worker.state] = states.get(worker.state, 0) + 1
    counts = (([state], float(number)) for state, number in states.items())
    yield _gauge("workers", "Workers in each state.", ["state"], counts)
    for name, about, value in _OF_A_WORKER:
        rows = {(str(w.slot), str(w.generation)): value(w) for w in s.workers}  # of two in a slot the newer one
        yield _gauge(f"worker_{name}", about, ["slot", "generation"], ((list(of), v) for of, v in rows.items()))


_OF_A_SLOT: tuple[tuple[str, str, Callable[[SlotTotals], int], float], ...] = (
    ("worker_connections", "Connections taken by the workers of the slot.", lambda done: done.taken, 1),
    ("worker_requests", "Requests finished; connections with a stream handler.", lambda done: done.requests, 1),
    ("worker_cpu_seconds", "Processor time of the workers of the slot.", lambda done: done.cpu_us, 1e6),
    ("worker_ends", "Workers of the slot that have ended.", lambda done: done.ended, 1),
)
"""Name, description, the count, and how many of it make one of the unit.  Integers are summed, and divided at the end:
a sum of fractions falls by its last digit when its parts come in another order, and would look as if it began again."""


def _done_by(w: WorkerStatus) -> SlotTotals:
    """What a living worker has done so far."""
    return SlotTotals(
        w.slot,
        # What the worker counts itself; the difference is off by what is being recalled at this moment.
        w.accept_wait.count if w.accept_wait else max(w.handed - w.unclaimed, 0),
        w.requests or 0,
        w.cpu_us or 0,
        request_duration=w.request_duration or NOTHING,
        accept_wait=w.accept_wait or NOTHING,
    )


def _of_slots(s: Snapshot) -> Iterator[Metric]:
    done = [*s.totals.slots, *map(_done_by, s.workers)]
    slots = sorted({each.slot for each in done})
    for name, about, value, unit in _OF_A_SLOT:
        sums = (([str(slot)], sum(value(each) for each in done if each.slot == slot) / unit) for slot in slots)
        yield _counter(name, about, ["slot"], sums)
    durations = {slot: _merged(each.request_duration for each in done if each.slot == slot) for slot in slots}
    about = "How long requests took, from the call of the application to the end of its answer."
    yield _histogram("request_duration_seconds", about, s.request_duration_bounds_s, durations)
    waits = {slot: _merged(each.accept_wait for each in done if each.slot == slot) for slot in slots}
    about = "How long connections waited from accept until a worker of the slot took them."
    yield _histogram("accept_wait_seconds", about, s.accept_wait_bounds_s, waits)


def _merged(histograms: Iterable[Histogram]) -> Histogram:
    return reduce(Histogram.plus, histograms, NOTHING)


def _histogram(name: str, about: str, bounds: Sequence[float], slots: dict[int, Histogram]) -> Metric:
    """A histogram by slot; a slot whose workers count nothing (a program's, say) is left out."""
    family = HistogramMetricFamily(f"rrmaster_{name}", about, labels=["slot"])
    ends = [*map(str, bounds), "+Inf"]
    for slot, histogram in slots.items():
        if histogram.counts:
            buckets = zip(ends, accumulate(histogram.counts), strict=True)
            family.add_metric([str(slot)], list(buckets), histogram.sum_s)
    return family


def _of_templates(s: Snapshot) -> Iterator[Metric]:
    ages = (([str(t.generation)], t.age_s) for t in s.templates)
    yield _gauge("template_age_seconds", "Age of the import from which workers are forked.", ["generation"], ages)
    serves = [t.pid is not None and t.state == "in use" for t in s.templates if t.generation == s.generation]
    yield GaugeMetricFamily(
        "rrmaster_template_in_use", "Whether workers are forked from a template.", value=float(any(serves))
    )
