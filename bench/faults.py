"""How many requests fail, and how long do they take, while workers are killed, stopped, reloaded and recycled?

Requests come at a fixed rate (an open loop), half of them each over a connection of its own, half over kept ones; the
application is trivial.  A request has *failed* if it was refused, reset, cut short or answered wrongly, and *hung* if
it had no answer after 3 s.  No request is tried again.  A real client would retry after some failures, and be slow.

=========  ===================================================================================
killed     a worker is killed (SIGKILL), and another 3 s later: 20 a minute
stopped    a worker is stopped (SIGSTOP), and continued 5 s later
reloaded   each server in its own way (SIGHUP), and again 5 s later
recycled   each worker is replaced after a number of requests that has one worker ending at any time
=========  ===================================================================================
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from functools import partial

from attrs import frozen

from .census import ask
from .contenders import OVER_HTTP
from .fleets import Contender, Fleet, present, running
from .programs import said_of_clients
from .progress import tell
from .rounds import Record, Target
from .several import Over, at_once, pause
from .traffic import Run, Traffic, sent

QUESTION = "What do clients notice of faults, reloads and recycling?"

WORKERS = 4

RATE = 300.0
"""Requests a second: a small part of what any of these servers can do, so that a failure is due to the fault."""

KEPT = 16
"""Connections: 9 requests a second over each, so that each worker's are always in use."""

PATIENCE = 3.0
"""Seconds until a request has hung: less than a worker is stopped for."""

BETWEEN_KILLS = 3.0

STOPPED = 5.0

BETWEEN_RELOADS = 5.0

MAX_REQUESTS = 150
"""Requests that a worker serves before it is recycled: it has served them after 2 s."""

LEAD = 0.5
"""Seconds of traffic before the first fault."""

SLACK = {"slowest ms": 10.0, "hung": KEPT / WORKERS}
"""The margin by which a peer may be better by chance.  The slowest of some thousand requests differs by milliseconds
from run to run without any fault; and the kept connections of a stopped worker hang with any server, where their share
is luck for servers that do not balance."""

FAULTS = ("killed", "stopped", "reloaded", "recycled")

COLUMNS = ("failed", "failed kept", "hung", "slowest ms")

FORGIVEN = {("stopped", "hung"), *((fault, "slowest ms") for fault in FAULTS)}

TARGETS = (
    *(Target(fault, "failed", 0.0, "itself") for fault in FAULTS[1:]),
    *(
        Target(
            fault, column, against="none better", slack=SLACK.get(column, 0.0) if (fault, column) in FORGIVEN else 0.0
        )
        for fault in FAULTS
        for column in COLUMNS
    ),
)


@frozen
class Plan:
    """The extent of a run: seconds of traffic, from the first fault on."""

    killed: float
    stopped: float
    pause: float
    """Seconds for which the worker is stopped."""
    reloaded: float
    recycled: float
    at_once: int
    """Servers that have faults at the same time: the counts are still right then, the slowest request less so."""


FULL = Plan(killed=6.5, stopped=6.0, pause=STOPPED, reloaded=7.5, recycled=4.5, at_once=1)
QUICK = Plan(killed=1.0, stopped=1.5, pause=1.0, reloaded=1.0, recycled=2.5, at_once=8)


def measure(record: Record, quick: bool) -> None:
    """Measure each server once: counts need no median."""
    plan = QUICK if quick else FULL
    record.plan = {
        "workers": WORKERS, "rate/s": RATE, "kept": KEPT, "hung after s": PATIENCE, "kills every s": BETWEEN_KILLS,
        "stopped s": plan.pause, "reloads every s": BETWEEN_RELOADS, "max requests": MAX_REQUESTS,
        "seconds": {fault: getattr(plan, fault) for fault in FAULTS},
    }  # fmt: skip
    record.notes += said_of_clients()
    tasks = [partial(_all, record, contender, plan) for contender in present(record.notes, OVER_HTTP)]
    with at_once(plan.at_once, tasks) as all_:
        for found in all_:
            found.result()


def _all(record: Record, contender: Contender, plan: Plan) -> None:
    """Measure one server with all faults."""
    with running(contender, WORKERS) as fleet:
        fleet.wait_for_workers()
        _trouble(record, fleet, "killed", plan.killed, lambda: _kill(fleet, plan.killed))
        _settle(record, fleet)
        _trouble(record, fleet, "stopped", plan.stopped, lambda: _stop(fleet, plan.pause))
        _settle(record, fleet)
        _trouble(record, fleet, "reloaded", plan.reloaded, lambda: _reload(fleet, plan.reloaded))
    _recycled(record, contender, plan)


def _recycled(record: Record, contender: Contender, plan: Plan) -> None:
    if not contender.recycles:
        record.note(f"{contender.name} cannot recycle by requests")
        return
    with running(contender, WORKERS, max_requests=MAX_REQUESTS) as fleet:
        fleet.wait_for_workers()
        _trouble(record, fleet, "recycled", plan.recycled, lambda: None)


def _settle(record: Record, fleet: Fleet) -> None:
    """Wait until all workers serve again.  If the server has ended, all requests fail, and that is its figure."""
    try:
        fleet.wait_for_workers(patience=PATIENCE)
    except Over:
        raise
    except (RuntimeError, TimeoutError) as error:
        record.note(f"after a fault: {str(error).splitlines()[0]}")


def _trouble(record: Record, fleet: Fleet, fault: str, seconds: float, cause: Callable[[], None]) -> None:
    """Send traffic, and cause the fault meanwhile."""
    if not fleet.alive:
        tell(f"faults: {fleet.name}, {fault}: it has ended")
        return
    traffic = Traffic(LEAD + seconds, RATE, KEPT, kept=0.5, patience=PATIENCE)
    with sent(traffic, fleet.port) as finish:
        pause(LEAD)
        cause()
        run = finish()
    found = _tell(record, fleet, fault, run)
    tell(f"faults: {fleet.name}, {fault}: " + ", ".join(f"{column} {value:g}" for column, value in found.items()))


def _tell(record: Record, fleet: Fleet, fault: str, run: Run) -> dict[str, float]:
    wrong = [request for request in run.requests if not request.answered and request.outcome != "hung"]
    found = {
        "failed": len(wrong),
        "failed kept": sum(request.kept for request in wrong),
        "hung": run.failed["hung"],
        "slowest ms": max(run.times(), default=float("nan")) * 1e3,
        "requests": len(run.requests),
    }
    for column, value in found.items():
        record.add(fleet.name, fault, column, value)
    if run.late:
        record.note(f"{fleet.name}, {fault}: the generator was late (p99 {run.lag * 1e3:.0f} ms)")
    return found


def _kill(fleet: Fleet, seconds: float) -> None:
    """Kill the worker that answers next, every 3 s."""
    for number in range(1 + int(seconds / BETWEEN_KILLS)):
        if number:
            pause(BETWEEN_KILLS)
        worker = _some_worker(fleet)
        if worker is not None:
            os.kill(worker, signal.SIGKILL)


def _stop(fleet: Fleet, seconds: float) -> None:
    worker = _some_worker(fleet)
    if worker is None:
        return
    os.kill(worker, signal.SIGSTOP)
    pause(seconds)
    with contextlib.suppress(ProcessLookupError):  # its master has killed it
        os.kill(worker, signal.SIGCONT)


def _some_worker(fleet: Fleet) -> int | None:
    answer = ask(fleet.port, "/pid")
    return None if answer is None else int(answer)


def _reload(fleet: Fleet, seconds: float) -> None:
    for number in range(1 + int(seconds / BETWEEN_RELOADS)):
        if number:
            pause(BETWEEN_RELOADS)
        if fleet.alive:
            fleet.signal(signal.SIGHUP)
