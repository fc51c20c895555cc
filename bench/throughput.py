"""How many requests a second do servers answer over HTTP, at what processor time each?

A client sends its next request as soon as it has its answer (a closed loop): over a connection that it keeps, or over a
new one each time.  Clients and servers share the processors, so requests a second are those of the whole machine, and
the processor time of all processes of a server is the better figure to compare.
"""

from __future__ import annotations

from contextlib import suppress

from attrs import frozen

from .contenders import ON_TRIO, OVER_HTTP
from .fleets import Fleet, all_running, descendants, present
from .machine import cpu_ns, quantile
from .programs import said_of_clients
from .progress import step
from .rounds import Record, Target
from .traffic import Traffic, send

QUESTION = "How many requests a second over HTTP?"

WORKERS = 2
"""One for each core of the machine that the published figures are from."""

CLIENTS = 32

LANES = {"kept": 1.0, "one each": 0.0}

TARGETS = tuple(Target(lane, column, None) for lane in LANES for column in ("requests/s", "CPU us"))
"""Without a bound: only the ratios are shown."""


@frozen
class Plan:
    rounds: int
    seconds: float
    warm: float
    """Seconds of the same load before each window."""


FULL = Plan(5, 1.5, warm=0.2)
QUICK = Plan(1, 0.3, warm=0.1)


def measure(record: Record, quick: bool) -> None:
    """Measure all servers: all run at once, and get requests in turns."""
    plan = QUICK if quick else FULL
    record.plan = {"workers": WORKERS, "clients": CLIENTS, "seconds": plan.seconds, "rounds": plan.rounds}
    record.notes += said_of_clients()
    with all_running(present(record.notes, (*OVER_HTTP, ON_TRIO)), WORKERS) as fleets:
        for number in range(plan.rounds):
            for lane in LANES:
                with step(f"throughput, round {number + 1} of {plan.rounds}: {lane}") as done:
                    rates = {fleet.name: _window(record, fleet, lane, plan) for fleet in fleets}
                    done(", ".join(f"{name} {rate:.0f}/s" for name, rate in rates.items()))


def _window(record: Record, fleet: Fleet, lane: str, plan: Plan) -> float:
    send(Traffic(plan.warm, clients=CLIENTS, kept=LANES[lane]), fleet.port)
    before = _cpu(fleet)
    run = send(Traffic(plan.seconds, clients=CLIENTS, kept=LANES[lane]), fleet.port)
    spent = _cpu(fleet) - before
    times = run.times()
    rate = len(times) / max(request.due + request.took for request in run.requests)
    record.add(fleet.name, lane, "requests/s", rate)
    record.add(fleet.name, lane, "CPU us", spent / 1e3 / max(len(times), 1))
    record.add(fleet.name, lane, "p99 ms", quantile(times, 0.99) * 1e3)
    record.add(fleet.name, lane, "failed", run.failed.total())
    return rate


def _cpu(fleet: Fleet) -> int:
    """Nanoseconds of processor time of all processes of a server."""
    total = 0
    for pid in (fleet.pid, *descendants(fleet.pid)):
        with suppress(FileNotFoundError):  # it has just ended
            total += cpu_ns(pid)
    return total
