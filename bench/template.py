"""What does the start of a worker cost, forked from a template or with an import, and does that cost stay the same?

The application is FastAPI with a model (`shop`), as in `footprint`, which has start and memory of all servers; the part
*pandas* has one whose import is heavy (`analyst`).

========  ==========================================================================================================
replaced  of two workers one is killed (SIGKILL), again and again: ms until a new process answers, where a client sends
          one request after the other over new connections.  Then USS, the memory that no other process shares
pandas    the same with the heavy import, and PSS a worker, its part of shared memory included: after 100 requests in
          all, and after 10,000.  *all PSS* is that of master, templates and workers together
start     s until all workers serve, by the server's own log
storm     four workers under four clients, ten SIGKILLs a second
forks     kills, each as soon as the last replacement serves: descriptors and memory (USS) of master and template after
          the first tenth of the kills, and at the end; and zombies: children that were not waited for
========  ==========================================================================================================
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from attrs import Factory, define, frozen

from .census import ask
from .contenders import ANALYST, FORKING, IMPORTING, SHOP
from .fleets import Fleet, descendants, present, running
from .machine import children, memory
from .progress import step
from .rounds import OURS, Record, Target, mean
from .several import pause

QUESTION = "What does the start of a worker cost, beside import and gunicorn's preload?"

PATIENCE = 60.0
"""Seconds until a wait is given up."""

PER_SECOND = 10
"""Kills in a second of the storm."""

CLIENTS = 4

SPACED = 0.04
"""Seconds between two of many kills: no faster than a master starts workers."""

REPLACED, START, STORM, FORKS = "replaced", "start", "storm", "forks"

PANDAS = {2: "pandas, 2 workers", 8: "pandas, 8 workers"}
"""The part with the heavy import, by the number of workers: the more there are, the more share what it has made."""

ENDS = "8 / 1 workers"

FIRST_PSS = "PSS MiB"

TARGETS = (
    Target(REPLACED, "ms", 60.0, "itself"),
    Target(REPLACED, "ms", None),
    Target(REPLACED, "USS MiB", 0.35, "uvicorn"),
    Target(PANDAS[2], "ms", 0.1, "uvicorn"),
    *(Target(group, FIRST_PSS, 0.3, "uvicorn") for group in PANDAS.values()),
    Target(PANDAS[2], "PSS 10,000 / 100 requests", 1.5, "itself"),
    *(Target(group, "all PSS MiB", None) for group in PANDAS.values()),
    Target(START, ENDS, 1.5, "itself"),
    Target(FORKS, "more descriptors", 0.0, "itself"),
    Target(FORKS, "zombies", 0.0, "itself"),
)


@frozen
class Plan:
    """The extent of a run."""

    kills: int
    """Kills for each server that forks."""
    importing: int
    """Kills for each server whose workers import the application, a second each time; 0: these are left out."""
    starts: int
    sizes: tuple[int, ...]
    storm: float
    """Seconds of the storm."""
    forks: int
    requests: tuple[int, int]
    """Requests of the heavy application, in all, after which its memory is measured; none: it is left out."""
    calm: float
    """Seconds after a start, for the work that follows it: a template's spare, a first collection of garbage."""


FULL = Plan(kills=20, importing=5, starts=2, sizes=(1, 8), storm=6.0, forks=300, requests=(100, 10_000), calm=2.0)
QUICK = Plan(kills=3, importing=0, starts=0, sizes=(), storm=1.0, forks=20, requests=(0, 0), calm=0.6)


def measure(record: Record, quick: bool) -> None:
    """Measure the four parts; the last two are of rrmaster alone."""
    plan = QUICK if quick else FULL
    record.plan = {"kills": plan.kills, "starts": plan.starts, "storm s": plan.storm, "forks": plan.forks}
    servers = present(record.notes, [*FORKING, *IMPORTING] if plan.importing else FORKING)
    ours = [contender for contender in servers if contender.name.startswith(OURS)]
    for contender in servers:
        with step(f"template: {contender.name}, killed and replaced") as done:
            with running(contender, 2, SHOP) as fleet:
                replaced(record, fleet, plan.kills if contender in FORKING else plan.importing, plan.calm)
            done(f"{mean([v or 0.0 for v in record.values(contender.name, REPLACED, 'ms')]):.0f} ms")
    for contender, size in itertools.product(servers, PANDAS if plan.requests[1] and find_spec("pandas") else ()):
        with step(f"template: {contender.name}, {PANDAS[size]}") as done, running(contender, size, ANALYST) as fleet:
            pss = heavy(record, fleet, plan, size)
            done(f"PSS {pss:.1f} MiB")
    for _ in range(plan.starts):
        for contender in ours:
            with step(f"template: {contender.name} starts") as done:
                took = {}
                for size in plan.sizes:
                    with running(contender, size, SHOP) as fleet:
                        fleet.wait_until_it_serves()
                        took[size] = time.monotonic() - fleet.started
                    record.add(contender.name, START, f"{size} workers s", took[size])
                record.add(contender.name, START, ENDS, took[8] / took[1])
                done(", ".join(f"{size} workers {seconds:.2f} s" for size, seconds in took.items()))
    if not ours:
        return
    with running(ours[0], 4, SHOP) as fleet:
        fleet.wait_for_workers()
        pause(plan.calm)
        storm(record, fleet, plan.storm)
        forks(record, fleet, plan.forks)


def replaced(record: Record, fleet: Fleet, kills: int, calm: float) -> None:
    """Kill a worker and wait for its replacement, again and again."""
    fleet.wait_until_it_serves()
    alive = fleet.wait_for_workers()
    pause(calm)
    for _ in range(kills):
        killed = time.monotonic()
        alive = kill_one(fleet, alive)
        record.add(fleet.name, REPLACED, "ms", (time.monotonic() - killed) * 1e3)
        pause(0.2)
    for _ in range(200):
        ask(fleet.port, "/pid")
    record.add(fleet.name, REPLACED, "USS MiB", mean([memory(pid)[0] for pid in alive]))


def heavy(record: Record, fleet: Fleet, plan: Plan, size: int) -> float:
    """Measure memory, and with two workers replacement, of the application with the heavy import; returns PSS."""
    fleet.wait_until_it_serves()
    alive = fleet.wait_for_workers()
    pause(plan.calm)
    few, many = plan.requests
    use(fleet.port, "/report?item={}", few)
    early = mean([memory(pid)[1] for pid in alive]) or 0.0
    record.add(fleet.name, PANDAS[size], FIRST_PSS, early)
    everything = sum(memory(pid)[1] for pid in (fleet.pid, *descendants(fleet.pid)))
    record.add(fleet.name, PANDAS[size], "all PSS MiB", everything)
    if size > 2:
        return early
    use(fleet.port, "/report?item={}", many - few)
    late = mean([memory(pid)[1] for pid in alive]) or 0.0
    record.add(fleet.name, PANDAS[size], "PSS 10,000 / 100 requests", late / early)
    for _ in range(plan.importing):
        killed = time.monotonic()
        alive = kill_one(fleet, alive)
        record.add(fleet.name, PANDAS[size], "ms", (time.monotonic() - killed) * 1e3)
        pause(0.2)
    return early


def use(port: int, path: str, count: int) -> None:
    """Send this number of requests, over four kept connections.  Raises OSError, RuntimeError."""

    def client(share: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for number in range(share):
            connection.request("GET", path.format(number))
            with connection.getresponse() as response:
                body = response.read()
            if response.status != 200:
                raise RuntimeError(f"{path} is answered with {response.status}: {body[:200]!r}")
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(client, [count // CLIENTS] * CLIENTS))


def kill_one(fleet: Fleet, alive: set[int]) -> set[int]:
    """Kill one of these workers, wait for a new one, and return the living ones.  Raises TimeoutError."""
    victim = min(alive)
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = ask(fleet.port, "/pid")
        if answer is not None and int(answer) not in alive:
            return {*alive, int(answer)} - {victim}
        pause()
    raise TimeoutError(f"{fleet.name}: no new worker has answered after {PATIENCE:g} s")


@define(eq=False)
class _Clients:
    """Four clients, each of which sends requests over one connection after the other."""

    port: int
    waits: list[float] = Factory(list)
    answers: list[float] = Factory(list)
    lost: int = 0
    _over: threading.Event = Factory(threading.Event)

    def ask(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            if ask(self.port, "/pid", 10.0) is None:
                self.lost += 1
                continue
            self.answers.append(time.monotonic())
            self.waits.append(self.answers[-1] - begun)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.ask) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


def storm(record: Record, fleet: Fleet, seconds: float) -> None:
    """Measure how long clients wait while workers are killed."""
    clients = _Clients(fleet.port)
    with step("template: storm") as done:
        with clients.asking():
            begun = time.monotonic()
            for number in range(int(seconds * PER_SECOND)):
                pause(max(begun + number / PER_SECOND - time.monotonic(), 0.0))
                victims = [pid for pid in children(fleet.pid) if _has(pid, b"--slot")]
                if victims:
                    with contextlib.suppress(ProcessLookupError):  # it has just died
                        os.kill(victims[number % len(victims)], signal.SIGKILL)
            pause(0.5)
        times = sorted(clients.answers)
        found = {
            "kills": int(seconds * PER_SECOND),
            "answered": len(clients.waits),
            "lost": clients.lost,
            "longest wait ms": max(clients.waits) * 1e3,
            "nobody answered ms": max(after - before for before, after in itertools.pairwise(times)) * 1e3,
        }
        for column, value in found.items():
            record.add(fleet.name, STORM, column, value)
        done(", ".join(f"{column} {value:.0f}" for column, value in found.items()))


def forks(record: Record, fleet: Fleet, total: int) -> None:
    """Measure whether descriptors, memory or zombies pile up."""
    with step(f"template: {total} forks") as done:
        alive = fleet.wait_for_workers()
        seen = []
        for number in range(total + 1):
            if number in (total // 10, total):
                seen.append(_look(fleet))
                for column, value in seen[-1].items():
                    record.add(fleet.name, f"after {number} forks", column, value)
            alive = kill_one(fleet, alive)
            pause(SPACED)
        early, late = seen
        more = {name: late[name] - early[name] for name in early}
        record.add(fleet.name, FORKS, "more descriptors", more["master fds"] + more["template fds"])
        record.add(fleet.name, FORKS, "more MiB", more["master USS MiB"] + more["template USS MiB"])
        record.add(fleet.name, FORKS, "zombies", late["zombies"])
        done(", ".join(f"{column} {value:.1f}" for column, value in late.items()))


def _look(fleet: Fleet) -> dict[str, float]:
    family = children(fleet.pid)
    template = next(pid for pid in family if _has(pid, b"--template"))
    return {
        "master fds": len(os.listdir(f"/proc/{fleet.pid}/fd")),
        "master USS MiB": memory(fleet.pid)[0],
        "template fds": len(os.listdir(f"/proc/{template}/fd")),
        "template USS MiB": memory(template)[0],
        "zombies": sum(map(_is_zombie, family)) + len(children(template)),
    }


def _has(pid: int, word: bytes) -> bool:
    """Whether the command line of a process has this word."""
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it has just ended


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return False  # it has been waited for
