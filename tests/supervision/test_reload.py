"""Reloads, rollbacks and scaling, on a clock that jumps."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from rrmaster.protocol import wire
from rrmaster.rules.backoff import Exit
from rrmaster.supervision.reload_progress import Reload
from rrmaster.verdicts import hearing
from rrmaster.verdicts.processor_time import Look, Used
from tests.fakes import (
    Actor,
    Fleet,
    Script,
    a_fleet,
    a_real_deadline,
    boots_for_ever,
    crashes,
    fails,
    falls_silent,
    serves,
)
from tests.supervision.fleets import (
    KILL,
    generations,
    ids,
    leaves_early,
)

# --- reload


async def test_a_reload_is_committed_only_when_all_of_it_is_ready(autojump_clock: MockClock) -> None:
    ready = trio.Event()

    async def late(actor: Actor) -> Exit:
        await ready.wait()
        return await serves(actor)

    async with a_fleet(3, casting={6: late}) as fleet:
        fleet.supervisor.reload.reload()
        await fleet.until(lambda: len(fleet.troupe.actors) == 6)
        await trio.sleep(20)
        assert generations(fleet) == [1, 1, 1], "two are ready, and that is not enough"
        assert len(fleet.troupe.living) == 6
        ready.set()
        await fleet.until(lambda: len(fleet.troupe.living) == 3)
        assert generations(fleet) == [2, 2, 2]
        assert fleet.slots == [0, 1, 2]


async def test_in_a_reload_as_many_serve_as_before_and_the_old_drain(autojump_clock: MockClock) -> None:
    async with a_fleet(3) as fleet:
        old = fleet.serving
        least = 3

        async def watch() -> None:
            nonlocal least
            while True:
                least = min(least, fleet.supervisor.serving)
                await trio.lowlevel.checkpoint()

        fleet.supervisor.reload.reload()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for _ in range(5_000):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await fleet.until(lambda: generations(fleet) == [2, 2, 2])
        await fleet.until(lambda: len(fleet.troupe.living) == 3)
        assert least == 3
        assert all(actor.process.how == Exit(code=0) and not actor.process.signals for actor in old)


async def test_a_release_that_disconnects_itself_at_once_is_rolled_back(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.script, before = leaves_once_it_serves(fleet), ids(fleet)
        fleet.configure(probation=1.0, soak=1.0)
        rollout = fleet.supervisor.reload.begin().rollout
        await fleet.until(lambda: rollout.over)
        assert (rollout.status, rollout.reason.partition(": ")[2]) == (11, "it has disconnected as soon as it served")
        await trio.sleep(60)
        assert (ids(fleet), len(fleet.troupe.actors)) == (before, 4)
        assert not fleet.supervisor.crashes.backoff.crashes


def leaves_once_it_serves(fleet: Fleet) -> Script:
    async def script(actor: Actor) -> Exit:
        actor.ready()
        await fleet.until(lambda: actor in fleet.serving)
        actor.say(wire.Retiring("it has disconnected", now=True))
        await actor.serve()
        return Exit(code=0)

    return script


@pytest.mark.parametrize("bad", [fails("SyntaxError"), crashes, leaves_early, boots_for_ever])
async def test_a_release_that_cannot_boot_costs_no_worker(bad, autojump_clock: MockClock) -> None:  # type: ignore[no-untyped-def]
    async with a_fleet(3, casting={5: bad}, ready_timeout=10.0) as fleet:
        before = ids(fleet)
        fleet.supervisor.reload.reload()
        await fleet.until(lambda: len(fleet.troupe.actors) >= 5)
        await fleet.until(lambda: len(fleet.troupe.living) == 3, within=60)
        await trio.sleep(60)
        assert ids(fleet) == before
        assert len(fleet.troupe.living) == 3, "no process of the new one is left"
        assert all(not actor.process.signals for actor in fleet.serving)
        fleet.supervisor.reload.reload()
        await fleet.until(lambda: generations(fleet) == [3, 3, 3], within=60)


async def test_a_refused_reload_says_why_once(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with a_fleet(2, casting={3: fails("SyntaxError: no"), 4: fails("SyntaxError: no")}) as fleet:
        fleet.supervisor.reload.reload()
        await trio.sleep(10)
        assert len([r for r in caplog.records if "SyntaxError" in r.getMessage() and r.levelno >= logging.ERROR]) == 1


async def test_ten_reloads_at_once_are_two(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        for _ in range(10):
            fleet.supervisor.reload.reload()
        await trio.sleep(60)
        assert generations(fleet) == [3, 3], "the one under way, and one after it for what was asked meanwhile"
        assert len(fleet.troupe.actors) == 6


async def test_an_old_worker_that_dies_in_a_reload_does_not_end_it(autojump_clock: MockClock) -> None:
    async def slow(actor: Actor) -> Exit:
        await trio.sleep(5)
        return await serves(actor)

    async with a_fleet(2) as fleet:
        fleet.troupe.script = slow
        fleet.supervisor.reload.reload()
        await trio.sleep(1)
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: generations(fleet) == [2, 2], within=60)
        await trio.sleep(60)
        assert generations(fleet) == [2, 2]
        assert len(fleet.troupe.living) == 2


async def test_a_new_worker_that_dies_after_it_was_ready_ends_the_reload(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={4: boots_for_ever}) as fleet:
        fleet.supervisor.reload.reload()
        await fleet.until(lambda: len(fleet.troupe.actors) == 4)
        await trio.sleep(1)
        fleet.troupe.actor(3).process.end(Exit(code=1))
        await fleet.until(lambda: len(fleet.troupe.living) == 2, within=60)
        assert generations(fleet) == [1, 1]
        assert not fleet.supervisor.crashes.backoff.crashes, "the old code has not crashed"


async def test_a_new_worker_that_falls_silent_in_its_probation_ends_the_reload(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={3: falls_silent}) as fleet:
        fleet.supervisor.reload.reload()
        await trio.sleep(60)
        assert generations(fleet) == [1, 1]
        assert len(fleet.troupe.living) == 2


async def test_a_silent_worker_is_not_let_through_while_it_is_given_more_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a machine whose processors are all taken its verdict comes after the end of the probation, which waits."""
    monkeypatch.setattr(hearing, "look", lambda *_: Look({1: Used(0.0, trio.current_time())}))
    async with a_fleet(2, casting={3: falls_silent}) as fleet:
        reload = fleet.supervisor.reload.begin()
        with a_real_deadline():  # a time that has passed would keep the clock from moving
            rollout = await reload.ended()
        assert rollout.status == 10
        assert generations(fleet) == [1, 1]
    assert "asleep" not in caplog.text


async def test_what_lies_on_the_disk_is_not_forgotten_over_a_rollback(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        controller = fleet.supervisor.reload

        async def over(reload: Reload) -> tuple[int | None, str, bool]:
            rollout = await reload.ended()
            return rollout.status, controller.refused, controller.gone_back

        assert await over(controller.begin()) == (0, "", False)
        fleet.troupe.script = fails("SyntaxError")
        assert await over(controller.begin()) == (10, "SyntaxError", False)
        assert await over(controller.begin(back=True)) == (10, "SyntaxError", False), "no code is kept to go back to"
        fleet.troupe.script, fleet.code.previous = serves, fleet.reconfigurer.settings
        assert await over(controller.begin(back=True)) == (0, "SyntaxError", True)
        assert await over(controller.begin(back=True)) == (0, "SyntaxError", False), "and back from there"
        given_up = controller.begin()
        assert await over(controller.begin(supersede=True, back=True)) == (0, "SyntaxError", True)
        assert given_up.rollout.over
        assert await over(controller.begin()) == (0, "", False)
        assert await over(controller.begin(back=True)) == (0, "", True)
        assert not controller.disk_is_current


async def test_a_stop_ends_a_reload_too(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={3: boots_for_ever, 4: boots_for_ever}) as fleet:
        fleet.supervisor.reload.reload()
        await fleet.until(lambda: len(fleet.troupe.living) == 4)
        assert fleet.supervisor.reload.latest is not None
        rollout = fleet.supervisor.reload.latest.rollout
        fleet.supervisor.stop()
        assert (rollout.status, rollout.reason) == (10, "the master stops"), "a task that waits for it is told at once"
        await fleet.over.wait()
        assert fleet.troupe.living == []
        fleet.supervisor.reload.reload()  # nothing comes of it


# --- scale


async def test_scaling_up_fills_the_next_slots(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        fleet.supervisor.reload.scale(5)
        await fleet.until(lambda: fleet.slots == [0, 1, 2, 3, 4])
        assert ids(fleet)[:2] == [1, 2]


async def test_scaling_down_drains_the_highest_slots(autojump_clock: MockClock) -> None:
    async with a_fleet(5) as fleet:
        leaving = fleet.serving[2:]
        fleet.supervisor.reload.scale(2)
        await fleet.until(lambda: len(fleet.troupe.living) == 2)
        assert fleet.slots == [0, 1]
        assert all(actor.process.how == Exit(code=0) for actor in leaving)
        assert not fleet.supervisor.crashes.backoff.crashes, "a worker that was asked to go has not crashed"
        fleet.supervisor.reload.scale(0)
        await trio.sleep(1)
        assert fleet.slots == [0], "one stays"


async def test_a_scale_in_a_reload_counts_for_both_outcomes(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={4: fails("no")}) as fleet:
        fleet.troupe.script = serves
        fleet.supervisor.reload.reload()
        fleet.supervisor.reload.scale(3)
        await trio.sleep(60)
        assert generations(fleet) == [1, 1, 1]
        fleet.supervisor.reload.reload()
        fleet.supervisor.reload.scale(4)
        await trio.sleep(60)
        assert generations(fleet) == [3, 3, 3, 3]


async def test_a_fleet_that_grows_after_a_reload_keeps_no_old_worker_until_it_has_grown(
    autojump_clock: MockClock,
) -> None:
    """ "Generation 2 serves alone" is true when it is said, however long the additional worker takes."""
    async with a_fleet(2, casting={5: boots_for_ever}) as fleet:
        fleet.supervisor.reload.reload()
        fleet.supervisor.reload.scale(3)
        await fleet.until(lambda: len(fleet.troupe.actors) == 5)
        assert generations(fleet) == [2, 2]
