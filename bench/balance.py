"""How evenly do servers spread connections that are held, and does it last?

All connections are held open at once, and each is known by the process id of the worker that answered on it.  The
figure is the connections of the fullest worker over the mean: 1.00 if all workers have the same number.

=========  =============================================================================
ramp       opened one after the other, one every 10 ms
burst      opened all at once
churn      after that a random connection is closed and a new one opened, again and again
added      as churn, beginning when one more worker serves
replaced   as churn, beginning when a worker was killed and all serve again; the connections that it had are first
           opened again
=========  =============================================================================

rrmaster runs with ``--park-after off``: where connections are parked, as is the default, one that has rested for a
second is in no worker's hands, and the next request on it chooses anew.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import socket
from collections import Counter
from collections.abc import Iterable
from functools import partial

from attrs import define, field, frozen

from .contenders import OVER_HTTP, STAYING, UVLOOP, rrmaster_over_http
from .fleets import Contender, Fleet, present, running
from .progress import step
from .rounds import Record, Target
from .several import Over, at_once, pause

QUESTION = "How evenly are held connections spread?"

WORKERS = 4

HELD = 64

PATIENCE = 5.0
"""Seconds for an answer, and for a worker to be replaced before it counts as not replaced."""

SETTLE = 0.1
"""Seconds between the closing of all connections and the next figure: enough for every server to see them close."""

REQUEST = b"GET /pid HTTP/1.1\r\nHost: localhost\r\n\r\n"

COLUMNS = ("ramp", "burst", "churn", "added", "replaced")

GROUP = "max / mean"

SERVERS = (
    Contender("rrmaster", lambda want: rrmaster_over_http(want, *STAYING), UVLOOP),
    *(peer for peer in OVER_HTTP if peer.name != "rrmaster"),
)

TARGETS = tuple(Target(GROUP, column, 1.02, "itself") for column in COLUMNS)


@frozen
class Pace:
    """The length of each part."""

    rounds: int
    every: float
    """Seconds between two connections."""
    steps: int
    """Of a churn.  The churn of a new worker has twice as many: longer than the 2 s in which rrmaster gives it no more
    than its fair share."""
    at_once: int = 8
    """Servers that are measured at the same time: this figure counts connections and times nothing."""


FULL = Pace(rounds=3, every=0.01, steps=2 * HELD)
QUICK = Pace(rounds=1, every=0.01, steps=2 * HELD)


@define(eq=False)
class Held:
    """The connections that are open now, each with the process id of its worker."""

    port: int
    lot: random.Random
    open: list[tuple[socket.socket, int]] = field(factory=list)

    def add(self) -> None:
        """Open one more connection.  Raises OSError."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        sock.sendall(REQUEST)
        self.open.append((sock, _worker_of(sock)))

    def add_at_once(self, count: int) -> None:
        """Open `count` more connections.  Raises OSError."""
        with selectors.DefaultSelector() as selector:
            for _ in range(count):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", self.port))
                selector.register(sock, selectors.EVENT_WRITE)
            while selector.get_map():
                ready = selector.select(PATIENCE)
                if not ready:
                    raise TimeoutError("no answer")
                for key, events in ready:
                    self._ask_or_hear(selector, key, events)

    def _ask_or_hear(self, selector: selectors.BaseSelector, key: selectors.SelectorKey, events: int) -> None:
        sock = key.fileobj
        assert isinstance(sock, socket.socket)
        if events & selectors.EVENT_WRITE:
            sock.sendall(REQUEST)
            selector.modify(sock, selectors.EVENT_READ)
            return
        selector.unregister(sock)
        sock.settimeout(PATIENCE)
        self.open.append((sock, _worker_of(sock)))

    def churn(self, pace: Pace, steps: int) -> None:
        """Close a random connection and open a new one, `steps` times.  Raises OSError."""
        for _ in range(steps):
            sock, _ = self.open.pop(self.lot.randrange(len(self.open)))
            sock.close()
            pause(pace.every)
            self.add()

    def lose(self, worker: int) -> int:
        """Close the connections of a worker that was killed, and return their number."""
        lost = [sock for sock, theirs in self.open if theirs == worker]
        self.open = [(sock, theirs) for sock, theirs in self.open if theirs != worker]
        for sock in lost:
            sock.close()
        return len(lost)

    def close(self) -> None:
        for sock, _ in self.open:
            sock.close()
        self.open.clear()

    def unevenness(self, workers: Iterable[int]) -> float:
        """Connections of the fullest worker / mean, over these workers and all others that still have connections."""
        counts = Counter(dict.fromkeys(workers, 0))
        counts.update(worker for _, worker in self.open)
        return max(counts.values()) * len(counts) / len(self.open)


def _worker_of(sock: socket.socket) -> int:
    """Read the answer: the process id of the worker."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            (length,) = (
                int(line.partition(b":")[2])
                for line in head.splitlines()
                if line.lower().startswith(b"content-length:")
            )
            if len(body) >= length:
                return int(body[:length])
        more = sock.recv(4096)
        if not more:
            raise ConnectionResetError("the connection was closed instead of answered")
        data += more


def measure(record: Record, quick: bool) -> None:
    """Measure all servers, round by round."""
    pace = QUICK if quick else FULL
    record.plan = {"workers": WORKERS, "held": HELD, "seconds between": pace.every, "churned": pace.steps}
    for number in range(pace.rounds):
        contenders = present(record.notes, SERVERS)
        tasks = [partial(_one, contender, pace, record, number) for contender in contenders]
        with at_once(pace.at_once, tasks) as results:
            for contender, result in zip(contenders, results, strict=True):
                with step(f"balance, round {number + 1} of {pace.rounds}: {contender.name}") as done:
                    shares = result.result()
                    done(", ".join(f"{column} {share:.2f}" for column, share in shares.items()))
                for column in COLUMNS:
                    record.add(contender.name, GROUP, column, shares.get(column))


def _one(contender: Contender, pace: Pace, record: Record, number: int) -> dict[str, float]:
    """The figures of one server, up to the first part that it cannot do."""
    shares: dict[str, float] = {}
    with running(contender, WORKERS) as fleet, contextlib.closing(Held(fleet.port, random.Random(number))) as held:
        workers = fleet.wait_for_workers()
        try:
            for _ in range(HELD):
                held.add()
                pause(pace.every)
            shares["ramp"] = held.unevenness(workers)
            held.close()
            pause(SETTLE)
            held.add_at_once(HELD)
            shares["burst"] = held.unevenness(workers)
            held.churn(pace, pace.steps)
            shares["churn"] = held.unevenness(workers)
            if contender.grow is None:
                record.note(f"{contender.name} cannot add a worker")
            else:
                fleet.signal(contender.grow)
                workers = fleet.wait_for_workers(WORKERS + 1)
                held.churn(pace, 2 * pace.steps)
                shares["added"] = held.unevenness(workers)
            _replaced(fleet, held, pace, workers, shares)
        except Over:
            raise
        except (OSError, RuntimeError) as error:
            missing = ", ".join(column for column in COLUMNS if column not in shares)
            record.note(f"{contender.name} has no figure for {missing}: {str(error).splitlines()[0]}")
    return shares


def _replaced(fleet: Fleet, held: Held, pace: Pace, workers: set[int], shares: dict[str, float]) -> None:
    victim = held.lot.choice(sorted(workers))
    os.kill(victim, signal.SIGKILL)
    now = fleet.wait_for_workers(len(workers), [victim], PATIENCE)
    held.add_at_once(held.lose(victim))
    held.churn(pace, 2 * pace.steps)
    shares["replaced"] = held.unevenness(now)
