"""Rows of the table of errors: an error in the place of a call costs what `rules.kernel_errors` says, and no more.

`python -m tests.ordeal.errnos` does the same to a running master, with each call and each error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.faults import unwrapped
from rrmaster.protocol.line import Line
from rrmaster.rules.kernel_errors import LAWS, Cost, name_of
from tests.fakes import House, a_house

FAILURES = 3
"""Calls in a row that fail."""

CLIENTS = 12


@define(eq=False)
class Failing:
    """In the place of a call: it fails with this error a few times, and then does what it should."""

    real: Callable[..., Any]
    number: int
    has_effect: bool = False
    """As a close that fails has: the descriptor is closed all the same."""
    failed: int = 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.failed >= FAILURES:
            return self.real(*arguments, **named)
        self.failed += 1
        if self.has_effect:
            self.real(*arguments, **named)
        raise OSError(self.number, os.strerror(self.number))


@define(eq=False)
class Epoll:
    """An epoll whose changes fail."""

    real: Any
    modify: Failing
    register: Failing
    unregister: Failing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def accept(house: House, patch: pytest.MonkeyPatch, number: int) -> list[Failing]:
    (acceptor,) = house.dispatcher.acceptors
    acceptor.accept = Failing(acceptor.accept, number)
    return [acceptor.accept]


def sendmsg(house: House, patch: pytest.MonkeyPatch, number: int) -> list[Failing]:
    failing = Failing(Line.hand_over, number)
    patch.setattr(Line, "hand_over", lambda line, handoff, fd: failing(line, handoff, fd))
    return [failing]


def recv(house: House, patch: pytest.MonkeyPatch, number: int) -> list[Failing]:
    failing = Failing(Line.receive, number)
    patch.setattr(Line, "receive", lambda line: failing(line))
    return [failing]


def ioctl(house: House, patch: pytest.MonkeyPatch, number: int) -> list[Failing]:
    import fcntl

    failing = Failing(fcntl.ioctl, number)
    patch.setattr("rrmaster.protocol.line.ioctl", failing)
    return [failing]


def epoll_ctl(house: House, patch: pytest.MonkeyPatch, number: int) -> list[Failing]:
    found = []
    for owner, name in ((house.dispatcher, "_epoll"), (house.dispatcher._reader, "epoll")):
        real = getattr(owner, name)
        failing = [Failing(getattr(real, method), number) for method in ("modify", "register", "unregister")]
        patch.setattr(owner, name, Epoll(real, *failing))
        found += failing
    return found


def close(house: House, patch: pytest.MonkeyPatch, number: int) -> list[Failing]:
    failing = Failing(os.close, number, has_effect=True)
    patch.setattr(os, "close", failing)
    return [failing]


def sched_yield(house: House, patch: pytest.MonkeyPatch, number: int) -> list[Failing]:
    failing = Failing(os.sched_yield, number)
    patch.setattr(os, "sched_yield", failing)
    return [failing]


SEAMS = dict(zip(LAWS, (accept, sendmsg, recv, ioctl, epoll_ctl, close, sched_yield), strict=True))

ROWS = {
    accept: "EMFILE ENOBUFS ECONNRESET EACCES ENOSR EIO EINVAL EBADF",
    sendmsg: "EAGAIN ETOOMANYREFS ENOMEM EPERM ECONNRESET EINVAL EBADF",
    recv: "EIO ENOMEM ECONNRESET EBADF",
    ioctl: "EIO ENOTTY EINVAL EFAULT",
    epoll_ctl: "ENOMEM ENOSPC EINVAL EBADF",
    close: "EINTR EIO ENOSPC EBADF",
    sched_yield: "EPERM ENOSYS EBADF",
}


async def work(house: House, clock: MockClock) -> None:
    """Serve clients, in the end more than the letterboxes hold, and let the pauses pass."""
    for clients in (CLIENTS, CLIENTS, 2 * CLIENTS):
        await house.calls(clients)
        for player in house.players:
            if not player.link.breached:
                player.take()
                player.answer()
                player.report()
    for _ in range(30):
        clock.jump(0.11)
        await wait_all_tasks_blocked()


@pytest.mark.parametrize(
    ("call", "number"),
    [(call, getattr(errno, name)) for call, seam in SEAMS.items() for name in ROWS[seam].split()],
    ids=lambda value: name_of(value) if isinstance(value, int) else value.split()[0],
)
async def test_an_error_costs_what_the_table_says(
    call: str, number: int, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = LAWS[call].cost(number)
    failing: list[Failing] = []
    ended = None
    try:
        async with a_house(5, window=4) as house:
            with monkeypatch.context() as patch:
                failing = SEAMS[call](house, patch, number)
                await work(house, mock_clock)
            assert len(house.breaches) == (FAILURES if cost is Cost.WORKER else 0)
            for player in house.players:
                if player.link.breached:
                    house.remove(player)
            await house.settle()
    except* OSError as group:
        ended = unwrapped(group)
    assert sum(each.failed for each in failing) > 0, "no call has failed"
    assert (ended is not None) is (cost is Cost.MASTER)
    assert ended is None or (isinstance(ended, OSError) and ended.errno == number)
