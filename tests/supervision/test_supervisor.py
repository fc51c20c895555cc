"""The fleet on a clock that jumps: workers are played by scripts, lines and dispatcher are real."""

from __future__ import annotations

import errno
import logging
import os
import signal

import pytest
import trio
from attrs import Factory, define, evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.processes.process import DUMP_SIGNAL, NoLongerWanted, NotStarted
from rrmaster.processes.spawner import StartedWorker
from rrmaster.processes.worker_environment import WorkerSpec
from rrmaster.rules.backoff import Exit
from rrmaster.supervision.lifecycle_runner import STACKS_S
from tests.fakes import (
    STEP,
    Actor,
    Script,
    Troupe,
    a_fleet,
    boots_for_ever,
    crashes,
    fails,
    falls_silent,
    pass_time,
    serves,
)
from tests.supervision.fleets import (
    KILL,
    TERM,
    fails_slowly,
    generations,
    ids,
    leaves_early,
    react,
    replaced,
)

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


async def test_a_worker_that_is_never_ready_is_asked_for_its_stacks_and_killed(autojump_clock: MockClock) -> None:
    async with a_fleet(2, casting={2: boots_for_ever}, ready_timeout=30.0, complete=False) as fleet:
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
        assert str(fleet.failure) == "ModuleNotFoundError: No module named 'shop'"
        assert len(fleet.troupe.actors) == 3, "each slot is tried once"
        assert fleet.troupe.living == []


@pytest.mark.parametrize(
    ("script", "words"),
    [(crashes, "exited with status 1"), (leaves_early, "it has disconnected before it served")],
)
async def test_a_start_that_fails_without_a_reason_says_how_it_failed(
    script: Script, words: str, autojump_clock: MockClock
) -> None:
    async with a_fleet(2, script, complete=False) as fleet:
        await fleet.over.wait()
        assert words in str(fleet.failure)
        assert len(fleet.troupe.actors) == 2, "each slot is tried once"


async def test_a_start_at_which_all_hang_says_so(autojump_clock: MockClock) -> None:
    async with a_fleet(2, boots_for_ever, ready_timeout=7.0, complete=False) as fleet:
        await fleet.over.wait()
        assert "7 s" in str(fleet.failure)


async def test_a_worker_that_cannot_be_forked_counts_like_one_that_cannot_start(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        spawn, before = fleet.troupe.spawn, [actor.spec.id for actor in fleet.serving]

        async def still(spec: WorkerSpec) -> StartedWorker:
            if spec.generation == 2:
                raise NotStarted("RuntimeError: bad code")
            return await spawn(spec)

        fleet.spawner.spawn = still
        rollout = fleet.supervisor.reload.begin().rollout
        await fleet.until(lambda: rollout.over)
        assert (rollout.status, rollout.reason) == (10, "RuntimeError: bad code")
        assert [actor.spec.id for actor in fleet.serving] == before
        await trio.sleep(60)
        assert [actor.spec.id for actor in fleet.serving] == before, "and no other worker is tried"


async def test_a_first_start_without_a_single_process_ends_with_the_applications_own_words(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def still(self: Troupe, spec: WorkerSpec) -> StartedWorker:
        raise NotStarted("RuntimeError: bad code")

    monkeypatch.setattr(Troupe, "spawn", still)
    async with a_fleet(2, complete=False) as fleet:
        await fleet.over.wait()
        assert str(fleet.failure) == "RuntimeError: bad code"


async def test_a_stop_while_a_worker_is_forked_warns_of_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_fleet(2) as fleet:
        templates_end = trio.Event()

        async def still(spec: WorkerSpec) -> StartedWorker:
            await templates_end.wait()
            raise NoLongerWanted("its generation was given up")

        fleet.spawner.spawn = still
        fleet.supervisor.reload.scale(3)
        await fleet.until(lambda: len(fleet.supervisor.workers) == 3)
        templates_end.set()
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_time_to_become_ready_begins_with_the_process(autojump_clock: MockClock) -> None:
    async def ready_late(actor: Actor) -> Exit:
        await trio.sleep(25)
        return await serves(actor)

    async with a_fleet(1, ready_timeout=30.0) as fleet:
        spawn = fleet.troupe.spawn

        async def after_a_template_in_vain(spec: WorkerSpec) -> StartedWorker:
            await trio.sleep(25)
            return await spawn(spec)

        fleet.spawner.spawn, fleet.troupe.script = after_a_template_in_vain, ready_late
        fleet.supervisor.reload.scale(2)
        await fleet.until(lambda: fleet.slots == [0, 1])
        assert fleet.troupe.actor(2).process.signals == []


async def test_an_old_worker_that_dies_in_a_reload_is_restored_while_its_code_is_kept(
    autojump_clock: MockClock,
) -> None:
    async with a_fleet(2) as fleet:
        fleet.configure(probation=1000.0, soak=1.0, reload_timeout=5000.0)
        fleet.code.restorable = {1}
        fleet.supervisor.reload.begin()
        await fleet.until(lambda: len(fleet.troupe.actors) == 4)
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: fleet.slots == [0, 1])
        assert [actor.spec.generation for actor in fleet.serving] == [1, 1]
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
        fleet.code.restorable = set()
        for actor in fleet.serving:
            actor.process.end(Exit(signal=KILL))
        await trio.sleep(200)
        assert fleet.slots == []
        assert fleet.supervisor._due() > trio.current_time() + 0.1, "and the master is at rest"
        assert len([a for a in fleet.troupe.living if a.spec.generation == 2]) == 2


@define(eq=False)
class Observer:
    """Starts workers, and records the outcome of each start."""

    troupe: Troupe
    outcomes: list[bool] = Factory(list)
    blamed: bool = False

    async def spawn(self, spec: WorkerSpec) -> StartedWorker:
        started = await self.troupe.spawn(spec)
        return evolve(started, report_start=self.outcome)

    def outcome(self, ready: bool) -> bool:
        self.outcomes.append(ready)
        return self.blamed


async def test_how_a_worker_was_started_is_judged_by_whether_it_became_ready(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        observer = Observer(fleet.troupe)
        fleet.spawner.spawn = observer.spawn

        async def next_one(script: Script, how: Exit | None = None) -> list[bool]:
            """The outcomes of a worker that boots and ends so, and of the one that is started after it."""
            id_ = max(ids(fleet)) + 1
            fleet.troupe.casting[id_] = script
            observer.outcomes.clear()
            fleet.serving[0].process.end(Exit(signal=KILL))
            if how is not None:
                await fleet.until(lambda: len(fleet.troupe.actors) == id_)
                fleet.troupe.actor(id_).process.end(how)
            await fleet.until(lambda: id_ + 1 in ids(fleet))
            return observer.outcomes

        assert await next_one(crashes) == [False, True]
        assert await next_one(fails_slowly) == [False, True]
        assert await next_one(boots_for_ever, Exit(signal=signal.SIGSEGV)) == [False, True]
        assert await next_one(boots_for_ever, Exit(signal=KILL)) == [True], "a kill from outside says nothing"
        fleet.configure(ready_timeout=3.0)
        assert await next_one(boots_for_ever) == [False, True]
        observer.outcomes.clear()
        ready = fleet.serving[0]
        ready.process.end(Exit(code=1))
        await replaced(fleet, ready)
        assert observer.outcomes == [True], "the outcome of a worker that was ready is already known"


async def test_a_worker_that_dies_of_how_it_was_started_has_not_crashed(autojump_clock: MockClock) -> None:
    async with a_fleet(2) as fleet:
        observer = Observer(fleet.troupe)
        fleet.spawner.spawn, fleet.troupe.script = observer.spawn, crashes
        fleet.serving[0].process.end(Exit(signal=KILL))
        await fleet.until(lambda: len(observer.outcomes) == 5)
        assert fleet.supervisor.crashes.backoff.streak == 5
        observer.blamed, fleet.troupe.script = True, serves
        await fleet.until(lambda: fleet.slots == [0, 1])
        assert fleet.supervisor.crashes.backoff.streak == 0, "and those before it have not, either"
        fleet.troupe.script = crashes
        fleet.serving[0].process.end(Exit(signal=KILL))
        assert await fleet.until(lambda: len(observer.outcomes) >= 10) < 0.1
        assert fleet.supervisor.crashes.backoff.streak == 0


async def test_a_start_without_processes_says_so(autojump_clock: MockClock) -> None:
    async with a_fleet(2, complete=False) as fleet:
        fleet.troupe.refuse = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        await fleet.over.wait()
        assert os.strerror(errno.EAGAIN) in str(fleet.failure)


async def test_a_slot_that_failed_at_first_is_tried_again_once_another_worker_serves(autojump_clock: MockClock) -> None:
    async def slow(actor: Actor) -> Exit:
        await trio.sleep(3)
        return await serves(actor)

    async with a_fleet(2, casting={1: fails("not yet"), 2: slow}, complete=False) as fleet:
        await fleet.supervisor.complete.wait()
        assert fleet.slots == [0, 1]
        assert fleet.failure is None


# --- stop


async def test_a_stop_lets_all_workers_finish(autojump_clock: MockClock) -> None:
    async with a_fleet(3) as fleet:
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert all(a.process.how == Exit(code=0) and not a.process.signals for a in fleet.troupe.actors)
        assert fleet.supervisor.killed_while_stopping == 0
        assert fleet.supervisor.workers == {}


async def test_a_worker_that_does_not_finish_is_terminated_at_the_graceful_timeout(autojump_clock: MockClock) -> None:
    async with a_fleet(2, falls_silent, graceful_timeout=30.0) as fleet:
        begun = trio.current_time()
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert trio.current_time() - begun == pytest.approx(30, abs=0.1)
        assert all(actor.process.signals == [TERM] for actor in fleet.troupe.actors)
        assert fleet.supervisor.killed_while_stopping == 0


async def test_a_worker_that_ignores_sigterm_too_is_killed(autojump_clock: MockClock) -> None:
    deaf = frozenset({TERM})
    async with a_fleet(2, falls_silent, graceful_timeout=30.0, deaf=deaf) as fleet:
        begun = trio.current_time()
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert trio.current_time() - begun == pytest.approx(35, abs=0.1)
        assert all(a.process.signals == [TERM] and a.process.to_group == [KILL] for a in fleet.troupe.actors)
        assert fleet.supervisor.killed_while_stopping == 2


async def test_a_kill_that_has_no_effect_is_said_again_each_second(mock_clock: MockClock) -> None:
    async with a_fleet(1, falls_silent, hang_timeout=30.0, deaf=frozenset({TERM, KILL})) as fleet:
        process = fleet.troupe.actor(1).process
        while not process.signals:  # for its stacks
            await pass_time(mock_clock, STEP)
        mock_clock.jump(STACKS_S)
        for times in range(1, 6):
            await react()
            assert process.to_group == [KILL] * times
            mock_clock.jump(1)
        process.end(Exit(signal=KILL))
        await react()


async def test_a_hurry_shortens_what_patience_there_is(autojump_clock: MockClock) -> None:
    async with a_fleet(2, falls_silent, graceful_timeout=300.0, deaf=frozenset({TERM})) as fleet:
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
        assert (fleet.supervisor.runner.patience.graceful, fleet.supervisor.runner.patience.term) == (0.5, 0.0)


async def test_a_stop_at_boot_terminates(autojump_clock: MockClock) -> None:
    async with a_fleet(2, boots_for_ever, complete=False) as fleet:
        await fleet.until(lambda: len(fleet.troupe.actors) == 2)
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert all(actor.process.signals == [TERM] for actor in fleet.troupe.actors)
        assert fleet.failure is None


async def test_a_stop_while_a_process_is_being_started_ends_it_too(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet:
        spawn = fleet.troupe.spawn

        async def slow(spec: WorkerSpec) -> StartedWorker:
            await trio.sleep(1)
            return await spawn(spec)

        fleet.spawner.spawn = slow
        fleet.troupe.script = boots_for_ever  # it will not see that there is nothing to do
        fleet.supervisor.reload.scale(2)
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        fleet.supervisor.stop()
        await fleet.over.wait()
        assert fleet.troupe.living == []
        assert trio.current_time() - begun < 1.1, "it is signalled as soon as there is a process to signal"


async def test_a_cancelled_supervisor_leaves_no_process(autojump_clock: MockClock) -> None:
    async with a_fleet(3, deaf=frozenset({TERM})) as fleet:
        pass
    assert [actor.process.to_group for actor in fleet.troupe.actors] == [[KILL]] * 3
