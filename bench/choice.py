"""Does choosing a worker cost the same with 2 workers and with 128?

One choice is what the dispatcher asks of a policy for each connection: is a worker ready, which one, and then the note
that the connection was handed over.  Letterboxes are empty (the kernel's count is a function that returns 0), and after
some connections each worker reports them closed, so that loads stay level, as they do in service.  The time does not
include the reports, but does include the work that they leave behind in a policy's index.
"""

from __future__ import annotations

import random
import time

from attrs import frozen

from rrmaster.config.names import POLICIES
from rrmaster.dispatch.load import Policy, WorkerLoad
from rrmaster.dispatch.policies import policy_named
from rrmaster.protocol.wire import Report

from .progress import step
from .rounds import OURS, Record, Target

QUESTION = "Does choosing a worker cost the same with 2 workers and with 128?"

SIZES = (2, 8, 32, 128)

EACH = 4
"""Connections that a worker gets between two of its reports, on average."""

INDEXED = ("least-loaded", "round-robin")
"""The policies that must cost the same with any number of workers; the others look at all workers."""

BOUND = 1.5
"""By which 128 workers may cost more than 2."""

GROUP = "ns per choice"

ENDS = "128 / 2 workers"

TARGETS = tuple(Target(ENDS, name, BOUND, "itself") for name in INDEXED)


@frozen
class Plan:
    rounds: int
    choices: int


FULL = Plan(3, 50_000)
QUICK = Plan(1, 10_000)

PEER = ("127.0.0.1", 40000)

WINDOW, LIMIT = 8, 10_000
"""The defaults of the options."""


def fleet(name: str, size: int) -> Policy:
    """A policy over `size` serving workers."""
    policy = policy_named(name, random.Random(size))
    for number in range(size):
        policy.join(WorkerLoad(number + 1, number, lambda: 0, WINDOW, LIMIT, serving=True), newcomer=False)
    return policy


def nanoseconds(policy: Policy, choices: int) -> float:
    """Nanoseconds of one choice, on average over many."""
    worker_loads = [member.load for member in policy.members.values()]
    block, spent, made = EACH * len(worker_loads), 0, 0
    while made < choices:
        start = time.perf_counter_ns()
        for _ in range(block):
            if policy.ready():
                policy.count_handoff(policy.choose(PEER))
        spent += time.perf_counter_ns() - start
        made += block
        for load in worker_loads:
            load.apply(Report(closed=load.handed))
            policy.update(load)
    assert sum(load.handed for load in worker_loads) == policy.total
    return spent / made


def measure(record: Record, quick: bool) -> None:
    """Measure all policies with all numbers of workers, in turns."""
    plan = QUICK if quick else FULL
    record.plan = {"choices": plan.choices, "rounds": plan.rounds}
    fleets = {(name, size): fleet(name, size) for name in POLICIES for size in SIZES}
    for number in range(plan.rounds):
        with step(f"choice, round {number + 1} of {plan.rounds}") as done:
            found = {}
            for (name, size), policy in fleets.items():
                # The policies that look at all workers would take most of the time.
                count = plan.choices if name in INDEXED else plan.choices // size
                found[name, size] = nanoseconds(policy, count)
                record.add(name, GROUP, f"{size} workers", found[name, size])
            for name in POLICIES:
                record.add(OURS, ENDS, name, found[name, SIZES[-1]] / found[name, SIZES[0]])
            done(", ".join(f"{name} {found[name, SIZES[0]]:.0f} ns" for name in POLICIES))
