"""Crashes, deaths and the pace of replacements, on a clock that jumps."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal

import pytest
import trio
from trio.testing import MockClock

from rrmaster.processes.spawner import StartedWorker
from rrmaster.processes.worker_environment import WorkerSpec
from rrmaster.protocol import wire
from rrmaster.protocol.channel import Line
from rrmaster.rules.backoff import BRIEF_S, STARTS_PER_S, Exit
from rrmaster.supervision.starts import RETRY_S
from tests.fakes import Actor, Script, a_fleet, boots_for_ever, crashes, fails, serves
from tests.supervision.fleets import (
    KILL,
    TERM,
    crashes_slowly,
    fails_slowly,
    generations,
    ids,
    leaves_at_once,
    leaves_early,
    raves_at_once,
    replaced,
)


async def test_the_first_crash_is_replaced_at_once_and_the_next_ones_after_a_growing_pause(
    autojump_clock: MockClock,
) -> None:
    async with a_fleet(2) as fleet:
        pauses = []
        for _ in range(5):
            crashed = fleet.serving[1]
            crashed.process.end(Exit(code=1))
            pauses.append(await replaced(fleet, crashed))
        assert pauses[0] < 0.1
        for pause, expected in zip(pauses[1:], [1, 2, 4, 8], strict=True):
            assert expected * 0.79 < pause < expected * 1.21 + 0.1


@pytest.mark.parametrize("script", [crashes, leaves_early])
async def test_a_worker_that_never_gets_ready_again_is_not_started_over_and_over(
    script: Script, autojump_clock: MockClock
) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.script = script
        fleet.serving[0].process.end(Exit(signal=signal.SIGSEGV))
        await trio.sleep(120)
        assert 5 <= len(fleet.troupe.actors) - 2 <= 10
        assert fleet.slots == [1], "the other serves on"
        fleet.troupe.script = serves
        await fleet.until(lambda: fleet.slots == [0, 1], within=40)


async def test_a_reload_does_not_wait_for_the_back_off_of_the_old_code(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.script = crashes
        fleet.serving[0].process.end(Exit(code=1))
        await trio.sleep(60)
        fleet.troupe.script = serves
        fleet.supervisor.reload.reload()
        assert await fleet.until(lambda: len(fleet.troupe.living) == 3) < 0.1, "the survivor, and two new ones"


async def test_the_same_reason_is_said_once(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.script = fails("KeyError: 'DATABASE'")
        fleet.serving[0].process.end(Exit(code=1))
        await trio.sleep(20)
        assert len(fleet.troupe.actors) > 4
        assert len([r for r in caplog.records if "DATABASE" in r.getMessage() and r.levelno >= logging.ERROR]) == 1


@pytest.mark.parametrize("script", [leaves_at_once, raves_at_once])
async def test_a_worker_that_goes_as_soon_as_it_serves_is_not_replaced_over_and_over(
    script: Script, autojump_clock: MockClock
) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.script = script
        fleet.serving[0].process.end(Exit(signal=KILL))
        await trio.sleep(120)
        assert 5 <= len(fleet.troupe.actors) - 2 <= 10
        assert fleet.supervisor.crashes.backoff.is_loop(trio.current_time())
        assert 2 in ids(fleet), "the other serves on"
        fleet.troupe.script = serves
        await fleet.until(lambda: fleet.slots == [0, 1], within=40)


@pytest.mark.parametrize("script", [crashes, crashes_slowly, leaves_at_once])
async def test_a_crash_loop_of_a_whole_fleet_is_tried_once_a_second(script: Script, autojump_clock: MockClock) -> None:
    """Not once a second in each slot: the others do not start because one of them does."""
    async with a_fleet(8) as fleet:
        fleet.troupe.script = script
        for actor in fleet.serving:
            actor.process.end(Exit(code=1))
        await trio.sleep(60)
        assert 40 <= len(fleet.troupe.actors) - 8 <= 65
        assert fleet.supervisor.crashes.backoff.is_loop(trio.current_time())


async def test_a_worker_that_disconnects_itself_after_its_work_is_replaced_at_once(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        for _ in range(10):
            await trio.sleep(BRIEF_S)
            old = fleet.serving[1]
            old.say(wire.Retiring("it has disconnected", now=True))
            assert await replaced(fleet, old) < 0.5
        assert not fleet.supervisor.crashes.backoff.crashes


async def test_a_failed_worker_is_not_replaced_before_it_has_ended(autojump_clock: MockClock) -> None:
    async with a_fleet(2, deaf=frozenset({TERM})) as fleet:
        fleet.troupe.script = fails_slowly
        fleet.serving[1].process.end(Exit(code=1))
        await trio.sleep(fleet.supervisor.runner.patience.term - 0.1)
        assert len(fleet.troupe.actors) == 3, "it has not ended, so it is not known yet whether it counts as a crash"


async def test_in_a_crash_loop_one_tries_for_all(autojump_clock: MockClock) -> None:
    async with a_fleet(4) as fleet:
        fleet.troupe.script = crashes
        for actor in fleet.serving[1:]:
            actor.process.end(Exit(code=1))
        await trio.sleep(60)
        fleet.troupe.script = boots_for_ever
        await fleet.until(lambda: len(fleet.troupe.living) == 2)
        await trio.sleep(5)
        assert len(fleet.troupe.living) == 2, "whether the one that tries is good is not known yet"


async def test_a_smaller_fleet_has_no_places_left_to_fill(autojump_clock: MockClock) -> None:
    async with a_fleet(3) as fleet:
        fleet.troupe.script = crashes
        fleet.serving[2].process.end(Exit(code=1))
        await trio.sleep(10)
        fleet.supervisor.reload.scale(2)
        await trio.sleep(1)
        assert fleet.supervisor.crashes.wait(trio.current_time(), True) == 0
        assert fleet.supervisor._due() == float("inf"), "nothing wakes the master any more"


async def test_while_no_worker_serves_the_next_try_is_a_second_away(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet:
        fleet.troupe.script = crashes
        fleet.serving[0].process.end(Exit(code=1))
        await trio.sleep(60)
        fleet.troupe.script = serves
        assert await fleet.until(lambda: fleet.slots == [0]) < 1.5


@pytest.mark.parametrize("number", [KILL, TERM])
async def test_a_worker_killed_from_outside_is_replaced_at_once_every_time(
    number: int, autojump_clock: MockClock
) -> None:
    async with a_fleet(3) as fleet:
        for _ in range(15):
            killed = fleet.serving[1]
            killed.process.end(Exit(signal=number))
            assert await replaced(fleet, killed) < 0.1
        assert not fleet.supervisor.crashes.backoff.is_loop(trio.current_time())
        assert fleet.slots == [0, 1, 2]


async def test_no_more_than_twenty_are_replaced_in_a_second(autojump_clock: MockClock) -> None:
    starts: list[float] = []

    async def noted(actor: Actor) -> Exit:
        starts.append(trio.current_time())
        return await serves(actor)

    async with a_fleet(4, noted) as fleet:
        for _ in range(60):
            killed = fleet.serving[0]
            killed.process.end(Exit(signal=KILL))
            await replaced(fleet, killed)
        del starts[:4]
        for start in starts:
            assert sum(start <= other < start + 0.99 for other in starts) <= STARTS_PER_S


async def test_a_start_that_the_operator_asked_for_is_not_paced(autojump_clock: MockClock) -> None:
    """A first start, a larger fleet, a reload: only how many boot at once is bounded."""
    many = STARTS_PER_S + 5
    async with a_fleet(many, at_once=2, complete=False) as fleet:
        assert await fleet.until(lambda: len(fleet.serving) == many) < 0.5
        fleet.supervisor.reload.scale(2 * many)
        assert await fleet.until(lambda: len(fleet.serving) == 2 * many) < 0.5
        fleet.configure(probation=0.0, soak=0.0)
        fleet.supervisor.reload.reload()
        assert await fleet.until(lambda: generations(fleet) == [2] * 2 * many) < 0.5
        for actor in fleet.serving:
            actor.process.end(Exit(signal=KILL))
        assert await fleet.until(lambda: len(fleet.serving) == STARTS_PER_S) < 0.5
        assert await fleet.until(lambda: len(fleet.serving) == 2 * many) > 1, "but replacements are"


async def test_a_start_that_waits_for_the_pace_is_not_forgotten_if_the_time_passes_at_once(
    autojump_clock: MockClock,
) -> None:
    """The plan is asked a moment before the second is over, the clock for its next deadline a moment after it."""
    async with a_fleet(1) as fleet:
        supervisor, now = fleet.supervisor, trio.current_time()
        for _ in range(STARTS_PER_S):
            supervisor.crashes.backoff.started(now)
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: not supervisor.workers)
        supervisor._replan()
        autojump_clock.jump(1.1)
        assert supervisor._due() <= trio.current_time()


async def test_a_slot_is_never_held_by_two_staying_workers(autojump_clock: MockClock) -> None:
    dice = random.Random(4)
    async with a_fleet(5) as fleet:
        for _ in range(40):
            if fleet.serving:
                dice.choice(fleet.serving).process.end(Exit(signal=KILL))
            await trio.sleep(dice.choice([0, 0.01, 0.1]))
            assert len(set(fleet.slots)) == len(fleet.slots)
        await fleet.until(lambda: fleet.slots == [0, 1, 2, 3, 4], within=30)
        assert len({actor.spec.id for actor in fleet.troupe.actors}) == len(fleet.troupe.actors)


async def test_a_process_that_cannot_be_started_is_tried_again(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.refuse = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        fleet.serving[0].process.end(Exit(signal=KILL))
        await trio.sleep(20)
        assert fleet.slots == [1]
        fleet.troupe.refuse = None
        await fleet.until(lambda: fleet.slots == [0, 1], within=40)


async def test_a_line_that_cannot_be_opened_delays_a_replacement_and_ends_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(window: int) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with a_fleet(2) as fleet:
        with monkeypatch.context() as patch:
            patch.setattr(Line, "open", full)
            fleet.serving[0].process.end(Exit(signal=KILL))
            await trio.sleep(5)
            assert fleet.slots == [1]
        await fleet.until(lambda: fleet.slots == [0, 1], within=RETRY_S + 0.1)


async def test_a_worker_that_is_ready_before_its_process_is_announced_is_kept(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        quick_spawn = fleet.troupe.spawn

        async def slow_to_return(spec: WorkerSpec) -> StartedWorker:
            born = await quick_spawn(spec)
            await trio.sleep(1)  # the process runs, and the thread that started it has not got round to say so
            return born

        fleet.spawner.spawn = slow_to_return
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: len(fleet.troupe.actors) == 3)
        await trio.sleep(5)
        heir = fleet.troupe.actor(3)
        assert heir.process.signals == []
        assert fleet.slots == [0, 1]
