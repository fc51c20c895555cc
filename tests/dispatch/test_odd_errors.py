"""Errors of the kernel that no page lists: each costs what `rules.kernel_errors` says, and not the master."""

from __future__ import annotations

import errno
import os
import select
import signal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.dispatch.membership import FULL_POLL, HANDOFF_RETRY
from rrmaster.dispatch.report_reader import ReportReader
from rrmaster.protocol.line import Line
from rrmaster.rules.backoff import Exit
from rrmaster.supervision.starts import RETRY_S
from tests.fakes import a_fleet, a_house


class Failing:
    """An epoll, of which one method fails."""

    def __init__(self, epoll: select.epoll, method: str, code: int) -> None:
        self.epoll, self.method, self.code, self.tries = epoll, method, code, 0

    def __getattr__(self, name: str) -> object:
        if name == self.method:
            return self.fail
        return getattr(self.epoll, name)

    def fail(self, *arguments: object) -> None:
        self.tries += 1
        raise OSError(self.code, os.strerror(self.code))


async def test_a_line_that_cannot_be_read_costs_its_worker_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_house(2) as house:
        broken, other = house.players
        real = Line.receive

        def receive(line: Line) -> bytes | None:
            if line is broken.link.line:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(line)

        monkeypatch.setattr(Line, "receive", receive)
        broken.report()
        await house.read_reports()
        assert house.breaches == {broken.load.id: "its line cannot be read (EIO)"}
        await house.calls(3)
        assert other.waiting == 3
        house.remove(broken)
        monkeypatch.undo()
        await house.settle()


async def test_a_letterbox_that_the_kernel_cannot_watch_is_looked_at_instead(mock_clock: MockClock) -> None:
    async with a_house(1) as house:
        reader = house.dispatcher._reader
        failing = Failing(reader.epoll, "modify", errno.ENOMEM)
        reader.epoll = failing  # type: ignore[assignment]
        (player,) = house.players
        window = player.load.window
        await house.calls(window + 2)
        assert player.waiting == window
        assert failing.tries > 0
        player.take()
        mock_clock.jump(FULL_POLL * 2)
        await wait_all_tasks_blocked()
        assert player.waiting == 2, "no event has come, and the room was found"
        await house.settle()


async def test_reports_that_cannot_wake_the_loop_are_read_soon(mock_clock: MockClock) -> None:
    async with a_house(1) as house:
        dispatcher, (player,) = house.dispatcher, house.players
        await house.calls(player.load.window)
        real = dispatcher._epoll
        dispatcher._epoll = Failing(real, "register", errno.ENOSPC)  # type: ignore[assignment]
        await house.calls()
        player.take()
        player.report()
        for _ in range(3):
            mock_clock.jump(HANDOFF_RETRY * 1.1)
            await wait_all_tasks_blocked()
        assert player.waiting == 1, "the report was read without an event"
        dispatcher._epoll = real
        await house.settle()


async def test_a_line_that_cannot_be_watched_delays_its_worker_and_ends_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_fleet(2) as fleet:
        descriptors = len(os.listdir("/proc/self/fd"))

        def full(reader: ReportReader, link: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(ReportReader, "add", full)
            fleet.serving[0].process.end(Exit(signal=signal.SIGKILL))
            await trio.sleep(5)
            assert fleet.slots == [1]
            assert len(os.listdir("/proc/self/fd")) <= descriptors, "the lines that could not be used are closed"
        await fleet.until(lambda: fleet.slots == [0, 1], within=RETRY_S + 0.1)


async def test_a_count_that_the_kernel_refuses_is_the_last_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_house(1) as house:
        (player,) = house.players
        await house.calls(2)
        assert player.load.recount() == 2

        def refuse(fd: int, *more: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr("rrmaster.protocol.line.ioctl", refuse)
            assert player.load.recount() == 2
        await house.settle()
