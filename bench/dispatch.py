"""What does a connection cost the master, beside Node's cluster and a master in C?

``python -m bench.dispatch [--seconds S] [--rounds N] [--workers 4] [--concurrency 32]``

The servers take turns under the same load, A B C A B C: other load, clock and heat of the machine affect all of them,
and each round gives a ratio of two figures taken under the same conditions.  In its turn a server is started anew and
has two windows: its *first* 4,000 connections, and, after some load that is not measured, *warm*.  For Node the two
differ much: its primary costs more than twice as much per connection until its compiler has seen some thousands.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from . import programs
from .conduct import conduct
from .contenders import by_connections
from .fleets import Contender, Fleet, running
from .handlers import ANSWER
from .machine import HOME, children, cpu_ns
from .programs import Missing, client, said_of_clients
from .progress import step
from .rounds import Record, Target

QUESTION = "What does passing a connection on cost the master?"

FIRST = 4_000
"""Connections in the first window."""

CONCURRENCY = 32
"""Clients at a time."""

LONG_ENOUGH = 30.0
"""Seconds for the first window: one is usual, on a busy machine two or three."""

WITHOUT_END = 2**31 - 1


@frozen
class Window:
    """One window of one server."""

    done: int
    failed: int
    seconds: float
    p50_us: float
    p99_us: float
    master_us: float
    """Microseconds of the master's processor time per connection."""
    workers_us: float
    """Microseconds of all workers' processor time per connection."""

    @property
    def rate(self) -> float:
        """Connections per second."""
        return self.done / self.seconds


WARM_RATE, WARM_COST = (WARM := "warm", "conn/s"), (WARM, "master us/conn")

TARGETS = (
    Target(*WARM_COST, 1.30, "c"),
    Target(*WARM_COST, 0.33, "node"),
    Target(*WARM_RATE, 1.5, "node", at_most=False),
    Target(FIRST_GROUP := f"the first {FIRST:,}", "master us/conn", 0.33, "node"),
    Target(FIRST_GROUP, "conn/s", 1.5, "node", at_most=False),
)

FIGURES: tuple[tuple[str, Callable[[Window], float]], ...] = (
    ("master us/conn", lambda window: window.master_us),
    ("workers us/conn", lambda window: window.workers_us),
    ("conn/s", lambda window: window.rate),
    ("p50 ms", lambda window: window.p50_us / 1e3),
    ("p99 ms", lambda window: window.p99_us / 1e3),
    ("connections", lambda window: window.done),
    ("failed", lambda window: window.failed),
)


@frozen
class Plan:
    """The extent of a run."""

    seconds: float = 3.0
    """Length of the warm window, and of the load before it."""
    rounds: int = 5
    workers: int = 4
    concurrency: int = CONCURRENCY
    beside: tuple[Path, ...] = ()
    without: tuple[str, ...] = ()


FULL = Plan(seconds=2.0)
QUICK = Plan(seconds=0.5, rounds=1)


def load(server: Fleet, seconds: float, concurrency: int, most: int) -> dict[str, float]:
    """Run the clients against a server, for `seconds` or `count` connections."""
    argv = [*client("load"), str(server.port), str(seconds), str(concurrency), str(len(ANSWER)), str(most)]
    done = subprocess.run(argv, cwd=HOME.parent, stdout=subprocess.PIPE, check=True, timeout=seconds + 30)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def window(server: Fleet, seconds: float, most: int, concurrency: int = CONCURRENCY) -> Window:
    """One window: read the clocks, load, read the clocks."""
    workers = children(server.pid)
    before, workers_before = cpu_ns(server.pid), sum(map(cpu_ns, workers))
    said = load(server, seconds, concurrency, most)
    master, others = cpu_ns(server.pid) - before, sum(map(cpu_ns, workers)) - workers_before
    done, failed = int(said["done"]), int(said["failed"])
    each = 1e3 * max(done + failed, 1)
    return Window(done, failed, said["seconds"], said["p50_us"], said["p99_us"], master / each, others / each)


def measure(record: Record, quick: bool) -> None:
    """Measure as `python -m bench` does."""
    run(record, QUICK if quick else FULL)


def run(record: Record, plan: Plan) -> None:
    """Measure all servers, round by round: first connections, and warm."""
    record.plan = {name: getattr(plan, name) for name in ("seconds", "rounds", "workers", "concurrency")}
    record.notes += said_of_clients()
    present = [contender for contender in by_connections(plan.beside) if contender.name not in plan.without]
    for number in range(plan.rounds):
        for contender in list(present):
            try:
                with step(f"dispatch, round {number + 1} of {plan.rounds}: {contender.name}") as done:
                    done("; ".join(map(_line, _turn(record, plan, contender))))
            except Missing as missing:
                record.note(f"{contender.name} is not measured: {missing}")
                present.remove(contender)


def _turn(record: Record, plan: Plan, contender: Contender) -> Iterator[Window]:
    """Start a server and measure it: first connections, and warm."""
    with running(contender, plan.workers) as server:
        server.wait_until_it_serves()
        for group, seconds, most in ((FIRST_GROUP, LONG_ENOUGH, FIRST), (WARM, plan.seconds, WITHOUT_END)):
            found = window(server, seconds, most, plan.concurrency)
            for column, figure in FIGURES:
                record.add(server.name, group, column, figure(found))
            yield found
            if group == FIRST_GROUP:
                load(server, plan.seconds, plan.concurrency, WITHOUT_END)


def _line(window: Window) -> str:
    return (
        f"{window.master_us:.1f} us master, {window.rate:.0f}/s, p99 {window.p99_us / 1e3:.1f} ms, "
        f"{window.failed} failed"
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.dispatch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="length of the warm window, and of what goes before (default: 3)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="windows of each server (default: 5)")
    parser.add_argument("--workers", type=int, default=4, help="of each server (default: 4)")
    parser.add_argument("--concurrency", type=int, default=32, help="connections at a time (default: 32)")
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="DIR",
                        help="measure the rrmaster of this checkout, too")  # fmt: skip
    parser.add_argument("--without", action="append", default=[], metavar="NAME",
                        help="leave one out: node, c, rrmaster")  # fmt: skip
    parser.add_argument("--python-clients", action="store_true", help="clients as slow as where there is no compiler")
    parser.add_argument("--no-json", action="store_true", help="write no bench/results/dispatch.json")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure this figure alone, with options that `python -m bench dispatch` does not have."""
    options = _options(argv)
    given = vars(options) | {name: tuple(getattr(options, name)) for name in ("beside", "without")}
    keep_it = not given.pop("no_json")
    programs.python_clients = given.pop("python_clients")
    record = Record("dispatch")
    return conduct([(record, TARGETS, lambda: run(record, Plan(**given)))], keep_it)


if __name__ == "__main__":
    sys.exit(main())
