"""What workers report: impossible counts and malformed messages are a breach, correct reports never are.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections import deque

import pytest
from attrs import Factory, define
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from rrmaster.dispatch.link import REPORTS_PER_S
from rrmaster.dispatch.load import Breach, WorkerLoad
from rrmaster.dispatch.policies import LeastLoaded
from rrmaster.protocol import line as line_module
from rrmaster.protocol import wire
from tests.dispatch.workers import Worker, fleet, hand, make_worker, waiting
from tests.fakes import a_house

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)

# --- malformed messages


def report(**counts: int) -> bytes:
    return wire.encode(wire.Report(**counts))  # type: ignore[arg-type]


HOSTILE = {
    "an empty message": b"",
    "one byte": b"x",
    "random bytes": random.Random(1).randbytes(300),
    "a report cut short": report(closed=0)[:20],
    "more than it was given": report(closed=1),
    "a count beyond all bounds": report(closed=2**64 - 1),
    "nudges that were not sent": report(closed=0, asides=7),
    "a message too long": b"\x03" * (wire.MAX_UP + 500),
    "an unknown version": wire.encode(wire.Ready(1, protocol=99)),
    "brackets without end": wire._frame(wire.FAILED, b"[" * 9000),
    "a reason that is no text": wire._frame(wire.FAILED, b'{"reason": 3}'),
}


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_malformed_message_is_a_breach_of_that_worker_alone(words: bytes) -> None:
    async with a_house(3) as house:
        hostile = house.players[1]
        hostile.letterbox.line.send(words)
        await house.read_reports()
        assert list(house.breaches) == [2]
        await house.calls(6)
        assert waiting(house) == [3, 0, 3]
        house.remove(hostile)
        await house.settle()


async def test_a_count_that_falls_is_a_breach() -> None:
    async with a_house(2) as house:
        await house.calls_one_by_one(4)
        liar = house.players[0]
        liar.answer()
        liar.report()
        await house.read_reports()
        assert house.breaches == {}
        liar.closed -= 1
        liar.report()
        liar.closed += 1
        await house.read_reports()
        assert list(house.breaches) == [1]
        house.remove(liar)
        await house.settle()


async def test_to_report_closed_what_was_never_taken_is_a_breach() -> None:
    async with a_house(2) as house:
        await house.calls(2)
        liar = house.players[0]
        liar.letterbox.send(wire.Report(closed=1))  # the connection still lies in the letterbox, and the kernel knows
        await house.read_reports()
        assert list(house.breaches) == [1]
        house.remove(liar)
        await house.settle()


async def test_a_closed_side_of_the_line_is_a_breach() -> None:
    async with a_house(2) as house:
        house.players[0].letterbox.line.shutdown(socket.SHUT_WR)
        await house.read_reports()
        assert list(house.breaches) == [1]
        house.remove(house.players[0])
        await house.calls(2)
        await house.settle()


async def test_a_message_of_a_later_version_is_no_breach() -> None:
    async with a_house(1) as house:
        house.players[0].letterbox.line.send(wire._frame(200, b"from a later version"))
        house.players[0].letterbox.line.send(wire._frame(wire.REPORT, bytes(60)))  # a longer report
        await house.calls(1)
        assert house.breaches == {}
        await house.settle()


async def test_a_flood_is_a_breach_and_delays_no_other_worker(mock_clock: MockClock) -> None:
    async with a_house(2) as house:
        loud = house.players[0]
        sent = 0
        while not house.breaches and sent < 20 * REPORTS_PER_S:
            while loud.letterbox.send(wire.Report(0)):
                sent += 1
            await house.read_reports()
        assert REPORTS_PER_S <= sent < 2 * REPORTS_PER_S
        await house.calls(3)
        assert waiting(house) == [0, 3]
        house.remove(loud)
        await house.settle()


async def test_five_hundred_reports_a_second_are_no_flood(mock_clock: MockClock) -> None:
    async with a_house(1) as house:
        for _ in range(500):
            for _ in range(10):
                house.players[0].report()
            mock_clock.jump(0.020)
            await house.read_reports()
        assert house.breaches == {}


async def test_nothing_is_read_from_a_worker_after_a_breach() -> None:
    async with a_house(2) as house:
        house.players[0].letterbox.line.send(b"")
        await house.read_reports()
        for _ in range(50):
            house.players[0].letterbox.line.send(b"")
        await house.read_reports()  # and nothing spins
        assert house.dispatcher.breaches == 1
        house.remove(house.players[0])


# --- counts that cannot be


def test_closed_cannot_go_down():
    policy = LeastLoaded()
    worker = fleet(policy, 1)[0]
    for _ in range(5):
        hand(policy, {0: worker})
        worker.take()
    worker.close(3)
    worker.load.apply(worker.report())
    with pytest.raises(Breach):
        worker.load.apply(wire.Report(closed=2))


@pytest.mark.parametrize("closed", [3, 4, 6, 2**63])
def test_to_report_more_closed_than_taken_is_a_breach(closed):
    """The kernel knows what it has taken."""
    policy = LeastLoaded()
    worker = fleet(policy, 1)[0]
    for _ in range(5):
        hand(policy, {0: worker})
    worker.take()
    worker.take()
    with pytest.raises(Breach):
        worker.load.apply(wire.Report(closed=closed))


@pytest.mark.parametrize("nudges", [0, 3, 65535])
def test_to_report_nudges_that_were_not_sent_or_fewer_than_before_is_a_breach(nudges):
    worker = make_worker(0)
    worker.letterbox.extend(["nudge", "nudge"])
    worker.load.asides_sent = 2
    worker.take()
    worker.load.apply(worker.report())
    with pytest.raises(Breach):
        worker.load.apply(wire.Report(closed=0, asides=nudges))


def test_a_report_that_was_refused_changes_no_count():
    worker = make_worker(0)
    with pytest.raises(Breach):
        worker.load.apply(wire.Report(closed=9, busy=9, taking=False))
    assert (worker.load.closed, worker.load.busy, worker.load.suspended) == (0, 0, False)


HONEST = st.lists(
    st.tuples(
        st.sampled_from(
            ["hand"] * 4 + ["take"] * 5 + ["close"] * 3 + ["say"] * 3 + ["hear"] * 3 + ["nudge", "recall", "deliver"]
        ),
        st.integers(1, 5),
    ),
    max_size=200,
)


@define(eq=False)
class Exchange:
    """A worker and a master that reads its reports late and recalls in a thread."""

    worker: Worker
    reads_nudges: bool
    """A recall that finds a nudge before the first handoff reads it too, and the worker never reports that nudge."""
    reports: deque[wire.Report] = Factory(deque)
    read_back: int = 0

    @property
    def load(self) -> WorkerLoad:
        return self.worker.load

    def hand(self, number: int) -> None:
        if self.load.has_room():
            self.worker.letterbox.append("handoff")
            self.load.handed += 1
            self.load.unclaimed += 1

    def nudge(self, number: int) -> None:
        if not self.load.asides_unread:
            self.worker.letterbox.append("nudge")
            self.load.asides_sent += 1

    def recall(self, number: int) -> None:
        """In its thread ..."""
        letterbox = self.worker.letterbox
        while self.reads_nudges and letterbox and letterbox[0] == "nudge":
            letterbox.popleft()
        if letterbox and letterbox[0] == "handoff":
            letterbox.popleft()
            self.read_back += 1

    def deliver(self, number: int) -> None:
        """... and later in the loop."""
        if self.read_back:
            self.read_back -= 1
            self.load.handed -= 1
            self.load.recount()

    def take(self, number: int) -> None:
        for _ in range(number):
            self.worker.take()

    def close(self, number: int) -> None:
        self.worker.close(number)

    def say(self, number: int) -> None:
        self.reports.append(self.worker.report(busy=number))

    def hear(self, number: int) -> None:
        if self.reports:
            self.load.apply(self.reports.popleft())


@settings(LAW, max_examples=250)
@given(HONEST, st.sampled_from([0, 3, 65_530]), st.booleans())
def test_an_honest_worker_is_never_accused(steps, nudges, reads_nudges):
    """Whatever the order of handoffs, nudges, takes, reports that wait to be read, and recalls in their thread."""
    exchange = Exchange(make_worker(0), reads_nudges)
    worker, load = exchange.worker, exchange.load
    load.asides_sent = load.asides_read = worker.asides = nudges
    for what, number in steps:
        getattr(exchange, what)(number)
    while exchange.read_back:
        exchange.deliver(0)
    exchange.say(0)
    while exchange.reports:
        exchange.hear(0)
    assert load.connections == worker.taken - worker.closed + worker.letterbox.count("handoff")
    if not reads_nudges:
        assert load.recount() == worker.letterbox.count("handoff")


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EIO, errno.ENOTTY, errno.EINTR])
async def test_a_count_that_the_kernel_does_not_tell_accuses_no_worker(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted before is too much, once the worker has taken more."""
    async with a_house(1) as house:
        (player,) = house.players
        await house.calls(4)
        assert player.load.recount() == 4
        player.take()

        def fail(fd: int, into: object) -> int:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(line_module, "_queued", fail)
            player.letterbox.send(wire.Report(closed=4))
            await house.read_reports()
            assert house.breaches == {}
            assert player.load.connections == 0
            player.letterbox.send(wire.Report(closed=5))  # more than it was ever given
            await house.read_reports()
            assert list(house.breaches) == [player.load.id]


@pytest.mark.parametrize("code", [errno.EBADF, errno.EFAULT, errno.ENOTSOCK])
async def test_a_count_that_says_that_the_books_are_wrong_is_told(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_house(1) as house:

        def fail(fd: int, into: object) -> int:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(line_module, "_queued", fail)
            with pytest.raises(OSError, match=os.strerror(code)):
                house.players[0].load.recount()
