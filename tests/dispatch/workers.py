"""Stand-ins for the tests of dispatch: workers made of numbers, and lines and workers in a certain state."""

from __future__ import annotations

import errno
from collections import deque

from attrs import Factory, define

from rrmaster.dispatch.load import Policy, WorkerLoad
from rrmaster.protocol import wire
from rrmaster.protocol.line import Line
from rrmaster.protocol.uplink import decode_up
from tests.fakes import House, Player


@define(eq=False)
class Worker:
    """A worker and its letterbox, both simulated; `load` is what the master knows of it."""

    load: WorkerLoad = None  # type: ignore[assignment]
    letterbox: deque[str] = Factory(deque)
    taken: int = 0
    closed: int = 0
    asides: int = 0

    def take(self) -> None:
        """Take one message, if there is one."""
        if self.letterbox:
            nudge = self.letterbox.popleft() == "nudge"
            self.asides += nudge
            self.taken += not nudge

    def close(self, count: int) -> None:
        self.closed += min(count, self.taken - self.closed)

    def report(self, busy: int = 0, taking: bool = True, orphaned: int = 0, full: bool = False) -> wire.Report:
        """A report as it arrives: encoded and decoded."""
        said = wire.Report(self.closed, busy, taking, asides=self.asides, orphaned=orphaned, full=full)
        message = decode_up(wire.encode(said))
        assert isinstance(message, wire.Report)
        return message

    @property
    def has_room(self) -> bool:
        """Whether it really has room; the master's counts are not touched."""
        load, handoffs = self.load, self.letterbox.count("handoff")
        return load.serving and not load.suspended and load.in_hand < load.limit and handoffs < load.window


def make_worker(id_: int, window: int = 8, limit: int = 10_000, slot: int | None = None) -> Worker:
    worker = Worker()
    slot = id_ if slot is None else slot
    worker.load = WorkerLoad(id_, slot, lambda: len(worker.letterbox), window, limit, serving=True)
    return worker


PEER = ("192.0.2.1", 40_000)


def fleet(policy: Policy, size: int, window: int = 250, limit: int = 10_000) -> dict[int, Worker]:
    workers = {n: make_worker(n, window, limit) for n in range(size)}
    for worker in workers.values():
        policy.join(worker.load, newcomer=False)
    return workers


def hand(policy: Policy, workers: dict[int, Worker], peer: object = PEER) -> Worker | None:
    """Hand one connection over, as the dispatcher does; None if no worker has room."""
    if not policy.ready():
        return None
    worker = workers[policy.choose(peer).id]
    worker.letterbox.append("handoff")
    policy.count_handoff(worker.load)
    return worker


# --- among real clients

LATE = 0.005
"""Seconds, the default of --recall-after."""


def waiting(house: House) -> list[int]:
    return [player.waiting for player in house.players]


async def hand_to_first(house: House, count: int = 1) -> Player:
    """Put `count` connections into the first worker's letterbox; all other workers are idle."""
    first = house.players[0]
    for other in house.players[1:]:
        other.report(taking=False)
    await house.calls(count)
    assert first.waiting == count
    for other in house.players[1:]:
        other.report(taking=True)
    await house.read_reports()
    return first


@define(eq=False)
class Crowded(Line):
    """A line whose buffer is full, whatever the count says, and that does not say when it has room again."""

    full: bool = True

    def hand_over(self, handoff: bytes, fd: int) -> None:
        if self.full:
            raise BlockingIOError(errno.EAGAIN, "full")
        super().hand_over(handoff, fd)
