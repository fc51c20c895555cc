"""How long do requests over kept connections take, by who chooses the worker: for the connection, or for each request?

The requests are those of `latency`: 3 of 100 block their worker for 100 ms, and the figures are of the others.  Where
connections are given to workers, the worker was chosen long before; a proxy before single servers chooses for each
request, and pays with a copy of each byte.

================  ==========================================================================================
kept              64 connections are kept, and the one that is idle longest is used
behind a proxy    the same clients, and nginx before the server, which keeps 16 connections to it
later             a connection for each request, which comes 2 ms after it
closed loop       64 clients that keep their connections, two workers, and no request blocks
one at a time     2,000 requests a second over 64 kept connections, so each is idle for 32 ms between two
reloads           clients that ignore ``Connection: close``, while the server is reloaded again and again
added             a worker is added while 64 clients keep their connections: its part of the requests a second later
================  ==========================================================================================

Servers that are not installed are left out and named; so is wrk, another generator for the closed loop.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from attrs import evolve, frozen

from . import latency, proxies
from .contenders import ASGI, KEEP, OVER_HTTP, PORT, STAYING, UVLOOP, rrmaster_over_http
from .fleets import Contender, Fleet, Wanted, all_running, descendants, free_port, present, running
from .latency import BLOCKING, CAPACITY, LANES, group, ideal
from .machine import HOME, cpu_ns, quantile
from .programs import Missing, said_of_clients
from .progress import step, tell
from .rounds import IDEAL, OURS, Record, Target
from .traffic import Run, Traffic, seeds, send

QUESTION = "How long do requests over kept connections take?"

WORKERS = latency.WORKERS

BEHIND = "kept behind a proxy"

LOADS = (30, 60)

CLOSED, APART, RELOADS, ADDED = "closed loop", "one at a time", "reloads", "added worker"

CLOSED_WORKERS, CLIENTS = 2, 64

GROWING, ENOUGH = 10.0, 1000
"""Seconds of load around the start of one more worker, and the requests in which its part is read."""

WARM_S = 2.0
"""Seconds of the same traffic before each window over kept connections: rrmaster learns from holds, and forgets them
while it is not its turn."""

APART_RATE = 2000.0
"""Requests a second; those of 64 connections are 32 ms apart."""

BRIEF = ("--probation", "100ms", "--soak", "100ms")
"""Reloads of good code: it is not the watch over new workers that is measured."""


def _proxied(kind: str, want: Wanted) -> list[str]:
    proxies.find(kind)
    return [sys.executable, "-m", "bench.proxies", kind, str(want.port), str(want.workers), want.app or ASGI]


def _gunicorn_asgi(want: Wanted) -> list[str]:
    options = ["-w", str(want.workers), "-b", f"127.0.0.1:{want.port}", "--keep-alive", KEEP, "-k", "asgi"]
    options += ["--asgi-loop", "uvloop", "--http-parser", "fast", "--log-level", "warning", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", *options, want.app or ASGI]


STAYS = f"{OURS} stays"
"""rrmaster without parking: not a peer."""

SERVERS = (
    Contender(OURS, rrmaster_over_http, UVLOOP),
    Contender(STAYS, lambda want: rrmaster_over_http(want, *STAYING), UVLOOP),
    *(peer for peer in OVER_HTTP if peer.name in ("uvicorn", "granian", "node rr")),
    Contender("gunicorn asgi", _gunicorn_asgi, ("gunicorn", "gunicorn_h1c", "uvloop")),
    Contender("nginx least_conn", partial(_proxied, "nginx"), ("uvicorn", "uvloop"), says=PORT, grow=None),
    Contender("haproxy leastconn", partial(_proxied, "haproxy"), ("uvicorn", "uvloop"), says=PORT, grow=None),
)

TARGETS = (
    Target(group("kept", 30), "p99 ms", 1.5, "nginx least_conn"),
    Target(group("kept", 30), "p50 ms", 1.0, "nginx least_conn"),
    Target(group("kept", 30), "p99 ms", 0.02, "uvicorn"),
    Target(group("kept", 60), "p99 ms", 0.6, "nginx least_conn"),
    Target(group("kept", 60), "p99 ms", 0.4, "uvicorn"),
    Target(group("later", 60), "p99 ms", 0.6),
    Target(CLOSED, "requests/s", 0.97, "uvicorn", at_most=False),
    Target(CLOSED, "wrk requests/s", 0.97, "uvicorn", at_most=False),
    Target(APART, "CPU us", 2.0, "nginx least_conn"),
    Target(RELOADS, "failed", 0.0, "itself"),
    Target(ADDED, "share", 0.9, "itself", at_most=False),
)


@frozen
class Plan:
    """The extent of a run."""

    rounds: int
    seconds: float
    reloads: int


FULL, QUICK = Plan(3, 1.5, 20), Plan(1, 0.5, 2)


def measure(record: Record, quick: bool) -> None:
    """Measure all servers, in turns."""
    plan = QUICK if quick else FULL
    record.plan = {
        "workers": WORKERS, "blocking": BLOCKING, "kept": latency.KEPT, "kept by nginx": proxies.KEPT,
        "closed loop": {"workers": CLOSED_WORKERS, "clients": CLIENTS}, "one at a time/s": APART_RATE,
        "seconds": plan.seconds, "seconds before": WARM_S, "rounds": plan.rounds, "reloads": plan.reloads,
    }  # fmt: skip
    record.notes += said_of_clients()
    if shutil.which("wrk") is None:
        record.note("wrk is not here: the closed loop is measured by the bench alone")
    servers = startable(record)
    tell(f"each request: {WORKERS} workers of each server start")
    with all_running(servers, WORKERS) as fleets:
        _open_loops(record, fleets, plan)
    with all_running(servers, CLOSED_WORKERS) as fleets:
        _closed_loops(record, fleets, plan)
    for name, options in ((OURS, ()), (STAYS, STAYING)):
        _reloads(record, plan, name, options)
        _added(record, plan, name, options)


def startable(record: Record) -> list[Contender]:
    """The servers that are on this machine; each of the others gets a note."""
    found = []
    for contender in present(record.notes, SERVERS):
        try:
            contender.command(Wanted(0, 1))
        except Missing as missing:
            record.note(f"{contender.name} is not measured: {missing}")
        else:
            found.append(contender)
    return found


# --- an open loop


def _open_loops(record: Record, fleets: Sequence[Fleet], plan: Plan) -> None:
    for number, seed in zip(range(plan.rounds), seeds(), strict=False):
        for lane in ("kept", "later", BEHIND):
            for load in LOADS:
                with step(f"each request, round {number + 1} of {plan.rounds}: {group(lane, load)}") as done:
                    traffic = evolve(LANES["later" if lane == "later" else "kept"], seconds=plan.seconds)
                    traffic = evolve(traffic, rate=load / 100 * CAPACITY, seed=seed, blocking=BLOCKING)
                    runs = {fleet.name: _run(fleet, lane, traffic) for fleet in fleets}
                    done("p99 " + ", ".join(f"{n} {_tell(record, n, lane, load, run):.1f}" for n, run in runs.items()))
                    _tell(record, IDEAL, lane, load, ideal(next(iter(runs.values()))))
        with step(f"each request, round {number + 1} of {plan.rounds}: {APART}") as done:
            found = {fleet.name: _apart(record, fleet, plan) for fleet in fleets}
            done("CPU us " + ", ".join(f"{name} {us:.0f}" for name, us in found.items()))


def _run(fleet: Fleet, lane: str, traffic: Traffic) -> Run:
    if lane != BEHIND:
        return _warm(traffic, fleet.port) if lane == "kept" else send(traffic, fleet.port)
    with proxies.in_front_of(fleet.port, port := free_port()):
        return _warm(traffic, port)


def _warm(traffic: Traffic, port: int) -> Run:
    send(evolve(traffic, seconds=WARM_S, seed=traffic.seed + 1), port)
    return send(traffic, port)


def _tell(record: Record, name: str, lane: str, load: int, run: Run) -> float:
    times = run.times(lambda request: not request.blocking)
    for column, share in (("p50 ms", 0.5), ("p99 ms", 0.99)):
        record.add(name, group(lane, load), column, quantile(times, share) * 1e3)
    record.add(name, group(lane, load), "failed", run.failed.total())
    if run.late:
        record.note(f"{name}, {group(lane, load)}: the generator was late in a run")
    return quantile(times, 0.99) * 1e3


def _apart(record: Record, fleet: Fleet, plan: Plan) -> float:
    """The processor time of a request whose connection was idle before it, all processes."""
    before = _cpu(fleet)
    run = send(evolve(LANES["kept"], seconds=plan.seconds, rate=APART_RATE), fleet.port)
    cost = (_cpu(fleet) - before) / 1e3 / max(len(run.times()), 1)
    record.add(fleet.name, APART, "CPU us", cost)
    record.add(fleet.name, APART, "p50 ms", quantile(run.times(), 0.5) * 1e3)
    return cost


def _cpu(fleet: Fleet) -> int:
    total = 0
    for pid in (fleet.pid, *descendants(fleet.pid)):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            total += cpu_ns(pid)
    return total


# --- a closed loop


def _closed_loops(record: Record, fleets: Sequence[Fleet], plan: Plan) -> None:
    for number in range(plan.rounds):
        with step(f"each request, round {number + 1} of {plan.rounds}: {CLOSED}") as done:
            done(", ".join(f"{fleet.name} {_closed(record, fleet, plan):.0f}/s" for fleet in fleets))


def _closed(record: Record, fleet: Fleet, plan: Plan) -> float:
    run = send(Traffic(plan.seconds, clients=CLIENTS, kept=1.0), fleet.port)
    rate = len(run.times()) / max(request.due + request.took for request in run.requests)
    record.add(fleet.name, CLOSED, "requests/s", rate)
    if (program := shutil.which("wrk")) is not None:
        # Without --timeout it leaves requests of over 2 s out of all percentiles.
        options = ["-t1", f"-c{CLIENTS}", f"-d{max(round(plan.seconds), 1)}s", "--timeout", "10s"]
        said = subprocess.run(
            [program, *options, f"http://127.0.0.1:{fleet.port}/"], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"Requests/sec:\s+([\d.]+)", said)
        record.add(fleet.name, CLOSED, "wrk requests/s", float(found[1]) if found else None)
    return rate


# --- clients that ignore Connection: close


@contextlib.contextmanager
def _stubborn(port: int, seconds: float, path: str) -> Iterator[subprocess.Popen[str]]:
    words = map(str, (port, seconds, CLIENTS, path))
    with subprocess.Popen(
        [sys.executable, "-m", "bench.stubborn", *words], cwd=HOME.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _reloads(record: Record, plan: Plan, name: str, options: Sequence[str]) -> None:
    ours = Contender(name, lambda want: rrmaster_over_http(want, *BRIEF, *options), UVLOOP)
    with step(f"each request: {plan.reloads} reloads, {name}") as done, running(ours, CLOSED_WORKERS) as fleet:
        fleet.wait_for_workers()
        answered = failed = 0
        for _ in range(plan.reloads):
            with _stubborn(fleet.port, 2.0, "/") as clients:
                _verb(fleet, "reload")
                said = clients.communicate()[0].splitlines()
            answered, failed = answered + len(said) - 1, failed + int(said[-1].split()[1])
        record.add(name, RELOADS, "answered", answered)
        record.add(name, RELOADS, "failed", failed)
        done(f"{failed} of {answered + failed} fail")


def _verb(fleet: Fleet, *words: str) -> None:
    command = [sys.executable, "-m", "rrmaster", words[0], "--name", f"bench-{fleet.port}", *words[1:]]
    subprocess.run(command, cwd=HOME.parent, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _added(record: Record, plan: Plan, name: str, options: Sequence[str]) -> None:
    ours = Contender(name, lambda want: rrmaster_over_http(want, *BRIEF, *options), UVLOOP)
    for _ in range(plan.rounds):
        with step(f"each request: a worker is added, {name}") as done, running(ours, CLOSED_WORKERS) as fleet:
            before = {str(pid) for pid in fleet.wait_for_workers()}
            began = time.monotonic()
            with _stubborn(fleet.port, GROWING, "/pid") as clients:
                time.sleep(1.0)
                _verb(fleet, "scale", f"{CLOSED_WORKERS + 1}")
                fleet.wait_for_workers(1, {int(pid) for pid in before})
                serves = time.monotonic() - began
                lines = [line.split() for line in clients.communicate()[0].splitlines()[:-1]]
            # From a second after it served.
            told = Counter(pid not in before for us, pid in lines if int(us) / 1e6 > serves + 1.0)
            share = told[True] / told.total() * (CLOSED_WORKERS + 1) if told.total() >= ENOUGH else None
            record.add(name, ADDED, "share", share)
            done("too few requests after it" if share is None else f"{share:.2f} of its fair part")
