"""An error of the master's own ends it in order, in whatever task it comes up: the workers finish."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
import trio
from trio.testing import MockClock

from rrmaster.faults import Fault
from rrmaster.processes.process import Child
from rrmaster.protocol.line import Line
from rrmaster.rules.backoff import Exit
from tests.fakes import DEADLINE, Fleet, a_fleet


def an_error(code: int = errno.EBADF) -> OSError:
    return OSError(code, os.strerror(code))


async def fails() -> None:
    raise an_error()


# --- what is told


async def test_the_first_error_of_any_task_is_the_one_that_ends_the_master() -> None:
    fault = Fault()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fault.wait)
            await trio.testing.wait_all_tasks_blocked()
            await fault.guard(fails)
            first = fault.first
            fault.tell(ValueError("a second one"))
    assert isinstance(first, OSError)
    assert fault.first is first


async def test_an_error_that_no_task_waits_for_rises() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        await Fault().guard(fails)


async def test_a_second_error_of_what_ends_the_master_rises() -> None:
    fault = Fault()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fault.wait)
        await trio.testing.wait_all_tasks_blocked()
        fault.attempt(lambda: fault.tell(an_error()))
        with pytest.raises(ZeroDivisionError):
            fault.attempt(lambda: 1 / 0)


@pytest.mark.parametrize(("error", "own"), [(an_error(), True), (an_error(errno.EIO), False), (ValueError(), False)])
def test_an_error_that_may_be_of_the_machine_is_not_the_masters_own(error: Exception, own: bool) -> None:
    told = []
    try:
        Fault().tell_own(error)
    except OSError as rises:
        told.append(rises)
    assert told == [error] * own


# --- what the fleet does


async def ends_in_order(fleet: Fleet) -> None:
    """The workers finish by themselves, and none is killed."""
    assert len(fleet.troupe.living) == 2
    fleet.supervisor.stop()
    await fleet.over.wait()
    ends = [(actor.process.how, actor.process.signals, actor.process.to_group) for actor in fleet.troupe.actors]
    assert ends == [(Exit(code=0), [], [])] * 2


async def test_a_line_that_is_none_is_told_by_whatever_task_reads_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_fleet(2) as fleet, trio.open_nursery() as nursery:
        nursery.start_soon(fleet.supervisor.fault.wait)
        await trio.testing.wait_all_tasks_blocked()

        def receive(line: Line) -> bytes | None:
            raise an_error()

        with monkeypatch.context() as patch:
            patch.setattr(Line, "receive", receive)
            fleet.supervisor.dispatcher.read_reports()
        assert isinstance(fleet.supervisor.fault.first, OSError)
        await ends_in_order(fleet)


@pytest.mark.parametrize("where", ["dismiss", "delist", "remove"])
async def test_what_fails_in_the_life_of_one_worker_lets_the_others_finish(
    where: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_fleet(2) as fleet, trio.open_nursery() as nursery:
        nursery.start_soon(fleet.supervisor.fault.wait)
        await trio.testing.wait_all_tasks_blocked()
        dispatcher, broken = fleet.supervisor.dispatcher, fleet.serving[0]
        real = getattr(type(dispatcher), where)

        def once(*arguments: object) -> object:
            patch.undo()
            real(dispatcher, *arguments[1:]) if where == "remove" else None
            raise an_error()

        patch = monkeypatch
        patch.setattr(type(dispatcher), where, once)
        broken.process.end(Exit(signal=signal.SIGKILL)) if where == "remove" else fleet.supervisor.restart(0)
        with trio.fail_after(60):
            while fleet.supervisor.fault.first is None:
                await trio.sleep(0.1)
        assert not fleet.over.is_set()
        fleet.supervisor.stop()
        with trio.fail_after(600):
            await fleet.over.wait()
        others = [actor for actor in fleet.troupe.actors if actor is not broken]
        assert {actor.process.how for actor in others} == {Exit(code=0)}


async def test_a_plan_that_cannot_be_made_once_ends_the_master_in_order(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_fleet(2) as fleet, trio.open_nursery() as nursery:
        nursery.start_soon(fleet.supervisor.fault.wait)
        await trio.testing.wait_all_tasks_blocked()
        with monkeypatch.context() as patch:
            patch.setattr("rrmaster.dispatch.membership.Membership.expect", lambda members, size: 1 / 0)
            fleet.supervisor.plan_again()
            await trio.testing.wait_all_tasks_blocked()
        assert isinstance(fleet.supervisor.fault.first, ZeroDivisionError)
        await ends_in_order(fleet)


# --- a child whose pidfd is none


@pytest.mark.parametrize("by", ["closed", "another file"])
async def test_a_child_whose_pidfd_is_none_is_told_once_and_then_waited_for_by_its_number(by: str) -> None:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], process_group=0)
    fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    child = Child(process.pid, fd, process)
    if by == "closed":
        os.close(fd)
    with trio.fail_after(DEADLINE * 4):
        with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument"):
            await child.wait()
        child.signal(signal.SIGTERM)
        assert await child.wait() == Exit(signal=signal.SIGTERM)
    if by != "closed":
        os.close(fd)
