"""Does a connection cost the master the same with 256 workers, with 20,000 held connections, with any policy?

Workers are C (`worker.c` for rrmaster, those of `peer.c` for the master in C), so that 256 of them fit on a small
machine and only the masters are compared.  The load is that of `dispatch`: 32 clients at a time, a connection for each
request.  The figure is microseconds of the master's processor time for each connection.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from attrs import define, frozen

from .contenders import C, with_workers_in_c
from .dispatch import CONCURRENCY, WITHOUT_END, window
from .fleets import Fleet, all_running
from .machine import HOME
from .programs import Missing, compiled, said_of_clients
from .progress import step
from .rounds import Record, Target

QUESTION = (
    "Is the master's cost per connection the same for any number of workers, of held connections, and any policy?"
)

FLAT = 1.3
"""Factor by which one end of a curve may lie above the other."""

POLICIES = ("least-loaded", "round-robin", "random-two", "ip-hash")

HELD_BY = 4
"""Workers in the curves over held connections and over policies."""

EACH_HOLDER = 5_000
"""Connections from one address: it has 28,000 ports, and that of a connection that has ended is not free at once."""

SPARE = 50
"""Descriptors of a holder that are not connections."""

ENDS = "from end to end"

TARGETS = (
    Target(ENDS, "workers", FLAT, "itself"),
    Target(ENDS, "held", FLAT, "itself"),
    Target(ENDS, "policies", FLAT, "itself"),
)


@frozen
class Plan:
    rounds: int
    seconds: float
    workers: tuple[int, ...]
    held: tuple[int, ...]
    policies: tuple[str, ...]


FULL = Plan(3, 0.6, (1, 2, 4, 8, 16, 32, 64, 128, 256), (0, 1_000, 5_000, 20_000), POLICIES)
QUICK = Plan(1, 0.4, (1, 16), (0, 2_000), POLICIES[:2])


MASTERS = (with_workers_in_c(POLICIES[0]), C)


def measure(record: Record, quick: bool) -> None:
    """Measure the three curves."""
    plan = QUICK if quick else FULL
    record.plan = {"rounds": plan.rounds, "seconds": plan.seconds, "concurrency": CONCURRENCY}
    try:
        compiled("worker")
    except Missing as missing:
        record.note(f"the curves are not measured: {missing}, which their workers are made with")
        return
    record.notes += said_of_clients()
    curve = Curves(record, plan)
    curve.over_workers()
    curve.over_held()
    curve.over_policies()


@define(eq=False)
class Curves:
    """The measurements at each point of the curves."""

    record: Record
    plan: Plan

    def over_workers(self) -> None:
        for workers in self.plan.workers:
            with step(f"curves: {workers} workers") as done, all_running(MASTERS, workers) as servers:
                self._windows(servers, "workers", f"{workers}", done)
        self._end_to_end("workers", f"{self.plan.workers[0]}", f"{self.plan.workers[-1]}")

    def over_held(self) -> None:
        with ExitStack() as stack:
            servers = stack.enter_context(all_running(MASTERS, HELD_BY))
            held = 0
            for count in self.plan.held:
                with step(f"curves: {count} held connections") as done:
                    for server in servers:
                        stack.enter_context(holding(server.port, count - held))
                    held = count
                    self._windows(servers, "held", f"{count}", done)
            self._end_to_end("held", f"{self.plan.held[0]}", f"{self.plan.held[-1]}")

    def over_policies(self) -> None:
        masters = [with_workers_in_c(policy) for policy in self.plan.policies]
        with step("curves: policies") as done, all_running(masters, HELD_BY) as servers:
            for _ in range(self.plan.rounds):
                costs = []
                for policy, server in zip(self.plan.policies, servers, strict=True):
                    costs.append(window(server, self.plan.seconds, WITHOUT_END).master_us)
                    self.record.add("rrmaster", "policies", policy, costs[-1])
                self.record.add("rrmaster", ENDS, "policies", max(costs) / min(costs))
            done(", ".join(f"{policy} {cost:.1f} us" for policy, cost in zip(self.plan.policies, costs, strict=True)))

    def _windows(self, servers: Sequence[Fleet], group: str, column: str, done: Callable[[str], None]) -> None:
        for server in servers:
            window(server, self.plan.seconds / 2, WITHOUT_END)  # its first thousands of connections do not count
        for _ in range(self.plan.rounds):
            costs = [window(server, self.plan.seconds, WITHOUT_END).master_us for server in servers]
            for server, cost in zip(servers, costs, strict=True):
                self.record.add(server.name, group, column, cost)
        done(", ".join(f"{server.name} {cost:.1f} us" for server, cost in zip(servers, costs, strict=True)))

    def _end_to_end(self, group: str, first: str, last: str) -> None:
        for server in ("rrmaster", "c"):
            ends = [self.record.values(server, group, column) for column in (first, last)]
            for one, other in zip(*ends, strict=True):
                if one and other:
                    self.record.add(server, ENDS, group, other / one)


@contextmanager
def holding(port: int, count: int) -> Iterator[None]:
    """Hold `count` more connections, in other processes: the number of descriptors of one process is limited."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = min(most - SPARE, EACH_HOLDER)
    with ExitStack() as stack:
        for number in range(0, count, each):
            stack.enter_context(_holder(port, min(each, count - number)))
        yield


@contextmanager
def _holder(port: int, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.holder", str(port), str(count)]
    process = subprocess.Popen(
        command, cwd=HOME.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if said.strip() != str(count):
            raise RuntimeError(f"{said.strip() or 'no'} connections of {count} are held")
        yield
    finally:
        process.stdin.close()  # it ends when its stdin does
        process.stdout.close()
        process.wait()
