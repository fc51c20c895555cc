"""What is gained when `least-loaded` breaks ties by the requests in progress?

Each of four workers has a pool of four connections to a database, as most applications have (or `--threads` of WSGI),
and eight kept connections of clients, so all have the same number of connections.  Over those of two workers comes one
request after the other, each of which needs the database for 50 ms: their pools are always in use.  Other clients come
at a fixed rate, each with a connection of its own and one request that needs the database for 1 ms.  The policies
differ only in the worker that they choose for these connections; `by connections` is least-loaded without the
tie-break, written as a user's own policy.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from .contenders import with_policy
from .fleets import running
from .machine import quantile
from .progress import step
from .rounds import Record, Target

QUESTION = "What is gained when ties are broken by the requests in progress?"

WORKERS = 4
KEPT = 8
"""Client connections that each worker holds."""

POOL = 4
"""Connections to the database that a worker has."""

SLOW_S, QUICK_S = 0.05, 0.001
"""Seconds for which a slow and a quick request needs a connection to the database."""

RATE = 100
"""Quick requests a second."""

POLICIES = {
    "least-loaded": "least-loaded",
    "by connections": "bench.busy:by_connections",
    "round-robin": "round-robin",
}

GROUP = "beside slow requests"

TARGETS: tuple[Target, ...] = ()
"""None: all three policies are rrmaster's."""


@frozen
class Plan:
    rounds: int
    seconds: float
    policies: tuple[str, ...]


FULL = Plan(2, 3.0, ("least-loaded", "by connections", "round-robin"))
QUICK = Plan(1, 1.0, ("least-loaded", "by connections"))

_pool = asyncio.Semaphore(POOL)

_turns: dict[int, int] = {}


def by_connections(candidates: Sequence[Any], peer: Any) -> Any:
    """The candidate with the fewest open connections, then the one that was chosen longest ago."""
    chosen = min(candidates, key=lambda c: (c.load, _turns.get(c.id, 0)))
    _turns[chosen.id] = max(_turns.values(), default=0) + 1
    return chosen


async def app(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Uses the database, and answers with the worker's process id."""
    if scope["type"] != "http":
        return
    async with _pool:
        await asyncio.sleep(SLOW_S if scope["path"] == "/slow" else QUICK_S)
    body = b"%d" % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@frozen
class Seen:
    """One round of one policy."""

    times: list[float]
    """Seconds from connecting to the answer."""
    to_busy: float
    """Share of the quick requests that came to one of the two workers with the slow ones."""


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> int:
    writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return int(await reader.readexactly(int(length[1])))


async def _slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await _ask(reader, writer, "/slow")


async def _short(port: int, at: float) -> tuple[float, int]:
    """The time since the request was due, so that a client that is late itself hides nothing."""
    await asyncio.sleep(max(0.0, at - time.monotonic()))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    pid = await _ask(reader, writer, "/")
    took = time.monotonic() - at
    writer.close()
    return took, pid


async def _round(port: int, seconds: float) -> Seen:
    held = []
    for _ in range(WORKERS * KEPT):
        pair = await asyncio.open_connection("127.0.0.1", port)
        held.append((pair, await _ask(*pair, "/")))
    chosen = set(sorted({pid for _, pid in held})[: WORKERS // 2])
    slow = [asyncio.create_task(_slow(*pair)) for pair, pid in held if pid in chosen]
    try:
        await asyncio.sleep(0.5)
        begin = time.monotonic() + 0.1
        clients = (_short(port, begin + number / RATE) for number in range(int(RATE * seconds)))
        answers = await asyncio.wait_for(asyncio.gather(*clients), seconds + 30)
    finally:
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        for (_, writer), _ in held:
            writer.close()
    return Seen([took for took, _ in answers], sum(pid in chosen for _, pid in answers) / len(answers))


def measure(record: Record, quick: bool) -> None:
    """Measure the policies in turns, each time with a new server."""
    plan = QUICK if quick else FULL
    record.plan = {"workers": WORKERS, "kept": KEPT, "rate/s": RATE, "rounds": plan.rounds, "seconds": plan.seconds}
    for number in range(plan.rounds):
        for name in plan.policies:
            with step(f"busy, round {number + 1} of {plan.rounds}: {name}") as done:
                with running(with_policy(name, POLICIES[name], "bench.busy:app"), WORKERS) as server:
                    server.wait_until_it_serves()
                    seen = asyncio.run(_round(server.port, plan.seconds))
                for share in (50, 90, 99):
                    record.add(name, GROUP, f"p{share} ms", quantile(seen.times, share / 100) * 1e3)
                record.add(name, GROUP, "% to busy workers", 100 * seen.to_busy)
                done(f"{100 * seen.to_busy:.0f} % to busy workers")
