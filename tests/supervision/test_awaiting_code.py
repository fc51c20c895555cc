"""In development what has failed is not tried again before its code has changed: the fleet on a clock that jumps."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from rrmaster.rules.backoff import Exit
from tests.fakes import Actor, Fleet, Script, a_fleet, boots_for_ever, crashes, fails, serves

LONG = 600.0


@asynccontextmanager
async def developing(size: int = 2, script: Script = serves, complete: bool = True) -> AsyncIterator[Fleet]:
    async with a_fleet(size, script, complete=False, reload=True) as fleet:
        if complete:
            await fleet.supervisor.complete.wait()
        yield fleet


async def dies_at_work(actor: Actor) -> Exit:
    with trio.move_on_after(2):
        await serves(actor)
    return Exit(code=7)


async def no_worker_is_started(fleet: Fleet) -> None:
    before = len(fleet.troupe.actors)
    await trio.sleep(LONG)
    assert len(fleet.troupe.actors) == before


@pytest.mark.parametrize("bad", [fails("SyntaxError"), crashes], ids=["fails", "crashes"])
async def test_a_first_start_that_fails_waits_and_each_new_code_gets_one_try(
    bad: Script, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with developing(2, bad, complete=False) as fleet:
        await fleet.until(lambda: "before the code changes" in caplog.text)
        await no_worker_is_started(fleet)
        assert len(fleet.troupe.actors) == 2
        for _ in range(2):
            fleet.supervisor.reload.begin(supersede=True)
            await trio.sleep(60)
            await no_worker_is_started(fleet)
        assert len(fleet.troupe.actors) <= 6
        fleet.troupe.script = serves
        fleet.supervisor.reload.begin(supersede=True)
        await fleet.until(lambda: fleet.slots == [0, 1])
        assert caplog.text.count("no worker is started before the code changes") == 1


async def test_a_new_code_before_the_first_is_up_takes_its_place(autojump_clock: MockClock) -> None:
    async with developing(2, boots_for_ever, complete=False) as fleet:
        await fleet.until(lambda: len(fleet.troupe.actors) == 2)
        fleet.troupe.script = serves
        fleet.supervisor.reload.begin(supersede=True)
        await fleet.until(lambda: [actor.spec.generation for actor in fleet.serving] == [2, 2])
        await fleet.until(lambda: len(fleet.troupe.living) == 2)


async def test_code_that_was_refused_replaces_no_worker(autojump_clock: MockClock) -> None:
    async with developing() as fleet:
        fleet.troupe.script = fails("SyntaxError")
        fleet.supervisor.reload.begin(supersede=True)
        await trio.sleep(60)
        fleet.serving[0].process.end(Exit(signal=signal.SIGKILL))
        await no_worker_is_started(fleet)
        assert fleet.slots == [1]
        fleet.troupe.script = serves
        fleet.supervisor.reload.begin(supersede=True)
        await fleet.until(lambda: fleet.slots == [0, 1])


async def test_the_third_crash_in_a_row_is_the_last(autojump_clock: MockClock) -> None:
    async with developing(1, dies_at_work) as fleet:
        await trio.sleep(60)
        await no_worker_is_started(fleet)
        assert len(fleet.troupe.actors) == 3
        fleet.troupe.script = serves
        fleet.supervisor.reload.begin(supersede=True)
        await fleet.until(lambda: fleet.slots == [0])


async def test_one_crash_is_replaced_at_once_and_why_the_next_cannot_start_is_said_before_the_waiting(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with developing() as fleet:
        fleet.serving[0].process.end(Exit(code=7))
        assert await fleet.until(lambda: len(fleet.troupe.actors) == 3) < 1
        await fleet.until(lambda: fleet.slots == [0, 1])
        fleet.troupe.script = fails("SyntaxError")
        fleet.serving[0].process.end(Exit(code=7))
        await fleet.until(lambda: "before the code changes" in caplog.text)
        assert caplog.text.index("SyntaxError") < caplog.text.index("before the code changes")
        # Ten minutes of looking again every 10 ms would show: 60,000 times.
        await no_worker_is_started(fleet)
