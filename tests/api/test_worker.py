"""A worker in every state, as the embedding program sees it: workers are simulated, and the clock jumps."""

from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.api.worker import Worker
from rrmaster.events.bus import Subscription, WorkerGone
from rrmaster.events.events import (
    WorkerChanged,
    WorkerDisconnected,
    WorkerEvent,
    WorkerExited,
    WorkerForked,
    WorkerListening,
    WorkerOnline,
)
from rrmaster.protocol import wire
from rrmaster.rules.backoff import Exit
from rrmaster.rules.lifecycle import State
from rrmaster.supervision.health_check import HealthCheck
from tests.fakes import Actor, Fleet, a_fleet, boots_for_ever, falls_silent

DEAF = frozenset({signal.SIGTERM, signal.SIGKILL})


async def never_answered(stream: trio.SocketStream) -> bool:
    await trio.sleep_forever()
    return True


async def brought_to(state: State, fleet: Fleet, nursery: trio.Nursery) -> Worker:
    """Bring a second worker into this state.  It ends when the test says so."""
    supervisor = fleet.supervisor
    fleet.troupe.script = boots_for_ever if state is State.BOOTING else falls_silent
    if state is State.PROVING:
        supervisor.runner.health_check = HealthCheck(never_answered, 10.0, 2.0, 3, 1)
    supervisor.reload.scale(2)
    staying = state in (State.BOOTING, State.PROVING, State.SERVING)
    await fleet.until(lambda: len(fleet.troupe.actors) == 2)
    worker_record = supervisor.workers[2]
    await fleet.until(lambda: worker_record.state is (state if staying else State.SERVING))
    worker = Worker(worker_record, supervisor)
    if not staying:
        nursery.start_soon(worker.disconnect)
        if state is State.GONE:
            await wait_all_tasks_blocked()
            fleet.troupe.actor(2).process.end(Exit(code=0))
        await fleet.until(lambda: worker_record.state is state)
    return worker


async def told(events: Subscription, id_: int) -> list[type]:
    """The events of a worker so far, without its changes of state."""
    events.close()
    return [
        type(e) async for e in events if isinstance(e, WorkerEvent) and e.id == id_ and type(e) is not WorkerChanged
    ]


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
async def test_to_disconnect_is_safe_in_every_state_and_returns_at_the_end(
    state: State, autojump_clock: MockClock
) -> None:
    """Two calls at once, and a kill between them; there is one event, and a replacement comes."""
    async with a_fleet(1, deaf=DEAF, graceful_timeout=30.0) as fleet, trio.open_nursery() as nursery:
        async with fleet.supervisor.announcements.news.subscribe() as events:
            worker = await brought_to(state, fleet, nursery)
            returned: list[float] = []

            async def disconnect() -> None:
                await worker.disconnect()
                returned.append(trio.current_time())

            for _ in range(2):
                nursery.start_soon(disconnect)
                worker.kill()
            await wait_all_tasks_blocked()
            assert len(returned) == (2 if state is State.GONE else 0)
            assert (worker.is_connected(), worker.exited_after_disconnect) == (False, True)
            assert worker.is_dead() == (state is State.GONE)
            fleet.troupe.actor(2).process.end(Exit(code=0))
            await fleet.until(lambda: len(returned) == 2)
            worker.kill(signal.SIGKILL)
            await worker.disconnect()
            with pytest.raises(WorkerGone):
                await worker.send("hello?")
            assert (worker.is_dead(), worker.exited_after_disconnect, worker.state) == (True, True, "gone")
            await fleet.until(lambda: len(fleet.troupe.living) == 2)
            life = await told(events, 2)
            assert [kind for kind in life if kind is not WorkerListening] == [
                WorkerForked, WorkerOnline, WorkerDisconnected, WorkerExited,
            ]  # fmt: skip
            assert (WorkerListening in life) == (state not in (State.BOOTING, State.PROVING))
        assert fleet.slots[0] == 0, "the other one does not notice"
        nursery.cancel_scope.cancel()


async def dies_at_boot(actor: Actor) -> Exit:
    await trio.sleep(1)
    return Exit(code=1)


async def test_a_worker_that_dies_of_its_new_code_was_not_asked_to_go(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet, fleet.supervisor.announcements.news.subscribe() as events:
        fleet.troupe.script = dies_at_boot
        fleet.supervisor.reload.reload()
        await fleet.until(lambda: 2 in fleet.supervisor.workers)
        worker_record = fleet.supervisor.workers[2]
        await worker_record.gone.wait()
        events.close()
        (told_of_it,) = [event async for event in events if isinstance(event, WorkerExited)]
        asked = Worker(worker_record, fleet.supervisor).exited_after_disconnect
        assert (told_of_it.exited_after_disconnect, asked) == (False, False)


async def test_health_shows_a_blocked_worker_while_it_is_blocked_and_for_a_while_after(mock_clock: MockClock) -> None:
    async with a_fleet(1, script=falls_silent) as fleet:
        await fleet.until(lambda: fleet.supervisor.workers[1].state is State.SERVING)
        worker, actor = Worker(fleet.supervisor.workers[1], fleet.supervisor), fleet.troupe.actor(1)
        actor.report()
        health = worker.health  # the report waits in the line, and is read now
        assert health is not None
        assert (health.silent, health.lag) == (0.0, 0.0)
        mock_clock.jump(3.0)
        blocked = worker.health
        assert blocked is not None
        assert blocked.lag == pytest.approx(2.5), "a report was due 0.5 s after the last one"
        actor.say(wire.Report(0, lag_us=2_500_000))
        for _ in range(3):
            actor.report()
            health = worker.health
            assert health is not None
            assert health.lag == pytest.approx(2.5), "the reports that follow do not hide it"
