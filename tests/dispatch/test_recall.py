"""Recalls where the worker, the thread or the descriptor table stands in the way."""

from __future__ import annotations

import os
import threading

import trio
from attrs import Factory, define, evolve
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.dispatch.recall import RECALL_TIMEOUT
from rrmaster.dispatch.stall_detector import MAX_RECALLS
from rrmaster.protocol import wire
from rrmaster.protocol.line import Line
from tests.dispatch.workers import LATE
from tests.fakes import DEADLINE, House, Player, a_house, eventually, pass_time, run_alone


@define(eq=False)
class Held(Line):
    """A line whose recall waits for the test: before it reads, or with what it has read not yet delivered."""

    before: threading.Event = Factory(threading.Event)
    after: threading.Event = Factory(threading.Event)
    begun: threading.Event = Factory(threading.Event)
    has_read: threading.Event = Factory(threading.Event)
    looks: int = 0

    def oldest(self) -> wire.Down | None:
        self.looks += 1
        return super().oldest()

    def recall(self) -> tuple[wire.Handoff, int] | None:
        self.begun.set()
        assert self.before.wait(DEADLINE)
        found = super().recall()
        self.has_read.set()
        assert self.after.wait(DEADLINE)
        return found


async def one_late(house: House, count: int) -> tuple[Player, Held]:
    """A late worker on a line that the test holds, and an idle one beside it."""
    late = house.add_worker(kind=Held)
    await house.calls(count)
    house.add_worker()
    line = late.line
    assert isinstance(line, Held)
    return late, line


async def test_a_worker_that_keeps_the_kernels_lock_is_a_breach_after_a_second(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 2)
        mock_clock.jump(LATE + 0.001)
        await eventually(line.begun.is_set)
        await pass_time(mock_clock, 0.75 * RECALL_TIMEOUT)
        assert house.breaches == {}
        await pass_time(mock_clock, 0.5 * RECALL_TIMEOUT)
        assert "lock" in house.breaches[late.load.id]
        # The worker's death lets the thread return, and nothing that it reads is lost.
        line.after.set()
        house.remove(late)
        await wait_all_tasks_blocked()
        assert late.line.fileno() >= 0, "the letterbox is not touched while the thread may read it"
        line.before.set()
        await eventually(lambda: not late.link.recalling)
        await house.settle()
        assert late.line.fileno() == -1


async def test_what_a_thread_has_read_when_the_worker_dies_is_handed_over_once(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 3)
        line.before.set()
        mock_clock.jump(LATE + 0.001)
        await eventually(line.has_read.is_set)
        house.remove(late)
        await wait_all_tasks_blocked()
        line.after.set()
        await eventually(lambda: not late.link.recalling)
        assert (house.recall.from_late, house.recall.from_dead) == (1, 2)
        await house.settle()


async def test_what_a_thread_has_taken_back_is_not_counted_as_lost(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 3)
        line.before.set()
        mock_clock.jump(LATE + 0.001)
        await eventually(line.has_read.is_set)
        lost = house.remove(late)
        line.after.set()
        await eventually(lambda: not late.link.recalling)
        await house.settle()
        assert lost == 0


async def test_others_are_served_while_a_recall_stalls(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        _, line = await one_late(house, 1)
        mock_clock.jump(LATE + 0.001)
        await eventually(line.begun.is_set)
        await house.calls(4)
        assert house.players[1].waiting == 4
        line.after.set()
        line.before.set()
        await house.settle()


async def test_only_one_thread_reads_a_letterbox(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        _, line = await one_late(house, 4)
        mock_clock.jump(LATE + 0.001)
        await eventually(line.begun.is_set)
        for _ in range(20):
            await house.calls(1)
            house.players[1].take()
        assert line.looks == 1
        line.after.set()
        line.before.set()
        await house.settle()


async def test_a_connection_that_may_not_move_again_is_not_asked_for_at_each_turn(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 0)
        line.before.set()
        line.after.set()
        # As if it had been recalled from three other workers.
        house.call()
        accepted = house.dispatcher.acceptors[0].listener.socket._accept()[0]  # type: ignore[attr-defined]
        house.players[1].report(taking=False)
        await house.read_reports()
        house.dispatcher._redeliver(wire.Handoff(0, MAX_RECALLS), accepted)
        house.players[1].report(taking=True)
        await house.read_reports()
        mock_clock.jump(LATE + 0.001)
        await wait_all_tasks_blocked()
        for _ in range(30):
            await house.calls()
            house.players[1].take()
            house.players[1].answer()
            house.players[1].report()
            await eventually(lambda: not late.link.recalling)
        assert late.waiting >= 1
        assert line.looks <= 5, "a thread for each connection of the others, always with the same result"
        await house.settle()


async def test_a_connection_that_may_not_move_again_does_not_keep_the_master_busy() -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 0)
        line.before.set()
        line.after.set()
        house.call()
        accepted = house.dispatcher.acceptors[0].listener.socket._accept()[0]  # type: ignore[attr-defined]
        house.players[1].report(taking=False)
        await house.read_reports()
        house.dispatcher._redeliver(wire.Handoff(0, MAX_RECALLS), accepted)
        house.players[1].report(taking=True)
        await eventually(lambda: line.looks > 0)
        for _ in range(200):  # a master that goes on asking does so in each of these turns
            await trio.to_thread.run_sync(lambda: None)
            await trio.lowlevel.checkpoint()
        assert line.looks <= 5
        assert late.waiting >= 1
        await house.settle()


async def test_what_is_recalled_keeps_its_listener_family_and_probe(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        _, line = await one_late(house, 1)
        line.before.set()
        line.after.set()
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: house.recall.from_late == 1)
        heir = house.players[1]
        heir.take()
        (handoff,) = heir.seen
        assert evolve(handoff, accepted_at=0) == wire.Handoff(0, 1, False, 2)
        assert [player.load.connections for player in house.players] == [0, 1], "it counts for the worker that has it"
        await house.settle()


async def test_a_recall_for_a_dismissal_does_not_count_as_one_for_lateness() -> None:
    async with a_house(2) as house:
        leaving, other = house.players
        other.report(taking=False)
        await house.calls(2)
        other.report()
        await house.read_reports()
        await house.dispatcher.dismiss(leaving.link)
        await eventually(lambda: other.waiting == 2)
        other.take()
        assert [handoff.recalled for handoff in other.seen] == [0, 0]
        await house.settle()


def counted(house: House) -> int:
    """What the master counts in all letterboxes."""
    return sum(link.load.recount() for link in house.dispatcher.links.values())


async def test_what_lies_in_letterboxes_is_the_kernels_count() -> None:
    async with a_house(3) as house:
        await house.calls(7)
        assert counted(house) == 7
        house.players[0].take()
        assert counted(house) == house.in_letterboxes < 7
        await house.settle()


async def test_a_master_that_ends_closes_the_connections_it_cannot_hand_over() -> None:
    async with a_house(1) as house:
        await house.calls(3)
        house.remove(house.players[0])
        assert house.recall.dead
        clients, house.clients = house.clients, []
    for client in clients:
        with client:
            assert client.recv(1) == b""


async def test_what_a_thread_reads_after_the_master_has_ended_is_closed() -> None:
    class Over:
        def run_sync_soon(self, *_: object) -> None:
            raise trio.RunFinishedError

    async with a_house(1) as house:
        await house.calls(1)
        (late,) = house.players
        before = len(os.listdir("/proc/self/fd"))
        assert house.recall._read_back(late.link, 1, [late.link], True, Over()) == 0
        assert late.waiting == 0
        house.clients[0].settimeout(DEADLINE)
        assert house.clients[0].recv(10) == b"", "its client does not wait in vain"
        assert len(os.listdir("/proc/self/fd")) == before


def test_with_a_full_descriptor_table_nothing_is_recalled_from_live_workers_and_nothing_lost() -> None:
    run_alone("""
import trio
from tests import fakes
from trio.testing import MockClock, wait_all_tasks_blocked

async def main():
    async with fakes.a_house(1, recall_after=0.005) as house:
        await house.calls(4)
        house.add_worker()
        late = house.players[0]
        await trio.to_thread.run_sync(lambda: None)  # so that the thread exists, and the descriptors it needs are open
        relieve = fakes.fill_the_table()
        clock.jump(0.006)
        await wait_all_tasks_blocked()
        await fakes.eventually(lambda: not late.link.recalling)
        assert house.recall.from_late == 0 and late.load.recount() == 4
        relieve()
        clock.jump(0.2)
        await fakes.eventually(lambda: house.recall.from_late >= 1)
        await house.settle()

clock = MockClock()
trio.run(main, clock=clock)
""")
