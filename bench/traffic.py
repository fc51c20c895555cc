"""Requests at a fixed rate or as fast as they are answered, and the outcome of each (by requests.c, or requests.py).

The rate is kept whatever the server does (an *open loop*), and a request's time counts from when it was *due*, so a
server does not look better by making the generator wait.  The generator records how late it was by its own fault for
each request, and a run in which it was late is discarded.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from attrs import field, frozen

from .machine import HOME, quantile
from .programs import client
from .several import pause

LOOK = 0.3
"""Seconds between two checks whether the run has been interrupted."""

LATE = 5e-3
"""Seconds by which a request that is sent later counts as late: two turns of a scheduler that has two cores for ten
processes.  Smaller delays are part of the latencies, equally for all servers."""

LATE_SHARE = 0.01
"""The greatest share of late requests in a run that counts: as many as the 99th percentile leaves out."""

OUTCOMES = {"a": "answered", "r": "refused", "x": "reset", "c": "cut", "h": "hung", "w": "wrong", "u": "unsent"}


@frozen
class Request:
    """A request and its outcome.  Times are in seconds."""

    due: float
    """When it was due, from the beginning."""
    lag: float
    """How late it was sent."""
    took: float
    """From when it was due to the last byte of its answer, or to its failure."""
    kept: bool
    """Whether it went over a kept connection."""
    blocking: bool
    outcome: str

    @property
    def answered(self) -> bool:
        return self.outcome == "answered"


@frozen
class Traffic:
    """The requests to send."""

    seconds: float
    rate: float = 0.0
    """Requests a second; 0: as fast as they are answered, `clients` at a time."""
    clients: int = 0
    """Connections that are opened before the beginning."""
    kept: float = 0.0
    """Share of the requests that go over a kept connection."""
    blocking: float = 0.0
    """Share of the requests that block their worker."""
    thinking: float = 0.0
    """Seconds between a new connection and its request."""
    seed: int = 1

    patience: float = 5.0
    """Seconds after which a request counts as hung."""

    def command(self, port: int) -> list[str]:
        load = (self.seconds, self.rate, self.clients, self.kept, self.blocking, self.thinking, self.patience)
        return [*client("requests"), *map(str, (port, *load, self.seed))]


@frozen
class Run:
    """The outcome of a run."""

    requests: Sequence[Request] = field(repr=False)

    @classmethod
    def read(cls, output: str) -> Run:
        found = []
        for line in output.splitlines():
            due, lag, took, kept, blocking, outcome = line.split()
            times = (int(due) / 1e6, int(lag) / 1e6, int(took) / 1e6)
            found.append(Request(*times, kept == "1", blocking == "1", OUTCOMES[outcome]))
        return cls(found)

    @property
    def lag(self) -> float:
        """The 99th percentile of the generator's own delay."""
        return quantile([request.lag for request in self.requests], 0.99)

    @property
    def late(self) -> bool:
        """Whether the run must be discarded."""
        return sum(request.lag > LATE for request in self.requests) > LATE_SHARE * len(self.requests)

    @property
    def failed(self) -> Counter[str]:
        """The number of failed requests, by the way in which they failed."""
        return Counter(request.outcome for request in self.requests if not request.answered)

    def times(self, which: Callable[[Request], bool] = lambda request: True) -> list[float]:
        """The latencies of the answered requests that `which` picks."""
        return [request.took for request in self.requests if request.answered and which(request)]


@contextmanager
def sent(traffic: Traffic, port: int) -> Iterator[Callable[[], Run]]:
    """Send the requests during the block, which is given a function that waits for the last of them."""
    command = traffic.command(port)
    process = subprocess.Popen(command, cwd=HOME.parent, stdout=subprocess.PIPE, text=True, process_group=0)

    def finish() -> Run:
        deadline = time.monotonic() + traffic.seconds + traffic.patience + 10
        while True:
            pause()
            try:
                output, _ = process.communicate(timeout=LOOK)
                break
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    raise RuntimeError("the generator does not end") from None
        if process.returncode:
            raise RuntimeError(f"the generator ended with status {process.returncode}")
        return Run.read(output)

    try:
        yield finish
    finally:
        process.kill()
        process.communicate()


def send(traffic: Traffic, port: int) -> Run:
    """Send all requests, and return the outcome."""
    with sent(traffic, port) as finish:
        return finish()


def seeds(first: int = 1) -> Iterator[int]:
    """A seed for each round: all servers of a round get the same requests, in the same order."""
    numbers = random.Random(first)
    while True:
        yield numbers.randrange(1, 2**31)
