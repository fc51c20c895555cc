"""A worker as the program that owns it sees it, in every state of its life: workers are played, the clock jumps."""

from __future__ import annotations

import signal

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.api import Worker
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
from rrmaster.rules.backoff import Exit
from rrmaster.rules.lifecycle import State
from tests.fakes import Actor, Fleet, a_fleet, boots_for_ever, falls_silent, patience_of

DEAF = frozenset({signal.SIGTERM, signal.SIGKILL})


async def never_answered(stream: trio.SocketStream) -> bool:
    await trio.sleep_forever()
    return True


async def brought_to(state: State, fleet: Fleet, nursery: trio.Nursery) -> Worker:
    """A second worker, in this state.  It ends when the test says so."""
    supervisor = fleet.supervisor
    fleet.troupe.script = boots_for_ever if state is State.BOOTING else falls_silent
    supervisor.question = never_answered if state is State.PROVING else None
    supervisor.scale(2)
    staying = state in (State.BOOTING, State.PROVING, State.SERVING)
    await fleet.until(lambda: len(fleet.troupe.actors) == 2)
    ward = supervisor.wards[2]
    await fleet.until(lambda: ward.state is (state if staying else State.SERVING))
    worker = Worker(ward, supervisor)
    if not staying:
        nursery.start_soon(worker.disconnect)
        if state is State.GONE:
            await wait_all_tasks_blocked()
            fleet.troupe.actor(2).process.end(Exit(code=0))
        await fleet.until(lambda: ward.state is state)
    return worker


async def told(events: Subscription, id_: int) -> list[type]:
    """What was told of a worker so far, its changes of state aside."""
    events.end()
    return [
        type(e) async for e in events if isinstance(e, WorkerEvent) and e.id == id_ and type(e) is not WorkerChanged
    ]


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
async def test_to_disconnect_is_safe_in_every_state_and_returns_at_the_end(
    state: State, autojump_clock: MockClock
) -> None:
    """Twice at once, and killed beside; it is told once, and a replacement comes."""
    patience = patience_of(graceful=30, term=5, hang=0)
    async with a_fleet(1, deaf=DEAF, patience=patience) as fleet, trio.open_nursery() as nursery:
        async with fleet.supervisor.chronicle.news.subscribe() as events:
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


async def test_one_that_dies_of_its_own_new_code_was_not_asked_to_go(autojump_clock: MockClock) -> None:
    async with a_fleet(1) as fleet, fleet.supervisor.chronicle.news.subscribe() as events:
        fleet.troupe.script = dies_at_boot
        fleet.supervisor.reload()
        await fleet.until(lambda: 2 in fleet.supervisor.wards)
        ward = fleet.supervisor.wards[2]
        await ward.gone.wait()
        events.end()
        (told_of_it,) = [event async for event in events if isinstance(event, WorkerExited)]
        asked = Worker(ward, fleet.supervisor).exited_after_disconnect
        assert (told_of_it.exited_after_disconnect, asked) == (False, False)
