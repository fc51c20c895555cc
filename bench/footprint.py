"""How long does a fleet take to start, to replace and to reload, and what does a worker weigh?

The application is FastAPI with a model (`shop`), as an application of the usual weight; gthread, which speaks no ASGI,
and Node have the trivial one, so their figures do not compare.

=============  ====================================================================================================
first          from the start of the process to the first answer
all            from the start of the process to the first answer of the last worker
replaced       from SIGKILL of a worker to the answer of the new one, when as many answer as before
reloaded       from the order to reload (SIGHUP) until as many new workers answer as before, and no old one.
               rrmaster's default watches new workers for 2 s before it gives them traffic: *reloaded* includes that
USS            memory of a worker that no other process shares (unique set size): what one more worker costs
PSS            the same with its part of shared memory
master PSS     PSS of all processes that are not workers
=============  ====================================================================================================
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from statistics import median

from attrs import frozen

from .census import ask
from .contenders import OVER_HTTP, SHOP
from .fleets import Fleet, descendants, present, running
from .machine import memory
from .progress import step
from .rounds import Record, Target, mean

QUESTION = "How long do start, replacement and reload take, and what does a worker weigh?"

REPLACED_AT = 4
"""Workers of the fleet that has workers killed and is reloaded."""

WARM = 20
"""Requests for each worker before its memory is measured."""

TARGETS = tuple(
    Target(f"{REPLACED_AT} workers", column, None)
    for column in ("first ms", "all ms", "replaced ms", "reloaded ms", "USS MiB", "PSS MiB")
)
"""Without a bound: only the ratios are shown."""


@frozen
class Plan:
    rounds: int
    sizes: tuple[int, ...]
    patience: float
    """Seconds for a replacement or a reload: granian needs 14."""
    kills: int = 3
    """Workers killed, one after the other.  The median counts: a client of the killed worker waits longer."""
    reload: bool = True


FULL = Plan(1, (1, 2, 4, 8, 16), 20.0)
QUICK = Plan(1, (REPLACED_AT,), 5.0, kills=1, reload=False)


def measure(record: Record, quick: bool) -> None:
    plan = QUICK if quick else FULL
    if not plan.reload:
        record.note("reloads are not timed in a quick run: two servers need 5 and 14 s")
    record.plan = {"workers": plan.sizes, "rounds": plan.rounds, "application": "FastAPI; of gthread and node trivial"}
    for _ in range(plan.rounds):
        for size in plan.sizes:
            for contender in present(record.notes, OVER_HTTP):
                with step(f"footprint: {contender.name}, {size} workers") as done:
                    with running(contender, size, SHOP if contender.asgi else None) as fleet:
                        found = _life(record, fleet, size, plan)
                    done(", ".join(f"{column} {value:.0f}" for column, value in found.items()))
                for column, value in found.items():
                    record.add(contender.name, f"{size} workers", column, value)


def _life(record: Record, fleet: Fleet, size: int, plan: Plan) -> dict[str, float]:
    """Measure a server: start, memory, and in one size replacement and reload."""
    fleet.wait_for_answer()
    found = {"first ms": _since(fleet.started)}
    workers = fleet.wait_for_workers()
    found["all ms"] = _since(fleet.started)
    for _ in range(WARM * size):
        ask(fleet.port, "/")
    found |= _weights(fleet, workers)
    if size == REPLACED_AT:
        try:
            _hurt(fleet, workers, found, plan)
        except (RuntimeError, TimeoutError) as error:
            record.note(f"{fleet.name}: {str(error).splitlines()[0]}")
    return found


def _hurt(fleet: Fleet, workers: set[int], found: dict[str, float], plan: Plan) -> None:
    """Kill workers, and reload.  Raises RuntimeError, TimeoutError."""
    known, times = set(workers), []
    for _ in range(plan.kills):
        victim = min(workers)
        start = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        workers = fleet.wait_for_workers(without=known - workers | {victim}, patience=plan.patience)
        times.append(_since(start))
        known |= workers
    found["replaced ms"] = median(times)
    if not plan.reload:
        return
    start = time.monotonic()
    fleet.signal(signal.SIGHUP)
    fleet.wait_for_workers(without=known, patience=plan.patience)
    fleet.wait_until_gone(known, plan.patience)
    found["reloaded ms"] = _since(start)


def _since(start: float) -> float:
    return (time.monotonic() - start) * 1e3


def _weights(fleet: Fleet, workers: Iterable[int]) -> dict[str, float]:
    """Memory in MiB."""
    each = [memory(pid) for pid in workers]
    others = [memory(pid) for pid in (fleet.pid, *descendants(fleet.pid)) if pid not in set(workers)]
    uss, pss = ([weight[i] for weight in each] for i in (0, 1))
    return {"USS MiB": mean(uss) or 0.0, "PSS MiB": mean(pss) or 0.0, "master PSS MiB": sum(w[1] for w in others)}
