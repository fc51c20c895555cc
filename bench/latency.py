"""How long do requests take while 3 of 100 others block a worker for 100 ms?

Requests come at a fixed rate from independent clients (an open loop, see traffic), and a request's time counts from
when it was due.  The figures are those of requests that do not block.

**Capacity** is the same for all servers, so that all get the same requests: workers / mean service time, of which
nearly all is the blocking, 0.03 x 100 ms.  8 workers can do 2,667 requests a second if no request waits while a worker
is free.  *ideal* shows this: the same requests, simulated, served in order by the worker that is free first.  No server
that gives a request to a worker and leaves it there can do better.

**When does a server know what a connection brings?**  The result depends on it, so there are three cases:

========  =====================================================================================================
at once   one connection for each request, which comes with it.  A free worker takes both, and delays no other request
later     the request comes 2 ms after its connection, as behind a TLS handshake in one data centre: the worker is
          chosen before the request is known, and may be blocked by another request when this one comes
kept      64 connections are kept, and the one that is idle longest is used: the worker was chosen long ago
========  =====================================================================================================
"""

from __future__ import annotations

import heapq

from attrs import evolve, frozen

from .apps import BLOCK
from .contenders import OVER_HTTP
from .fleets import Fleet, all_running, present
from .machine import quantile
from .programs import said_of_clients
from .progress import step, tell
from .rounds import IDEAL, Record, Target
from .traffic import Run, Traffic, seeds, send

QUESTION = "How long do requests take while others block a worker?"

WORKERS = 8

BLOCKING = 0.03

CAPACITY = WORKERS / (BLOCKING * BLOCK / 1e6)
"""Requests a second."""

LOADS = (30, 60, 80)
"""Per cent of the capacity."""

KEPT = 64
"""Eight for each worker: more than are in use at once, at any of these rates."""

LANES = {
    "at once": Traffic(0),
    "later": Traffic(0, thinking=2e-3),
    "kept": Traffic(0, kept=1.0, clients=KEPT),
}

COLUMNS = {"p50 ms": 0.5, "p99 ms": 0.99, "p99.9 ms": 0.999}

HURT = "% over 50 ms"
HURT_AFTER = BLOCK / 2e6
"""Seconds, half a block: a request that waits longer came behind one that blocks.  Where that are about 1 %, the p99
jumps from run to run between almost nothing and a whole block; the share of such requests does not jump."""

OVERHEAD = 200e-6
"""Seconds of a request that does not block: about what uvicorn needs with a new connection."""


def group(lane: str, load: int) -> str:
    return f"{lane}, {load} %"


TARGETS = tuple(Target(group(lane, load), "p99 ms", bound) for lane in LANES for load, bound in ((30, 0.1), (60, 0.5)))


@frozen
class Plan:
    """The extent of a run."""

    rounds: int
    seconds: float
    windows: tuple[tuple[str, int], ...]
    tries: int
    """Runs until one counts: a run in which the generator was late does not."""


FULL = Plan(3, 1.5, tuple((lane, load) for lane in LANES for load in LOADS if (lane, load) != ("at once", 80)), 2)
QUICK = Plan(1, 0.5, (("at once", 30), ("later", 30), ("kept", 30)), 1)


def measure(record: Record, quick: bool) -> None:
    """Measure all servers: all run at once, and get requests in turns."""
    plan = QUICK if quick else FULL
    record.plan = {
        "workers": WORKERS, "blocking": BLOCKING, "blocked ms": BLOCK / 1e3, "capacity/s": round(CAPACITY),
        "seconds": plan.seconds, "rounds": plan.rounds, "kept": KEPT, "later ms": LANES["later"].thinking * 1e3,
    }  # fmt: skip
    record.notes += said_of_clients()
    tell(f"latency: {WORKERS} workers of each server start")
    with all_running(present(record.notes, OVER_HTTP), WORKERS) as fleets:
        for number, seed in zip(range(plan.rounds), seeds(), strict=False):
            for lane, load in plan.windows:
                traffic = evolve(LANES[lane], seconds=plan.seconds, rate=load / 100 * CAPACITY, seed=seed)
                traffic = evolve(traffic, blocking=BLOCKING)
                with step(f"latency, round {number + 1} of {plan.rounds}: {group(lane, load)}") as done:
                    runs = {
                        fleet.name: run for fleet in fleets if (run := _believed(fleet, traffic, record, plan.tries))
                    }
                    told = {fleet.name: _tell(record, fleet.name, lane, load, runs.get(fleet.name)) for fleet in fleets}
                    done("p99 " + ", ".join(f"{name} {ms:.1f}" for name, ms in told.items()) + " ms")
                if runs:
                    _tell(record, IDEAL, lane, load, ideal(next(iter(runs.values()))))


def _believed(fleet: Fleet, traffic: Traffic, record: Record, tries: int) -> Run | None:
    """A run in which the generator was in time; None if there was none."""
    for _ in range(tries):
        run = send(traffic, fleet.port)
        if not run.late:
            return run
    at = f"{fleet.name} at {100 * traffic.rate / CAPACITY:.0f} %"
    record.note(f"{at}: the generator was late (p99 {run.lag * 1e3:.0f} ms), {tries} runs are thrown away")
    return None


def _tell(record: Record, name: str, lane: str, load: int, run: Run | None) -> float:
    """Record a run; returns the p99 in milliseconds."""
    times = run.times(lambda request: not request.blocking) if run else []
    for column, share in COLUMNS.items():
        record.add(name, group(lane, load), column, quantile(times, share) * 1e3)
    record.add(
        name, group(lane, load), HURT, 100 * sum(took > HURT_AFTER for took in times) / len(times) if times else None
    )
    record.add(name, group(lane, load), "failed", run.failed.total() if run else None)
    record.add(name, group(lane, load), "lag p99 ms", run.lag * 1e3 if run else None)
    return quantile(times, 0.99) * 1e3


def ideal(run: Run) -> Run:
    """Simulate the same requests, in order, each served by the worker that is free first."""
    free = [0.0] * WORKERS
    served = []
    for request in sorted(run.requests, key=lambda request: request.due):
        begin = max(request.due, heapq.heappop(free))
        end = begin + (BLOCK / 1e6 if request.blocking else OVERHEAD)
        heapq.heappush(free, end)
        served.append(evolve(request, lag=0.0, took=end - request.due, outcome="answered"))
    return Run(served)
