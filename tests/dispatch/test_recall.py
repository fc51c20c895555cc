"""How a connection comes back when the worker, the thread or the table stands in the way."""

from __future__ import annotations

import os
import threading

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.dispatch.recall import STALL
from rrmaster.dispatch.stall_detector import MAX_RECALLS
from rrmaster.protocol import wire
from rrmaster.protocol.line import Line
from rrmaster.protocol.wire import REPORT_AFTER
from tests.fakes import DEADLINE, House, Player, a_house, eventually, run_alone

LATE = 0.005


@define(eq=False)
class Held(Line):
    """A line whose recall waits for the test: before it reads, or with what it has read in its hands."""

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
    late = house.hire(kind=Held)
    await house.calls(count)
    house.hire()
    line = late.line
    assert isinstance(line, Held)
    return late, line


async def test_a_worker_that_keeps_the_kernels_lock_is_a_breach_after_a_second(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 2)
        mock_clock.jump(LATE + 0.001)
        await eventually(line.begun.is_set)
        mock_clock.jump(STALL - 0.01)
        await wait_all_tasks_blocked()
        assert house.breaches == {}
        mock_clock.jump(0.02)
        await wait_all_tasks_blocked()
        assert "lock" in house.breaches[late.post.id]
        # Its death sets the thread free, and nothing that it reads is lost.
        line.after.set()
        house.bury(late)
        await wait_all_tasks_blocked()
        assert late.line.fileno() >= 0, "the letterbox is not touched while the thread may read it"
        line.before.set()
        await eventually(lambda: not late.link.recalling)
        await house.settle()
        assert late.line.fileno() == -1


async def test_what_a_thread_has_in_its_hands_when_the_worker_dies_is_given_once(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 3)
        line.before.set()
        mock_clock.jump(LATE + 0.001)
        await eventually(line.has_read.is_set)
        house.bury(late)
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
        lost = house.bury(late)
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


async def test_a_connection_that_may_not_move_any_more_is_not_asked_for_at_each_turn(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 0)
        line.before.set()
        line.after.set()
        # As if it had come from three others, all of them stuck.
        house.call()
        accepted = house.dispatcher.doors[0].listener.socket._accept()[0]  # type: ignore[attr-defined]
        house.players[1].report(taking=False)
        await house.listen()
        house.dispatcher._give_back(wire.Handoff(0, MAX_RECALLS), accepted)
        house.players[1].report(taking=True)
        await house.listen()
        mock_clock.jump(LATE + 0.001)
        await wait_all_tasks_blocked()
        for _ in range(30):
            await house.calls()
            house.players[1].take()
            house.players[1].answer()
            house.players[1].report()
            await eventually(lambda: not late.link.recalling)
        assert late.waiting >= 1
        assert line.looks <= 5, "a thread for each connection of the others, and always the same answer"
        await house.settle()


async def test_a_connection_that_may_not_move_any_more_leaves_the_master_at_rest() -> None:
    async with a_house(0, recall_after=LATE) as house:
        late, line = await one_late(house, 0)
        line.before.set()
        line.after.set()
        house.call()
        accepted = house.dispatcher.doors[0].listener.socket._accept()[0]  # type: ignore[attr-defined]
        house.players[1].report(taking=False)
        await house.listen()
        house.dispatcher._give_back(wire.Handoff(0, MAX_RECALLS), accepted)
        house.players[1].report(taking=True)
        await eventually(lambda: line.looks > 0)
        for _ in range(200):  # whoever goes on asking does it in each of these turns
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
        assert heir.seen == [wire.Handoff(0, 1, False, 2)]
        assert [player.post.load for player in house.players] == [0, 1], "it counts for whoever has it"
        await house.settle()


async def test_to_be_recalled_in_a_dismissal_is_not_to_be_late() -> None:
    async with a_house(2) as house:
        leaving, other = house.players
        other.report(taking=False)
        await house.calls(2)
        other.report()
        await house.listen()
        await house.dispatcher.dismiss(leaving.link)
        await eventually(lambda: other.waiting == 2)
        other.take()
        assert [handoff.recalled for handoff in other.seen] == [0, 0]
        await house.settle()


def counted(house: House) -> int:
    """What the master knows of all letterboxes."""
    return sum(link.post.recount() for link in house.dispatcher.links.values())


async def test_what_lies_in_letterboxes_is_the_kernels_count() -> None:
    async with a_house(3) as house:
        await house.calls(7)
        assert counted(house) == 7
        house.players[0].take()
        assert counted(house) == house.in_letterboxes < 7
        await house.settle()


async def test_a_master_that_ends_tells_those_it_can_give_to_nobody() -> None:
    async with a_house(1) as house:
        await house.calls(3)
        house.bury(house.players[0])
        assert house.recall.unrest
        clients, house.clients = house.clients, []
    for client in clients:
        with client:
            assert client.recv(1) == b""


async def test_what_a_thread_brings_when_the_master_is_over_is_closed() -> None:
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
        assert house.clients[0].recv(10) == b"", "its client is not left to wait"
        assert len(os.listdir("/proc/self/fd")) == before


def test_with_a_full_table_nothing_is_recalled_from_the_living_and_nothing_lost() -> None:
    run_alone("""
import trio
from tests import fakes
from trio.testing import MockClock, wait_all_tasks_blocked

async def main():
    async with fakes.a_house(1, recall_after=0.005) as house:
        await house.calls(4)
        house.hire()
        late = house.players[0]
        await trio.to_thread.run_sync(lambda: None)  # the thread, and what it needs, is there
        relieve = fakes.fill_the_table()
        clock.jump(0.006)
        await wait_all_tasks_blocked()
        await fakes.eventually(lambda: not late.link.recalling)
        assert house.recall.from_late == 0 and late.post.recount() == 4
        relieve()
        clock.jump(0.2)
        await fakes.eventually(lambda: house.recall.from_late >= 1)
        await house.settle()

clock = MockClock()
trio.run(main, clock=clock)
""")


def test_the_reserve_is_taken_again_after_it_was_needed() -> None:
    run_alone("""
import trio
from tests import fakes

async def main():
    async with fakes.a_house(2) as house:
        for _ in range(3):
            late, heir = house.players[-2:]
            heir.report(taking=False)
            await house.calls(3)
            heir.report()
            await house.listen()
            late.take(0)
            late.die()
            relieve = fakes.fill_the_table()
            house.dispatcher.bury(late.link)
            relieve()
            assert house.recall.from_dead and house.recall._reserve >= 0
            house.hire()
        await house.settle()

trio.run(main)
""")


@pytest.mark.parametrize("dead", [1, 3])
async def test_many_dead_letterboxes_are_emptied_in_the_order_of_their_deaths(dead: int) -> None:
    async with a_house(dead, window=4) as house:
        await house.calls(4 * dead)
        for player in list(house.players):
            house.bury(player)
        heir = house.hire()
        house.recall.exhume()
        assert heir.waiting == 4
        assert [link.post.id for link in house.recall._graves] == list(range(2, dead + 1)), "the first is empty"
        await house.settle()


# --- suspects: they took it, and have said nothing


async def falls_silent(house: House, clock: MockClock) -> Player:
    """A first worker that took a connection and has not been heard since, and a second one beside it."""
    silent = house.hire()
    await house.calls()
    silent.take()
    house.hire()
    clock.jump(LATE + 0.0001)
    await wait_all_tasks_blocked()
    clock.jump(REPORT_AFTER)
    await wait_all_tasks_blocked()
    assert house.recall.lateness.suspects == {silent.post}
    return silent


async def test_who_took_one_and_fell_silent_over_it_comes_after_the_others(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        silent = await falls_silent(house, mock_clock)
        other = house.players[1]
        await house.calls_one_by_one(2)
        assert (len(silent.held), len(other.held)) == (1, 2), "though it has more"
        silent.report()
        await house.calls()
        assert silent.waiting == 1, "it is heard again"
        assert house.recall.suspensions == 0
        await house.settle()


async def test_while_many_are_silent_little_is_put_before_those_who_are_not(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        silent = await falls_silent(house, mock_clock)
        other = house.players[1]
        await house.calls(12)
        assert (silent.waiting, other.waiting) == (1, 2)
        other.take(1)
        await wait_all_tasks_blocked()
        assert other.waiting == 2, "the kernel has said that it has taken one"
        late_comer = house.hire()
        await wait_all_tasks_blocked()
        assert late_comer.waiting == 2
        assert house.dispatcher.accepted < 13, "the others wait in the backlog"
        silent.take()
        silent.report()
        await house.listen()
        assert house.recall.lateness.suspects == set()
        assert house.dispatcher.accepted == 13, "as usual"
        await house.settle()


async def test_the_death_of_the_silent_ends_the_shortness(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        silent = await falls_silent(house, mock_clock)
        await house.calls(6)
        house.bury(silent)
        await house.listen()
        assert house.players[1].waiting == 6
        await house.settle(lost=1)


async def test_once_letterboxes_need_not_be_short_whoever_has_room_is_found_behind_one_who_has_none() -> None:
    async with a_house(3) as house:
        full, roomy, paused = house.players
        full.report(taking=False)
        paused.report(taking=False)
        await house.listen()
        await house.calls(3)
        roomy.take()
        await house.calls(6)  # more than half: the kernel says nothing when there may be more
        roomy.report(taking=False)
        full.report()
        await house.listen()
        await house.calls(8)
        roomy.report()
        await house.listen()
        house.recall.lateness.suspects.update([full.post, paused.post])
        await house.listen()
        await house.calls()
        assert (full.waiting, roomy.waiting) == (8, 6), (
            "nobody is given the last one: both have more than is put there now"
        )
        house.recall.lateness.suspects.clear()
        await house.listen()
        assert (full.waiting, roomy.waiting) == (8, 7)
        await house.settle()
