"""How is a running master doing: what do its supervisor, dispatcher and templates know, as one `Snapshot`?

Taking a snapshot changes nothing but that it reads what the workers have reported.  It asks the kernel for the lengths
of backlogs and letterboxes, and takes about 20 us for each worker.
"""

from __future__ import annotations

import functools
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import trio
from attrs import evolve

from .._version import __version__
from ..config.settings import Settings
from ..dispatch.acceptor import Acceptor
from ..dispatch.dispatcher import Dispatcher
from ..events.latency import quantile
from ..parking.keeper import IdlePool
from ..processes.generation_templates import GenerationTemplates
from ..processes.generations import Generations
from ..protocol.pages.figures import NOTHING, Figures, Histogram
from ..supervision.supervisor import Supervisor
from ..supervision.worker_record import WorkerRecord
from .model import DeadlyRequest, ListenerStatus, PoolStatus, ReloadStatus, Snapshot, TemplateStatus, WorkerStatus

_TCP_INFO_LIMIT = struct.Struct("=28xI")
"""tcpi_sacked of a listening socket: the size of its backlog, as limited by the kernel (somaxconn)."""


def take_snapshot(
    name: str,
    settings: Settings,
    supervisor: Supervisor,
    dispatcher: Dispatcher,
    generations: Generations,
    began: float,
    directory: str,
    pool: IdlePool,
) -> Snapshot:
    """A snapshot as of now.  `began` is the time of the start on trio's clock, `directory` where that was."""
    dispatcher.read_reports()  # an idle master reads them now and then, and they would look overdue
    now = trio.current_time()
    workers = [(worker, *worker.figures.now()) for worker in sorted(supervisor.workers.values(), key=_place)]
    return Snapshot(
        name=name,
        pid=os.getpid(),
        version=__version__,
        application=settings.application,
        policy=settings.policy_name,
        time=time.time(),
        uptime_s=now - began,
        size=supervisor.reload.goal.size,
        generation=supervisor.reload.goal.generation,
        accepted=dispatcher.accepted,
        recalled_from_late=dispatcher.recall.from_late,
        recalled_from_dead=dispatcher.recall.from_dead,
        suspensions=dispatcher.recall.suspensions,
        breaches=dispatcher.breaches,
        lost=supervisor.crashes.lost,
        crash_loop=supervisor.crashes.backoff.is_loop(now),
        refused=supervisor.reload.refused,
        gone_back=supervisor.reload.gone_back,
        reload=_reload(supervisor, now),
        listeners=tuple(_listener(acceptor, settings.backlog) for acceptor in dispatcher.acceptors),
        workers=tuple(_worker(*each, supervisor, now, settings.heartbeat) for each in workers),
        templates=tuple(_templates(generations, now)),
        totals=supervisor.announcements.totals.at_present(),
        directory=directory,
        **_latency(*(of_late for _, _, of_late in workers)),
        deadly_requests=tuple(DeadlyRequest(*known) for known in supervisor.crashes.deadly.known(now)),
        pool=_pool(pool, dispatcher) if pool.wanted else None,
    )


def _pool(pool: IdlePool, dispatcher: Dispatcher) -> PoolStatus:
    total, lanes, returns = pool.total(), dispatcher.lanes, dispatcher.returns
    return PoolStatus(
        pid=pool.pid,
        held=total["held"],
        parked=max(lanes.parked(), total["taken"] + lanes.taken_back),
        parked_per_s=round(pool.rate, 1),
        resumed=returns.resumed + lanes.taken_back,
        left=total["left"] + lanes.left,
        expired=total["expired"],
        evicted=total["evicted"],
        refused=total["refused"] + lanes.refused,
        lost=total["lost"] + returns.lost + lanes.lost,
        cut=pool.cut,
        restarts=pool.restarts,
    )


def _templates(generations: Generations, now: float) -> Iterator[TemplateStatus]:
    for generation, templates in sorted(generations.by_number.items()):
        yield _template(generation, templates, templates.state, now)
    if generations.previous is not None and generations.previous not in generations.by_number.values():
        previous = generations.previous
        yield _template(previous.generation, previous, "previous", now, max(generations.kept_until - now, 0.0))


def _template(
    generation: int, templates: GenerationTemplates, state: str, now: float, kept: float | None = None
) -> TemplateStatus:
    pid = templates.template.process.pid if templates.template is not None else None
    spare = templates.spare.process.pid if templates.spare is not None else None
    found = TemplateStatus(generation, pid, state, now - templates.since, spare, kept_s=kept)
    weight = templates.weight
    return found if weight is None else evolve(found, uss=weight.uss, pss=weight.pss, rss=weight.rss)


def _reload(supervisor: Supervisor, now: float) -> ReloadStatus | None:
    if supervisor.reload.latest is None:
        return None
    rollout = supervisor.reload.latest.rollout
    return ReloadStatus(
        rollout.phase.value,
        rollout.generation,
        rollout.status,
        rollout.reason,
        rollout.is_rollback,
        rollout.times(now),
        now - rollout.since if rollout.over else None,
    )


def _listener(acceptor: Acceptor, asked: int) -> ListenerStatus:
    limit, sock = acceptor.listener.backlog or asked, acceptor.listener.socket
    if sock.family != socket.AF_UNIX:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LIMIT.size)
        limit = int(_TCP_INFO_LIMIT.unpack(info)[0])
    return ListenerStatus(acceptor.listener.name, acceptor.queued(), limit, len(acceptor.policy.members))


def _latency(*histograms: Histogram) -> dict[str, Any]:
    """The quantiles of all of these requests."""
    requests = functools.reduce(Histogram.plus, histograms, NOTHING)
    return {"latency_p50_s": quantile(requests, 0.5), "latency_p99_s": quantile(requests, 0.99)}


def _place(worker: WorkerRecord) -> tuple[int, int]:
    return worker.slot, worker.id


def _worker(
    worker: WorkerRecord,
    figures: Figures | None,
    of_late: Histogram,
    supervisor: Supervisor,
    now: float,
    heartbeat: float,
) -> WorkerStatus:
    load, report = worker.link.load, worker.report
    return WorkerStatus(
        slot=worker.slot,
        id=worker.id,
        pid=worker.process.pid if worker.process is not None else None,
        generation=worker.generation,
        state=worker.state.value,
        state_s=now - worker.since,
        uptime_s=None if worker.served_since is None else now - worker.served_since,
        open=load.connections,
        unclaimed=load.recount(),
        handed=load.handed,
        closed=load.closed,
        busy=report.busy if report else None,
        requests=report.requests if report else None,
        oldest_ms=report.oldest_ms if report else None,
        lag_us=int(supervisor.runner.lag(worker) * 1e6) if worker.ready else None,
        overdue_ms=int(worker.overdue(now, heartbeat) * 1e3) if worker.ready else None,
        silent_ms=max(int((now - worker.heard) * 1e3), 0) if worker.ready else None,
        rss=report.rss if report else None,
        cpu_us=report.cpu_us if report else None,
        taking=report is None or report.taking,
        suspended=load.suspended,
        full=load.full,
        leaving=worker.leaving,
        restarts=supervisor.crashes.replacements.get(worker.slot, 0),
        last_exit=supervisor.crashes.last_exits.get(worker.slot, ""),
        **_latency(of_late),
        request_duration=figures.durations if figures else None,
        accept_wait=figures.waits if figures else None,
    )
