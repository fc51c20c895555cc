"""The fleet on a clock that jumps: workers are played by scripts, lines and dispatcher are real."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal

import pytest
import trio
from attrs import Factory, define, evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.processes.process import DUMP_SIGNAL, NotStarted
from rrmaster.protocol import wire
from rrmaster.protocol.line import Line
from rrmaster.rules.backoff import BRIEF_S, STARTS_PER_S, Exit
from rrmaster.rules.lifecycle import Patience, State
from rrmaster.rules.rollout import Rollout, Trial
from rrmaster.supervision.starts import RETRY_S
from rrmaster.supervision.supervisor import STACKS_S, Birth, Born
from tests.fakes import Actor, Fleet, Script, Troupe, a_fleet, boots_for_ever, crashes, fails, falls_silent, serves

KILL, TERM = signal.SIGKILL, signal.SIGTERM


def generations(fleet: Fleet) -> list[int]:
    return [actor.birth.generation for actor in fleet.serving]


def ids(fleet: Fleet) -> list[int]:
    return [actor.birth.id for actor in fleet.serving]


async def replaced(fleet: Fleet, old: Actor, within: float = 100) -> float:
    """Wait until somebody else serves in its slot; returns how long it took."""
    slots = set(fleet.slots) | {old.birth.slot}
    return await fleet.until(lambda: old not in fleet.serving and set(fleet.slots) == slots, within)


# --- start


async def test_a_fleet_starts_with_one_worker_for_each_slot(autojump_clock: MockClock) -> None:
    async with a_fleet(3) as fleet:
        assert fleet.slots == [0, 1, 2]
        assert sorted(ids(fleet)) == [1, 2, 3]
        assert generations(fleet) == [1, 1, 1]


async def test_no_more_boot_at_once_than_may(autojump_clock: MockClock) -> None:
    booting = most = 0

    async def slow(actor: Actor) -> Exit:
        nonlocal booting, most
        booting += 1
        most = max(most, booting)
        await trio.sleep(1)
        booting -= 1
        return await serves(actor)

    async with a_fleet(7, slow, at_once=2) as fleet:
        assert most == 2
        assert fleet.slots == list(range(7))


async def test_complete_is_said_only_when_all_serve(autojump_clock: MockClock) -> None:
    ready = trio.Event()

    async def waits(actor: Actor) -> Exit:
        await ready.wait()
        return await serves(actor)

    async with a_fleet(3, casting={2: waits}, complete=False) as fleet:
        await fleet.until(lambda: len(fleet.serving) == 2)
        assert not fleet.supervisor.complete.is_set()
        ready.set()
        await fleet.supervisor.complete.wait()
        assert fleet.supervisor.serving == 3


async def test_who_is_never_ready_is_asked_for_its_stacks_and_killed(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={2: boots_for_ever}, patience=Patience(ready=30, hang=0), complete=False) as fleet:
        await fleet.until(lambda: len(fleet.troupe.actors) == 2)
        stuck = fleet.troupe.actor(2)
        took = await fleet.until(lambda: stuck.process.how is not None)
        assert took == pytest.approx(30 + STACKS_S, abs=0.1)
        assert (stuck.process.signals, stuck.process.to_group) == ([DUMP_SIGNAL], [KILL])
        await fleet.supervisor.complete.wait()
        assert fleet.slots == [0, 1]


async def test_a_start_at_which_all_fail_ends_with_the_applications_own_words(
    autojump_clock: MockClock,
) -> None:
    async with a_fleet(3, fails("ModuleNotFoundError: No module named 'shop'"), complete=False) as fleet:
        await fleet.over.wait()
        assert str(fleet.hopeless) == "ModuleNotFoundError: No module named 'shop'"
        assert len(fleet.troupe.actors) == 3, "each slot is tried once"
        assert fleet.troupe.living == []


async def leaves_early(actor: Actor) -> Exit:
    """As `current_worker().disconnect()` where an address is refused."""
    actor.say(wire.Retiring("it has disconnected", now=True))
    return await boots_for_ever(actor)


@pytest.mark.parametrize(
    ("script", "words"),
    [(crashes, "exited with status 1"), (leaves_early, "it has disconnected before it served")],
)
async def test_a_start_at_which_nobody_says_why_says_how(script: Script, words: str, autojump_clock: MockClock) -> None:
    async with a_fleet(2, script, complete=False) as fleet:
        await fleet.over.wait()
        assert words in str(fleet.hopeless)
        assert len(fleet.troupe.actors) == 2, "each slot is tried once"


async def test_a_start_at_which_all_hang_says_so(autojump_clock: MockClock) -> None:
    async with a_fleet(2, boots_for_ever, patience=Patience(ready=7), complete=False) as fleet:
        await fleet.over.wait()
        assert "7 s" in str(fleet.hopeless)


async def test_a_worker_that_is_never_born_is_told_of_like_one_that_cannot_start(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        spawn, before = fleet.troupe.spawn, [actor.birth.id for actor in fleet.serving]

        async def still(birth: Birth) -> Born:
            if birth.generation == 2:
                raise NotStarted("RuntimeError: bad code")
            return await spawn(birth)

        fleet.supervisor.spawn = still
        rollout = fleet.supervisor.begin_reload()
        await fleet.until(lambda: rollout.over)
        assert (rollout.status, rollout.reason) == (10, "RuntimeError: bad code")
        assert [actor.birth.id for actor in fleet.serving] == before
        await trio.sleep(60)
        assert [actor.birth.id for actor in fleet.serving] == before, "and nobody else is tried"


async def test_a_first_start_at_which_nobody_is_born_ends_with_the_applications_own_words(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def still(self: Troupe, birth: Birth) -> Born:
        raise NotStarted("RuntimeError: bad code")

    monkeypatch.setattr(Troupe, "spawn", still)
    async with a_fleet(2, complete=False) as fleet:
        await fleet.over.wait()
        assert str(fleet.hopeless) == "RuntimeError: bad code"


async def test_the_time_to_become_ready_begins_with_the_process(autojump_clock: MockClock) -> None:
    async def ready_late(actor: Actor) -> Exit:
        await trio.sleep(25)
        return await serves(actor)

    async with a_fleet(1, patience=Patience(ready=30, hang=0)) as fleet:
        spawn = fleet.troupe.spawn

        async def after_a_template_in_vain(birth: Birth) -> Born:
            await trio.sleep(25)
            return await spawn(birth)

        fleet.supervisor.spawn, fleet.troupe.script = after_a_template_in_vain, ready_late
        fleet.supervisor.scale(2)
        await fleet.until(lambda: fleet.slots == [0, 1])
        assert fleet.troupe.actor(2).process.signals == []


async def test_who_dies_of_the_old_in_a_reload_is_restored_while_that_can_be(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        fleet.supervisor.renewal.trial = Trial(probation=1000, soak=1, timeout=5000)
        can = fleet.supervisor.renewal.can_restore = {1: True}.get  # type: ignore[assignment]
        assert can(1)
        fleet.supervisor.begin_reload()
        await fleet.until(lambda: len(fleet.troupe.actors) == 4)
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: fleet.slots == [0, 1])
        assert [actor.birth.generation for actor in fleet.serving] == [1, 1]
        # Crashes of the old are paced as ever, and cost the new nothing.
        born = len(fleet.troupe.actors)
        for _ in range(4):
            victim = fleet.serving[0]
            victim.process.end(Exit(code=1))
            await fleet.until(lambda v=victim: v not in fleet.serving)  # type: ignore[misc]
            with trio.move_on_after(0.5):
                await fleet.until(lambda: fleet.slots == [0, 1])
        assert len(fleet.troupe.actors) - born < 4
        # The template is lost: the place stays empty until it is decided.
        fleet.supervisor.renewal.can_restore = lambda generation: False
        for actor in fleet.serving:
            actor.process.end(Exit(signal=KILL))
        await trio.sleep(200)
        assert fleet.slots == []
        assert fleet.supervisor._due() > trio.current_time() + 1, "and the master is at rest"
        assert len([a for a in fleet.troupe.living if a.birth.generation == 2]) == 2


@define(eq=False)
class Midwife:
    """Starts workers, and is told what has become of them."""

    troupe: Troupe
    outcomes: list[bool] = Factory(list)
    blamed: bool = False

    async def spawn(self, birth: Birth) -> Born:
        born = await self.troupe.spawn(birth)
        return evolve(born, outcome=self.outcome)

    def outcome(self, ready: bool) -> bool:
        self.outcomes.append(ready)
        return self.blamed


async def test_how_a_worker_was_started_is_judged_by_whether_it_became_ready(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        midwife = Midwife(fleet.troupe)
        fleet.supervisor.spawn = midwife.spawn

        async def next_one(script: Script, how: Exit | None = None) -> list[bool]:
            """What is told of one who boots so and ends so, and of who is started after him."""
            id_ = max(ids(fleet)) + 1
            fleet.troupe.casting[id_] = script
            midwife.outcomes.clear()
            fleet.serving[0].process.end(Exit(signal=KILL))
            if how is not None:
                await fleet.until(lambda: len(fleet.troupe.actors) == id_)
                fleet.troupe.actor(id_).process.end(how)
            await fleet.until(lambda: id_ + 1 in ids(fleet))
            return midwife.outcomes

        assert await next_one(crashes) == [False, True]
        assert await next_one(fails_slowly) == [False, True]
        assert await next_one(boots_for_ever, Exit(signal=signal.SIGSEGV)) == [False, True]
        assert await next_one(boots_for_ever, Exit(signal=KILL)) == [True], "a kill from outside says nothing"
        fleet.supervisor.patience = Patience(ready=3, hang=0)
        assert await next_one(boots_for_ever) == [False, True]
        midwife.outcomes.clear()
        ready = fleet.serving[0]
        ready.process.end(Exit(code=1))
        await replaced(fleet, ready)
        assert midwife.outcomes == [True], "who was ready has been told of"


async def test_who_dies_of_how_it_was_started_has_not_crashed(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        midwife = Midwife(fleet.troupe)
        fleet.supervisor.spawn, fleet.troupe.script = midwife.spawn, crashes
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: len(midwife.outcomes) == 5)
        assert fleet.supervisor.aftermath.restarts.streak == 5
        midwife.blamed, fleet.troupe.script = True, serves
        await fleet.until(lambda: fleet.slots == [0, 1])
        assert fleet.supervisor.aftermath.restarts.streak == 0, "and those before it have not, either"
        fleet.troupe.script = crashes
        fleet.serving[0].process.end(Exit(signal=KILL))
        assert await fleet.until(lambda: len(midwife.outcomes) >= 10) < 0.1
        assert fleet.supervisor.aftermath.restarts.streak == 0


async def test_a_start_without_processes_says_so(autojump_clock: MockClock) -> None:
    async with a_fleet(2, complete=False) as fleet:
        fleet.troupe.refuse = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        await fleet.over.wait()
        assert os.strerror(errno.EAGAIN) in str(fleet.hopeless)


async def test_one_that_fails_at_first_is_tried_again_once_another_serves(autojump_clock: MockClock) -> None:
    async def slow(actor: Actor) -> Exit:
        await trio.sleep(3)
        return await serves(actor)

    async with a_fleet(2, casting={1: fails("not yet"), 2: slow}, complete=False) as fleet:
        await fleet.supervisor.complete.wait()
        assert fleet.slots == [0, 1]
        assert fleet.hopeless is None


# --- crashes and deaths


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
        fleet.supervisor.reload()
        assert await fleet.until(lambda: len(fleet.troupe.living) == 3) < 0.1, "the survivor, and two new ones"


async def test_the_same_reason_is_said_once(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.script = fails("KeyError: 'DATABASE'")
        fleet.serving[0].process.end(Exit(code=1))
        await trio.sleep(20)
        assert len(fleet.troupe.actors) > 4
        assert len([r for r in caplog.records if "DATABASE" in r.getMessage() and r.levelno >= logging.ERROR]) == 1


async def leaves_at_once(actor: Actor) -> Exit:
    """As `current_worker().disconnect()` in its first request, or its first moment."""
    actor.ready()
    await trio.sleep(0.05)
    actor.say(wire.Retiring("it has disconnected", now=True))
    await actor.serve()
    return Exit(code=0)


async def raves_at_once(actor: Actor) -> Exit:
    actor.ready()
    await trio.sleep(0.05)
    actor.letterbox.line.send(b"?")
    return await boots_for_ever(actor)


@pytest.mark.parametrize("script", [leaves_at_once, raves_at_once])
async def test_a_worker_that_goes_as_soon_as_it_serves_is_not_replaced_over_and_over(
    script: Script, autojump_clock: MockClock
) -> None:
    async with a_fleet(2) as fleet:
        fleet.troupe.script = script
        fleet.serving[0].process.end(Exit(signal=KILL))
        await trio.sleep(120)
        assert 5 <= len(fleet.troupe.actors) - 2 <= 10
        assert fleet.supervisor.aftermath.restarts.looping(trio.current_time())
        assert 2 in ids(fleet), "the other serves on"
        fleet.troupe.script = serves
        await fleet.until(lambda: fleet.slots == [0, 1], within=40)


async def crashes_slowly(actor: Actor) -> Exit:
    await trio.sleep(0.3)
    return Exit(code=1)


@pytest.mark.parametrize("script", [crashes, crashes_slowly, leaves_at_once])
async def test_a_crash_loop_of_a_whole_fleet_is_tried_once_a_second(script: Script, autojump_clock: MockClock) -> None:
    """Not once a second in each slot: the others do not start because one of them does."""
    async with a_fleet(8) as fleet:
        fleet.troupe.script = script
        for actor in fleet.serving:
            actor.process.end(Exit(code=1))
        await trio.sleep(60)
        assert 40 <= len(fleet.troupe.actors) - 8 <= 65
        assert fleet.supervisor.aftermath.restarts.looping(trio.current_time())


async def test_a_worker_that_disconnects_itself_after_its_work_is_replaced_at_once(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        for _ in range(10):
            await trio.sleep(BRIEF_S)
            old = fleet.serving[1]
            old.say(wire.Retiring("it has disconnected", now=True))
            assert await replaced(fleet, old) < 0.5
        assert not fleet.supervisor.aftermath.restarts.crashes


async def test_nobody_is_started_in_the_place_of_one_that_still_goes(autojump_clock: MockClock) -> None:
    async with a_fleet(2, deaf=frozenset({TERM})) as fleet:
        fleet.troupe.script = fails_slowly
        fleet.serving[1].process.end(Exit(code=1))
        await trio.sleep(Patience().term - 0.1)
        assert len(fleet.troupe.actors) == 3, "it has not ended, so nobody knows yet whether it counts as a crash"


async def fails_slowly(actor: Actor) -> Exit:
    actor.say(wire.Failed("no"))
    return await boots_for_ever(actor)


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
        fleet.supervisor.scale(2)
        await trio.sleep(1)
        assert fleet.supervisor.aftermath.wait(trio.current_time(), True) == 0
        assert fleet.supervisor._due() == float("inf"), "nothing wakes the master any more"


async def test_while_nobody_serves_the_next_try_is_a_second_away(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet:
        fleet.troupe.script = crashes
        fleet.serving[0].process.end(Exit(code=1))
        await trio.sleep(60)
        fleet.troupe.script = serves
        assert await fleet.until(lambda: fleet.slots == [0]) < 1.5


@pytest.mark.parametrize("number", [KILL, TERM])
async def test_who_is_killed_from_outside_is_replaced_at_once_every_time(
    number: int, autojump_clock: MockClock
) -> None:
    async with a_fleet(3) as fleet:
        for _ in range(15):
            killed = fleet.serving[1]
            killed.process.end(Exit(signal=number))
            assert await replaced(fleet, killed) < 0.1
        assert not fleet.supervisor.aftermath.restarts.looping(trio.current_time())
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


async def test_whoever_is_started_because_somebody_asked_for_it_is_not_paced(autojump_clock: MockClock) -> None:
    """A first start, a larger fleet, a reload: only how many boot at once is bounded."""
    many = STARTS_PER_S + 5
    async with a_fleet(many, at_once=2, complete=False) as fleet:
        assert await fleet.until(lambda: len(fleet.serving) == many) < 0.5
        fleet.supervisor.scale(2 * many)
        assert await fleet.until(lambda: len(fleet.serving) == 2 * many) < 0.5
        fleet.supervisor.renewal.trial = Trial(probation=0, soak=0)
        fleet.supervisor.reload()
        assert await fleet.until(lambda: generations(fleet) == [2] * 2 * many) < 0.5
        for actor in fleet.serving:
            actor.process.end(Exit(signal=KILL))
        assert await fleet.until(lambda: len(fleet.serving) == STARTS_PER_S) < 0.5
        assert await fleet.until(lambda: len(fleet.serving) == 2 * many) > 1, "but replacements are"


async def test_whoever_had_to_wait_for_the_pace_is_not_forgotten_if_the_time_passes_at_once(
    autojump_clock: MockClock,
) -> None:
    """The plan is asked a moment before the second is over, the clock for its next deadline a moment after it."""
    async with a_fleet(1) as fleet:
        supervisor, now = fleet.supervisor, trio.current_time()
        for _ in range(STARTS_PER_S):
            supervisor.aftermath.restarts.started(now)
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: not supervisor.wards)
        supervisor._replan()
        autojump_clock.jump(1.1)
        assert supervisor._due() <= trio.current_time()


async def test_a_slot_is_never_held_by_two_who_stay(autojump_clock: MockClock) -> None:
    dice = random.Random(4)
    async with a_fleet(5) as fleet:
        for _ in range(40):
            if fleet.serving:
                dice.choice(fleet.serving).process.end(Exit(signal=KILL))
            await trio.sleep(dice.choice([0, 0.01, 0.1]))
            assert len(set(fleet.slots)) == len(fleet.slots)
        await fleet.until(lambda: fleet.slots == [0, 1, 2, 3, 4], within=30)
        assert len({actor.birth.id for actor in fleet.troupe.actors}) == len(fleet.troupe.actors)


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


async def test_a_worker_that_is_ready_before_its_birth_is_told_is_kept(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        quick_spawn = fleet.troupe.spawn

        async def slow_to_return(birth: Birth) -> Born:
            born = await quick_spawn(birth)
            await trio.sleep(1)  # the process runs, and the thread that started it has not got round to say so
            return born

        fleet.supervisor.spawn = slow_to_return
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: len(fleet.troupe.actors) == 3)
        await trio.sleep(5)
        heir = fleet.troupe.actor(3)
        assert heir.process.signals == []
        assert fleet.slots == [0, 1]


# --- reload


async def test_a_reload_is_committed_only_when_all_of_it_is_ready(autojump_clock: MockClock) -> None:
    ready = trio.Event()

    async def late(actor: Actor) -> Exit:
        await ready.wait()
        return await serves(actor)

    async with a_fleet(3, casting={6: late}) as fleet:
        fleet.supervisor.reload()
        await fleet.until(lambda: len(fleet.troupe.actors) == 6)
        await trio.sleep(20)
        assert generations(fleet) == [1, 1, 1], "two are ready, and that is not enough"
        assert len(fleet.troupe.living) == 6
        ready.set()
        await fleet.until(lambda: len(fleet.troupe.living) == 3)
        assert generations(fleet) == [2, 2, 2]
        assert fleet.slots == [0, 1, 2]


async def test_in_a_reload_nobody_serves_less_and_the_old_drain(autojump_clock: MockClock) -> None:
    async with a_fleet(3) as fleet:
        old = fleet.serving
        least = 3

        async def watch() -> None:
            nonlocal least
            while True:
                least = min(least, fleet.supervisor.serving)
                await trio.lowlevel.checkpoint()

        fleet.supervisor.reload()
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
        fleet.supervisor.renewal.trial = Trial(probation=1, soak=1)
        rollout = fleet.supervisor.begin_reload()
        await fleet.until(lambda: rollout.over)
        assert (rollout.status, rollout.reason.partition(": ")[2]) == (11, "it has disconnected as soon as it served")
        await trio.sleep(60)
        assert (ids(fleet), len(fleet.troupe.actors)) == (before, 4)
        assert not fleet.supervisor.aftermath.restarts.crashes


def leaves_once_it_serves(fleet: Fleet) -> Script:
    async def script(actor: Actor) -> Exit:
        actor.ready()
        await fleet.until(lambda: actor in fleet.serving)
        actor.say(wire.Retiring("it has disconnected", now=True))
        await actor.serve()
        return Exit(code=0)

    return script


@pytest.mark.parametrize("bad", [fails("SyntaxError"), crashes, leaves_early, boots_for_ever])
async def test_a_release_that_cannot_boot_costs_nobody(bad, autojump_clock: MockClock) -> None:  # type: ignore[no-untyped-def]
    async with a_fleet(3, casting={5: bad}, patience=Patience(ready=10, hang=0)) as fleet:
        before = ids(fleet)
        fleet.supervisor.reload()
        await fleet.until(lambda: len(fleet.troupe.actors) >= 5)
        await fleet.until(lambda: len(fleet.troupe.living) == 3, within=60)
        await trio.sleep(60)
        assert ids(fleet) == before
        assert len(fleet.troupe.living) == 3, "no process of the new one is left"
        assert all(not actor.process.signals for actor in fleet.serving)
        fleet.supervisor.reload()
        await fleet.until(lambda: generations(fleet) == [3, 3, 3], within=60)


async def test_a_refused_reload_says_why_once(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with a_fleet(2, casting={3: fails("SyntaxError: no"), 4: fails("SyntaxError: no")}) as fleet:
        fleet.supervisor.reload()
        await trio.sleep(10)
        assert len([r for r in caplog.records if "SyntaxError" in r.getMessage() and r.levelno >= logging.ERROR]) == 1


async def test_ten_reloads_at_once_are_two(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        for _ in range(10):
            fleet.supervisor.reload()
        await trio.sleep(60)
        assert generations(fleet) == [3, 3], "the one under way, and one after it for what was asked meanwhile"
        assert len(fleet.troupe.actors) == 6


async def test_an_old_worker_that_dies_in_a_reload_does_not_end_it(autojump_clock: MockClock) -> None:
    async def slow(actor: Actor) -> Exit:
        await trio.sleep(5)
        return await serves(actor)

    async with a_fleet(2) as fleet:
        fleet.troupe.script = slow
        fleet.supervisor.reload()
        await trio.sleep(1)
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: generations(fleet) == [2, 2], within=60)
        await trio.sleep(60)
        assert generations(fleet) == [2, 2]
        assert len(fleet.troupe.living) == 2


async def test_a_new_worker_that_dies_after_it_was_ready_ends_the_reload(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={4: boots_for_ever}) as fleet:
        fleet.supervisor.reload()
        await fleet.until(lambda: len(fleet.troupe.actors) == 4)
        await trio.sleep(1)
        fleet.troupe.actor(3).process.end(Exit(code=1))
        await fleet.until(lambda: len(fleet.troupe.living) == 2, within=60)
        assert generations(fleet) == [1, 1]
        assert not fleet.supervisor.aftermath.restarts.crashes, "the old code has not crashed"


async def test_a_new_worker_that_falls_silent_in_its_probation_ends_the_reload(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={3: falls_silent}) as fleet:
        fleet.supervisor.reload()
        await trio.sleep(60)
        assert generations(fleet) == [1, 1]
        assert len(fleet.troupe.living) == 2


async def test_what_lies_on_the_disk_is_not_forgotten_over_a_rollback(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        renewal = fleet.supervisor.renewal

        async def over(rollout: Rollout) -> tuple[int | None, str, bool]:
            await fleet.until(lambda: rollout.over)
            return rollout.status, renewal.refused, renewal.gone_back

        def back(generation: int) -> str:
            return ""

        assert await over(renewal.begin()) == (0, "", False)
        fleet.troupe.script = fails("SyntaxError")
        assert await over(renewal.begin()) == (10, "SyntaxError", False)
        assert await over(renewal.begin(back=lambda generation: "there is none")) == (10, "SyntaxError", False)
        fleet.troupe.script = serves
        assert await over(renewal.begin(back=back)) == (0, "SyntaxError", True)
        assert await over(renewal.begin(back=back)) == (0, "SyntaxError", False), "and back from there"
        given_up = renewal.begin()
        assert await over(renewal.begin(supersede=True, back=back)) == (0, "SyntaxError", True)
        assert given_up.over
        assert await over(renewal.begin()) == (0, "", False)
        assert await over(renewal.begin(back=back)) == (0, "", True)
        assert not renewal.has_the_disks


async def test_a_stop_ends_a_reload_too(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={3: boots_for_ever, 4: boots_for_ever}) as fleet:
        fleet.supervisor.reload()
        await fleet.until(lambda: len(fleet.troupe.living) == 4)
        rollout = fleet.supervisor.rollout
        fleet.supervisor.stop()
        assert rollout is not None
        assert (rollout.status, rollout.reason) == (10, "the master stops"), "whoever waits for it is told at once"
        await fleet.over.wait()
        assert fleet.troupe.living == []
        fleet.supervisor.reload()  # nothing comes of it


# --- scale


async def test_scaling_up_fills_the_next_slots(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        fleet.supervisor.scale(5)
        await fleet.until(lambda: fleet.slots == [0, 1, 2, 3, 4])
        assert ids(fleet)[:2] == [1, 2]


async def test_scaling_down_drains_the_highest_slots(autojump_clock: MockClock) -> None:
    async with a_fleet(5) as fleet:
        leaving = fleet.serving[2:]
        fleet.supervisor.scale(2)
        await fleet.until(lambda: len(fleet.troupe.living) == 2)
        assert fleet.slots == [0, 1]
        assert all(actor.process.how == Exit(code=0) for actor in leaving)
        assert not fleet.supervisor.aftermath.restarts.crashes, "who was asked to go has not crashed"
        fleet.supervisor.scale(0)
        await trio.sleep(1)
        assert fleet.slots == [0], "one stays"


async def test_a_scale_in_a_reload_counts_for_both_outcomes(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={4: fails("no")}) as fleet:
        fleet.troupe.script = serves
        fleet.supervisor.reload()
        fleet.supervisor.scale(3)
        await trio.sleep(60)
        assert generations(fleet) == [1, 1, 1]
        fleet.supervisor.reload()
        fleet.supervisor.scale(4)
        await trio.sleep(60)
        assert generations(fleet) == [3, 3, 3, 3]


# --- stop


async def test_a_stop_lets_everybody_finish(autojump_clock: MockClock) -> None:
    async with a_fleet(3) as fleet:
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert all(a.process.how == Exit(code=0) and not a.process.signals for a in fleet.troupe.actors)
        assert fleet.supervisor.killed_while_stopping == 0
        assert fleet.supervisor.wards == {}


async def test_who_does_not_finish_is_terminated_at_the_graceful_timeout(autojump_clock: MockClock) -> None:
    async with a_fleet(2, falls_silent, patience=Patience(graceful=30, hang=0)) as fleet:
        begun = trio.current_time()
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert trio.current_time() - begun == pytest.approx(30, abs=0.1)
        assert all(actor.process.signals == [TERM] for actor in fleet.troupe.actors)
        assert fleet.supervisor.killed_while_stopping == 0


async def test_who_does_not_hear_term_either_is_killed(autojump_clock: MockClock) -> None:
    deaf = frozenset({TERM})
    async with a_fleet(2, falls_silent, patience=Patience(graceful=30, term=5, hang=0), deaf=deaf) as fleet:
        begun = trio.current_time()
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert trio.current_time() - begun == pytest.approx(35, abs=0.1)
        assert all(a.process.signals == [TERM] and a.process.to_group == [KILL] for a in fleet.troupe.actors)
        assert fleet.supervisor.killed_while_stopping == 2


async def test_a_kill_that_has_no_effect_is_said_again_each_second(mock_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, patience=Patience(hang=30, kill=1), deaf=frozenset({TERM, KILL})) as fleet:
        process = fleet.troupe.actor(1).process
        mock_clock.jump(30.1)
        await react()
        mock_clock.jump(STACKS_S)
        for times in range(1, 6):
            await react()
            assert process.to_group == [KILL] * times
            mock_clock.jump(1)
        process.end(Exit(signal=KILL))
        await react()


async def react() -> None:
    """Let everybody do what is due now.  Not `wait_all_tasks_blocked`: who spins would keep the test for ever."""
    for _ in range(30):
        await trio.lowlevel.checkpoint()


async def test_a_hurry_shortens_what_patience_there_is(autojump_clock: MockClock) -> None:
    async with a_fleet(2, falls_silent, patience=Patience(graceful=300, hang=0), deaf=frozenset({TERM})) as fleet:
        fleet.supervisor.stop()
        await trio.sleep(2)
        begun = trio.current_time()
        fleet.supervisor.hurry(0.0, 1.0)
        await fleet.over.wait()
        assert trio.current_time() - begun == pytest.approx(1, abs=0.1)
        assert all(a.process.signals == [TERM] and a.process.to_group == [KILL] for a in fleet.troupe.actors)


async def test_a_second_hurry_gives_no_patience_back(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet:
        fleet.supervisor.hurry(0.5, 0.0)
        fleet.supervisor.hurry(1.0, 5.0)
        assert (fleet.supervisor.patience.graceful, fleet.supervisor.patience.term) == (0.5, 0.0)


async def test_a_stop_at_boot_terminates(autojump_clock: MockClock) -> None:
    async with a_fleet(2, boots_for_ever, complete=False) as fleet:
        await fleet.until(lambda: len(fleet.troupe.actors) == 2)
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert all(actor.process.signals == [TERM] for actor in fleet.troupe.actors)
        assert fleet.hopeless is None


async def test_a_stop_while_a_process_is_being_started_ends_it_too(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet:
        spawn = fleet.troupe.spawn

        async def slow(birth: Birth) -> Born:
            await trio.sleep(1)
            return await spawn(birth)

        fleet.supervisor.spawn = slow
        fleet.troupe.script = boots_for_ever  # it will not see that there is nothing to do
        fleet.supervisor.scale(2)
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert fleet.troupe.living == []
        assert trio.current_time() - begun < 1.1, "it is told as soon as there is somebody to tell"


async def test_a_cancelled_supervisor_leaves_no_process(autojump_clock: MockClock) -> None:
    async with a_fleet(3, deaf=frozenset({TERM})) as fleet:
        pass
    assert [actor.process.to_group for actor in fleet.troupe.actors] == [[KILL]] * 3


# --- silence


async def beats(actor: Actor) -> Exit:
    """A worker with nothing to do but its heartbeat."""
    actor.ready()
    while True:
        await trio.sleep(1)
        actor.report()


async def test_who_is_silent_for_too_long_is_killed_with_its_stacks_and_replaced(autojump_clock: MockClock) -> None:
    async with a_fleet(2, beats, casting={1: falls_silent}, patience=Patience(hang=30)) as fleet:
        silent = fleet.troupe.actor(1)
        took = await fleet.until(lambda: silent.process.how is not None)
        assert took == pytest.approx(30 + STACKS_S, abs=0.5)
        assert (silent.process.signals, silent.process.to_group) == ([DUMP_SIGNAL], [KILL])
        await fleet.until(lambda: len(fleet.serving) == 2)
        await trio.sleep(100)
        assert ids(fleet) == [3, 2], "who beats stays"
        assert fleet.supervisor.aftermath.counts == {0: 1}
        assert fleet.supervisor.killed_while_stopping == 0, "it was no stop"


async def test_who_is_to_be_killed_gets_nothing_more(autojump_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, patience=Patience(hang=30)) as fleet:
        post = fleet.supervisor.wards[1].link.post
        await fleet.until(lambda: fleet.troupe.actor(1).process.signals == [DUMP_SIGNAL])
        assert fleet.troupe.actor(1).process.how is None, "it lives on for its stacks"
        assert not post.has_room()


async def test_without_a_hang_timeout_silence_is_nothing(autojump_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, patience=Patience(hang=0)) as fleet:
        await trio.sleep(1_000)
        assert ids(fleet) == [1]


async def test_nobody_is_killed_for_reports_that_the_master_has_not_read(mock_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, patience=Patience(hang=30)) as fleet:
        (actor,) = fleet.serving
        fleet.dispatching.cancel()  # nobody reads the line now
        await wait_all_tasks_blocked()
        for _ in range(5):
            mock_clock.jump(29)
            await wait_all_tasks_blocked()
            actor.report()
            mock_clock.jump(1.5)
            await wait_all_tasks_blocked()
        assert fleet.supervisor.wards[1].state is State.SERVING
        mock_clock.jump(30)
        await wait_all_tasks_blocked()
        assert fleet.supervisor.wards[1].state is State.KILLED


async def test_after_a_gap_of_its_own_the_master_blames_nobody(mock_clock: MockClock) -> None:
    async with a_fleet(2, falls_silent, patience=Patience(hang=30)) as fleet:
        mock_clock.jump(3600)  # stopped, or asleep
        await wait_all_tasks_blocked()
        assert len(fleet.serving) == 2
        mock_clock.jump(29)
        await wait_all_tasks_blocked()
        assert len(fleet.serving) == 2
        mock_clock.jump(1.5)
        await wait_all_tasks_blocked()
        assert not {1, 2} & set(ids(fleet))


async def test_a_gap_while_stopping_kills_nobody_early(mock_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, patience=Patience(graceful=30, hang=0)) as fleet:
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
async def test_who_breaks_the_rules_is_killed_and_replaced(words: bytes, autojump_clock: MockClock) -> None:
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
        assert fleet.hopeless is not None


async def test_who_asks_to_retire_is_replaced_first_and_then_drained(autojump_clock: MockClock) -> None:
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


async def test_who_asks_to_retire_and_dies_is_no_crash(autojump_clock: MockClock) -> None:
    async def slow(actor: Actor) -> Exit:
        await trio.sleep(5)
        return await serves(actor)

    async with a_fleet(2) as fleet:
        fleet.troupe.script = slow
        for _ in range(4):
            old = fleet.serving[1]
            old.say(wire.Retiring("leaks"))
            await trio.sleep(1)
            assert fleet.supervisor.wards[old.birth.id].leaving
            old.process.end(Exit(code=1))
            assert await replaced(fleet, old) < 5
        assert list(fleet.supervisor.aftermath.restarts.crashes) == []


async def test_all_asking_to_retire_at_once_leaves_nobody_unserved(autojump_clock: MockClock) -> None:
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
        fleet.supervisor.scale(1)
        await fleet.until(lambda: len(fleet.troupe.living) == 1)
    told = [r.getMessage() for r in caplog.records if "serving -> draining" in r.getMessage()]
    assert told == ["worker 1 (pid 10002): serving -> draining, scaled down"]
