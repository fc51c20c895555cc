"""How a running master is doing: what supervisor and dispatcher know, put together as one `Snapshot`.

It reads and changes nothing, asks the kernel for backlogs and letterboxes only, and takes some 20 us a worker.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator

import trio
from attrs import evolve

from .._version import __version__
from ..config.settings import Settings
from ..dispatch.acceptor import Acceptor
from ..dispatch.dispatcher import Dispatcher
from ..processes.generations import Lineage, Stem
from ..supervision.supervisor import Supervisor
from ..supervision.worker_record import Ward
from .model import ListenerStatus, ReloadStatus, Snapshot, TemplateStatus, WorkerStatus

_TCP_INFO_LIMIT = struct.Struct("=28xI")
"""tcpi_sacked of a listening socket: how many its backlog holds, after the kernel has had its say (somaxconn)."""


def survey(
    name: str, settings: Settings, supervisor: Supervisor, dispatcher: Dispatcher, lineage: Lineage, began: float
) -> Snapshot:
    """Everything, now.  `began` is when the master started, on trio's clock."""
    now = trio.current_time()
    recall = dispatcher.recall
    return Snapshot(
        name=name,
        pid=os.getpid(),
        version=__version__,
        application=settings.application,
        policy=settings.policy_name,
        time=time.time(),
        uptime_s=now - began,
        size=supervisor.goal.size,
        generation=supervisor.goal.generation,
        accepted=dispatcher.accepted,
        recalled_from_late=recall.from_late,
        recalled_from_dead=recall.from_dead,
        suspensions=recall.suspensions,
        breaches=dispatcher.breaches,
        lost=supervisor.aftermath.lost,
        crash_loop=supervisor.aftermath.restarts.looping(now),
        refused=supervisor.refused,
        gone_back=supervisor.renewal.gone_back,
        reload=_reload(supervisor),
        listeners=tuple(_listener(acceptor, settings.backlog) for acceptor in dispatcher.acceptors),
        workers=tuple(
            _worker(ward, supervisor, now) for ward in sorted(supervisor.wards.values(), key=lambda w: (w.slot, w.id))
        ),
        templates=tuple(_templates(lineage, now)),
    )


def _templates(lineage: Lineage, now: float) -> Iterator[TemplateStatus]:
    for generation, stem in sorted(lineage.stems.items()):
        yield _template(generation, stem, stem.state, now)
    if lineage.previous is not None and lineage.previous not in lineage.stems.values():
        previous = lineage.previous
        yield _template(previous.generation, previous, "previous", now, max(lineage.kept_until - now, 0.0))


def _template(generation: int, stem: Stem, state: str, now: float, kept: float | None = None) -> TemplateStatus:
    pid = stem.template.process.pid if stem.template is not None else None
    spare = stem.spare.process.pid if stem.spare is not None else None
    found = TemplateStatus(generation, pid, state, now - stem.since, spare, kept_s=kept)
    weight = stem.weight
    return found if weight is None else evolve(found, uss=weight.uss, pss=weight.pss, rss=weight.rss)


def _reload(supervisor: Supervisor) -> ReloadStatus | None:
    rollout = supervisor.rollout
    if rollout is None:
        return None
    return ReloadStatus(rollout.phase.value, rollout.generation, rollout.status, rollout.reason)


def _listener(acceptor: Acceptor, asked: int) -> ListenerStatus:
    limit, sock = acceptor.listener.backlog or asked, acceptor.listener.socket
    if sock.family != socket.AF_UNIX:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_LIMIT.size)
        limit = int(_TCP_INFO_LIMIT.unpack(info)[0])
    return ListenerStatus(acceptor.listener.name, acceptor.queued(), limit, len(acceptor.policy.members))


def _worker(ward: Ward, supervisor: Supervisor, now: float) -> WorkerStatus:
    load, report = ward.link.load, ward.report
    return WorkerStatus(
        slot=ward.slot,
        id=ward.id,
        pid=ward.process.pid if ward.process is not None else None,
        generation=ward.generation,
        state=ward.state.value,
        state_s=now - ward.since,
        uptime_s=None if ward.served_since is None else now - ward.served_since,
        open=load.connections,
        unclaimed=load.recount(),
        handed=load.handed,
        closed=load.closed,
        busy=report.busy if report else None,
        requests=report.requests if report else None,
        lag_us=report.lag_us if report else None,
        rss=report.rss if report else None,
        cpu_us=report.cpu_us if report else None,
        taking=report is None or report.taking,
        suspended=load.suspended,
        leaving=ward.leaving,
        restarts=supervisor.aftermath.counts.get(ward.slot, 0),
        last_exit=supervisor.aftermath.last_exits.get(ward.slot, ""),
    )
