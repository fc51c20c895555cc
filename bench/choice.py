"""What choosing a worker costs, with 2 workers and with 128.

``python -m bench.choice [--choices N] [--repeats N]``

One choice is what the dispatcher asks of a policy for each connection: is anybody ready, who is it, it was handed
over.  Letterboxes are empty (the kernel's count is a function that says 0), and after some connections each worker
reports them closed, so that loads stay level, as they do in service.  Reports are not in the time; what they leave
behind in a policy's index is.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence

from attrs import asdict

from rrmaster.balance import POLICIES, Policy, Post, policy_named
from rrmaster.wire import Report

from .machine import Spread, describe, keep, table

SIZES = (2, 8, 32, 128)

EACH = 4
"""Connections a worker gets between two of its reports, about."""

INDEXED = ("least-loaded", "round-robin")
"""The policies that are to cost the same with any number of workers; the others look at everybody."""

BOUND = 1.5
"""By which 128 workers may cost more than 2."""

PEER = ("127.0.0.1", 40000)


def fleet(name: str, size: int) -> Policy:
    """A policy over so many serving workers."""
    policy = policy_named(name, random.Random(size))
    for number in range(size):
        policy.join(Post(number + 1, number, lambda: 0, serving=True), newcomer=False)
    return policy


def nanoseconds(policy: Policy, choices: int) -> float:
    """What one choice takes, on average over so many."""
    posts = [seat.post for seat in policy.members.values()]
    block, spent, made = EACH * len(posts), 0, 0
    while made < choices:
        start = time.perf_counter_ns()
        for _ in range(block):
            if policy.ready():
                policy.handed(policy.choose(PEER))
        spent += time.perf_counter_ns() - start
        made += block
        for post in posts:
            post.settle(Report(closed=post.handed))
            policy.offer(post)
    assert sum(post.handed for post in posts) == policy.total
    return spent / made


def measure(choices: int, repeats: int) -> dict[str, dict[int, Spread]]:
    """All policies at all sizes, in turns."""
    fleets = {(name, size): fleet(name, size) for name in POLICIES for size in SIZES}
    found: dict[tuple[str, int], list[float]] = {key: [] for key in fleets}
    for number in range(repeats):
        for (name, size), policy in fleets.items():
            # The policies that look at everybody would take the whole time.
            count = choices if name in INDEXED else choices // size
            found[name, size].append(nanoseconds(policy, count))
        print(f"repeat {number + 1} of {repeats}", file=sys.stderr, flush=True)
    return {name: {size: Spread.of(found[name, size]) for size in SIZES} for name in POLICIES}


def _row(name: str, spreads: dict[int, Spread]) -> list[str]:
    ratio = spreads[SIZES[-1]].median / spreads[SIZES[0]].median
    verdict = [f"<= {BOUND}", "met" if ratio <= BOUND else "MISSED"] if name in INDEXED else ["", ""]
    return [name, *(spreads[size].show(0) for size in SIZES), f"{ratio:.2f}", *verdict]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m bench.choice", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--choices", type=int, default=50_000, help="in one measurement (default: 50000)")
    parser.add_argument("--repeats", type=int, default=7, help="of each measurement (default: 7)")
    options = parser.parse_args(argv)
    try:
        found = measure(options.choices, options.repeats)
    except KeyboardInterrupt:
        return 130
    ratio = f"{SIZES[-1]}/{SIZES[0]}"
    heads = ["ns per choice, median (min..max)", *(f"{size} workers" for size in SIZES), ratio, "target", ""]
    print(table([heads, *(_row(name, spreads) for name, spreads in found.items())]))
    policies = {
        name: {
            "ns": {str(size): asdict(spread) for size, spread in spreads.items()},
            "ratio": round(spreads[SIZES[-1]].median / spreads[SIZES[0]].median, 3),
        }
        for name, spreads in found.items()
    }
    target = {"policies": INDEXED, "ratio_at_most": BOUND}
    path = keep("choice", {"machine": describe(), "target": target, "policies": policies})
    print(f"\nwritten: {os.path.relpath(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
