"""What becomes of a worker that is silent, breaks the protocol or asks to retire, on a clock that jumps."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.processes.process import DUMP_SIGNAL
from rrmaster.protocol import wire
from rrmaster.rules.backoff import Exit
from rrmaster.rules.lifecycle import State
from rrmaster.supervision.lifecycle_runner import STACKS_S
from tests.fakes import Actor, a_fleet, boots_for_ever, falls_silent, pass_time, serves
from tests.supervision.fleets import (
    KILL,
    TERM,
    beats,
    ids,
    replaced,
)

# --- silence


async def test_a_worker_silent_for_too_long_is_killed_with_its_stacks_and_replaced(autojump_clock: MockClock) -> None:
    async with a_fleet(2, beats, casting={1: falls_silent}, hang_timeout=30.0) as fleet:
        silent = fleet.troupe.actor(1)
        took = await fleet.until(lambda: silent.process.how is not None)
        assert took == pytest.approx(30 + STACKS_S, abs=0.5)
        assert (silent.process.signals, silent.process.to_group) == ([DUMP_SIGNAL], [KILL])
        await fleet.until(lambda: len(fleet.serving) == 2)
        await trio.sleep(100)
        assert ids(fleet) == [3, 2], "a worker that sends its heartbeat stays"
        assert fleet.supervisor.crashes.replacements == {0: 1}
        assert fleet.supervisor.killed_while_stopping == 0, "it was no stop"


async def test_a_worker_about_to_be_killed_receives_no_connection(autojump_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, hang_timeout=30.0) as fleet:
        load = fleet.supervisor.workers[1].link.load
        await fleet.until(lambda: fleet.troupe.actor(1).process.signals == [DUMP_SIGNAL])
        assert fleet.troupe.actor(1).process.how is None, "it lives on for its stacks"
        assert not load.has_room()


async def test_without_a_hang_timeout_silence_is_nothing(autojump_clock: MockClock) -> None:
    async with a_fleet(
        1,
        falls_silent,
    ) as fleet:
        await trio.sleep(1_000)
        assert ids(fleet) == [1]


async def test_no_worker_is_killed_for_reports_that_the_master_has_not_read(mock_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, hang_timeout=30.0) as fleet:
        (actor,) = fleet.serving
        fleet.dispatching.cancel()  # no task reads the line now
        await wait_all_tasks_blocked()
        for _ in range(5):
            await pass_time(mock_clock, 27)
            actor.report()
            await pass_time(mock_clock, 3)
        assert fleet.supervisor.workers[1].state is State.SERVING
        await pass_time(mock_clock, 30.25)
        assert fleet.supervisor.workers[1].state is State.KILLED


async def test_after_a_gap_of_its_own_the_master_blames_no_worker(mock_clock: MockClock) -> None:
    async with a_fleet(2, falls_silent, hang_timeout=30.0) as fleet:
        mock_clock.jump(3600)  # stopped, or asleep
        await wait_all_tasks_blocked()
        assert len(fleet.serving) == 2
        await pass_time(mock_clock, 28)
        assert len(fleet.serving) == 2
        await pass_time(mock_clock, 3)
        assert not {1, 2} & set(ids(fleet))


async def test_a_gap_while_stopping_kills_no_worker_early(mock_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, graceful_timeout=30.0) as fleet:
        fleet.supervisor.stop()
        await wait_all_tasks_blocked()
        mock_clock.jump(3600)
        await wait_all_tasks_blocked()
        assert fleet.troupe.actor(1).process.signals == []
        mock_clock.jump(30.5)
        await wait_all_tasks_blocked()
        assert fleet.troupe.actor(1).process.signals == [TERM]


# --- breach and retirement


@pytest.mark.parametrize("words", [b"", b"nonsense", wire.encode(wire.Ready(1)), wire.encode(wire.Report(99))])
async def test_a_worker_that_breaks_the_protocol_is_killed_and_replaced(
    words: bytes, autojump_clock: MockClock
) -> None:
    async with a_fleet(2) as fleet:
        hostile = fleet.serving[0]
        hostile.letterbox.line.send(words)
        await replaced(fleet, hostile)
        assert hostile.process.to_group == [KILL]
        assert ids(fleet) == [3, 2]


async def test_a_breach_at_boot_is_a_failed_start(autojump_clock: MockClock) -> None:
    async def raves(actor: Actor) -> Exit:
        actor.letterbox.line.send(b"?")
        return await boots_for_ever(actor)

    async with a_fleet(2, raves, complete=False) as fleet:
        await fleet.over.wait()
        assert fleet.failure is not None


async def test_a_worker_that_asks_to_retire_is_replaced_first_and_then_drained(autojump_clock: MockClock) -> None:
    async def slow(actor: Actor) -> Exit:
        await trio.sleep(5)
        return await serves(actor)

    async with a_fleet(2) as fleet:
        old = fleet.serving[1]
        fleet.troupe.script = slow
        old.say(wire.Retiring("1,000 requests"))
        await trio.sleep(4)
        assert ids(fleet) == [1, 2], "it serves until its replacement does"
        await fleet.until(lambda: ids(fleet) == [1, 3])
        await fleet.until(lambda: old.process.how is not None)
        assert (old.process.how, old.process.signals) == (Exit(code=0), [])
        assert fleet.slots == [0, 1]


async def test_a_reason_to_retire_is_a_part_of_one_line_of_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It may hold what a client has sent."""
    caplog.set_level("INFO")
    async with a_fleet(2) as fleet:
        fleet.serving[1].say(wire.Retiring("bad request: /\n2026-01-01 00:00:00.000 error   forged"))
        await fleet.until(lambda: ids(fleet) == [1, 3])
    assert "bad request: / 2026-01-01 00:00:00.000 error forged" in caplog.text


async def test_a_worker_that_asks_to_retire_and_dies_is_no_crash(autojump_clock: MockClock) -> None:
    async def slow(actor: Actor) -> Exit:
        await trio.sleep(5)
        return await serves(actor)

    async with a_fleet(2) as fleet:
        fleet.troupe.script = slow
        for _ in range(4):
            old = fleet.serving[1]
            old.say(wire.Retiring("leaks"))
            await trio.sleep(1)
            assert fleet.supervisor.workers[old.spec.id].leaving
            old.process.end(Exit(code=1))
            assert await replaced(fleet, old) < 5
        assert list(fleet.supervisor.crashes.backoff.crashes) == []


async def test_all_workers_asking_to_retire_at_once_leave_no_slot_unserved(autojump_clock: MockClock) -> None:
    async with a_fleet(3) as fleet:
        for actor in fleet.serving:
            actor.say(wire.Retiring("SIGTERM"))
        least = 3
        for _ in range(2_000):
            await trio.lowlevel.checkpoint()
            least = min(least, fleet.supervisor.serving)
        await fleet.until(lambda: sorted(ids(fleet)) == [4, 5, 6])
        assert least == 3


async def test_a_change_of_state_is_one_line_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rrmaster")
    async with a_fleet(2) as fleet:
        fleet.supervisor.reload.scale(1)
        await fleet.until(lambda: len(fleet.troupe.living) == 1)
    told = [r.getMessage() for r in caplog.records if "serving -> draining" in r.getMessage()]
    assert told == ["worker 1 (pid 10000002): serving -> draining, scaled down"]
