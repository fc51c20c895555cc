"""Who serves which listener: real listeners and real lines, the test plays the workers.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

import socket

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.parsing import Tcp
from rrmaster.dispatch.listeners import open_listeners
from rrmaster.dispatch.load import NEWCOMER_S, LeastLoaded, RoundRobin
from rrmaster.dispatch.recall import AGAIN
from rrmaster.protocol import wire
from rrmaster.protocol.uplink import decode_up
from tests.fakes import House, Player, a_house, eventually

LATE = 0.005

LOOPBACK = Tcp("127.0.0.1", 0)
TWO = (LOOPBACK, LOOPBACK)


def hire(house: House, listeners: tuple[int, ...] | None) -> Player:
    """A worker that serves these."""
    player = house.hire(enlist=False)
    assert house.dispatcher.declared(player.link, listeners)
    house.dispatcher.enlist(player.link)
    return player


def seen(player: Player) -> list[int]:
    """The listeners of all that it took."""
    player.take()
    return [handoff.listener for handoff in player.seen]


async def test_a_worker_gets_the_connections_of_its_own_listeners_alone() -> None:
    async with a_house(0, binds=TWO) as house:
        first, second, both = hire(house, (0,)), hire(house, (1,)), hire(house, None)
        for _ in range(6):
            await house.calls(1, door=0)
            await house.calls(1, door=1)
        assert set(seen(first)) == {0}
        both.take()
        assert set(seen(second)) == {1}
        assert [len(player.held) for player in (first, second, both)] == [4, 4, 4], "load is load, wherever from"
        await house.settle()


async def test_clients_of_a_listener_that_nobody_serves_wait_there_and_keep_nobody_waiting() -> None:
    async with a_house(0, binds=TWO) as house:
        first = hire(house, (0,))
        await house.calls(5, door=1)
        await house.calls(3, door=0)
        assert seen(first) == [0, 0, 0]
        assert house.dispatcher.doors[1].queued() == 5
        second = hire(house, (1,))
        await eventually(lambda: second.waiting == 5)
        await house.settle()


async def test_a_full_listener_does_not_stop_the_other() -> None:
    async with a_house(0, window=2, binds=TWO) as house:
        first, second = hire(house, (0,)), hire(house, (1,))
        await house.calls(5, door=0)
        await house.calls(2, door=1)
        assert (first.waiting, second.waiting) == (2, 2)
        assert [door.queued() for door in house.dispatcher.doors] == [3, 0]
        await house.settle()


async def test_a_worker_may_serve_nothing_yet() -> None:
    async with a_house(0) as house:
        idle = hire(house, ())
        await house.calls(2)
        assert idle.waiting == 0
        assert house.dispatcher.doors[0].queued() == 2
        hire(house, None)
        await house.settle()


@pytest.mark.parametrize("number", [2, -1, 65535])
async def test_to_serve_a_listener_that_does_not_exist_is_a_breach(number: int) -> None:
    async with a_house(1, binds=TWO) as house:
        liar = house.hire(enlist=False)
        assert not house.dispatcher.declared(liar.link, (0, number))
        assert house.breaches == {liar.post.id: f"it would serve listener {number}, and there is none"}


async def test_a_listener_opened_later_is_served_by_those_who_serve_all() -> None:
    async with a_house(0) as house:
        named, everything = hire(house, (0,)), hire(house, None)
        (listener,) = open_listeners(LOOPBACK)
        house.dispatcher.open(listener)
        await house.calls(4, door=1)
        assert (seen(named), seen(everything)) == ([], [1] * 4)
        await house.settle()


async def test_who_leaves_leaves_all_its_listeners() -> None:
    async with a_house(2, binds=TWO) as house:
        gone, left = house.players
        await house.dispatcher.dismiss(gone.link)
        for door in (0, 1):
            await house.calls(3, door)
        assert (gone.waiting, left.waiting) == (0, 6)
        assert [list(door.policy.members) for door in house.dispatcher.doors] == [[left.post.id]] * 2
        await house.settle()


async def test_a_listener_opened_later_has_a_number_and_the_policy_of_its_own_time() -> None:
    async with a_house(1, binds=TWO) as house:
        house.dispatcher.shut(house.dispatcher.doors[0])
        await eventually(lambda: len(house.dispatcher.doors) == 1)
        house.dispatcher.adopt(RoundRobin)
        (listener,) = open_listeners(LOOPBACK)
        door = house.dispatcher.open(listener)
        assert (door.number, door.policy.name) == (2, "round-robin")
        house.dispatcher.shut(door)
        await eventually(lambda: len(house.dispatcher.doors) == 1)
        (listener,) = open_listeners(LOOPBACK)
        house.dispatcher.open(listener)
        await house.calls(1, door=1)
        assert seen(house.players[0]) == [3], "no number is used again: a worker may serve only the old one"
        await house.settle()


async def test_the_late_ones_connections_go_only_to_who_serves_their_listener(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE, binds=TWO) as house:
        late = hire(house, None)
        await house.calls(1, door=0)
        await house.calls(1, door=1)
        await house.calls(1, door=0)
        idle = hire(house, (0,))
        house.recall.lateness.watch(late.post, mock_clock.current_time())
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: idle.waiting == 1)
        assert seen(idle) == [0]
        idle.answer()
        idle.report()
        for _ in range(20):
            mock_clock.jump(AGAIN)
            await wait_all_tasks_blocked()
            await eventually(lambda: not late.link.recalling)
        assert late.waiting >= 2, "the next one is another listener's, whom nobody else serves"
        assert idle.waiting == 0
        late.take()
        late.report()
        await house.settle()


async def test_what_the_dismissed_had_of_a_listener_it_alone_serves_stays_with_it() -> None:
    async with a_house(0, binds=TWO) as house:
        leaving = hire(house, None)
        await house.calls(1, door=0)
        await house.calls(2, door=1)
        other = hire(house, (0,))
        await house.dispatcher.dismiss(leaving.link)
        await wait_all_tasks_blocked()
        assert seen(other) == [0]
        assert seen(leaving) == [1, 1]
        assert leaving.hung_up
        await house.settle()


async def test_a_dead_workers_connections_wait_for_somebody_who_serves_their_listener() -> None:
    async with a_house(0, binds=TWO) as house:
        dead = hire(house, (1,))
        await house.calls(3, door=1)
        other = hire(house, (0,))
        assert house.bury(dead) == 0
        await house.calls(2, door=0)
        assert seen(other) == [0, 0], "a grave with nobody to inherit it stops no other listener"
        successor = hire(house, (1,))
        await eventually(lambda: successor.waiting == 3)
        assert seen(successor) == [1, 1, 1]
        await house.settle()


async def test_what_came_through_a_listener_closed_since_is_still_answered() -> None:
    async with a_house(0, binds=TWO) as house:
        dead = hire(house, None)
        await house.calls(3, door=1)
        house.dispatcher.shut(house.dispatcher.doors[1])
        await eventually(lambda: len(house.dispatcher.doors) == 1)
        assert house.bury(dead) == 0
        successor = hire(house, None)
        await eventually(lambda: successor.waiting == 3)
        assert successor.post.load == 3
        await house.settle()


async def test_what_came_through_a_listener_closed_since_goes_to_who_serves_it_and_has_least() -> None:
    async with a_house(0, binds=TWO) as house:
        dead = hire(house, None)
        await house.calls(2, door=1)
        house.dispatcher.shut(house.dispatcher.doors[1])
        await eventually(lambda: len(house.dispatcher.doors) == 1)
        stranger = hire(house, (0,))
        house.bury(dead)
        await wait_all_tasks_blocked()
        assert stranger.waiting == 0, "it does not serve that listener"
        busy, idle = house.hire(enlist=False), house.hire(enlist=False)
        busy.post.handed = 5
        house.dispatcher.enlist(busy.link)
        house.dispatcher.enlist(idle.link)
        await eventually(lambda: idle.waiting == 2)
        assert (busy.waiting, stranger.waiting) == (0, 0)
        busy.post.handed = 0
        await house.settle()


async def test_what_one_line_refuses_goes_to_another_of_those_who_serve_its_listener() -> None:
    async with a_house(0, binds=TWO) as house:
        broken, stranger = hire(house, (1,)), hire(house, (0,))
        broken.letterbox.line.shutdown(socket.SHUT_RD)
        await house.calls(1, door=1)
        assert broken.link.breached
        assert stranger.waiting == 0
        heir = hire(house, (1,))
        await eventually(lambda: heir.waiting == 1)
        await house.settle()


async def test_whoever_closes_connections_of_one_listener_is_chosen_at_the_other() -> None:
    async with a_house(0, binds=TWO) as house:
        first, second = hire(house, None), hire(house, None)
        for _ in range(4):
            await house.calls(1, door=0)
            await house.calls(1, door=1)
        second.take(2)
        second.answer()
        second.report()
        await house.listen()
        await house.calls(1, door=1)
        assert (first.post.load, second.post.load) == (4, 3)
        first.take()
        first.answer()
        first.report()
        await house.listen()
        await house.calls(3, door=1)
        assert (first.post.load, second.post.load) == (3, 3)
        await house.settle()


async def test_a_policy_adopted_later_knows_no_newcomers() -> None:
    async with a_house(0) as house:
        busy, idle = hire(house, None), hire(house, None)
        busy.post.handed += 4
        house.dispatcher.adopt(LeastLoaded)
        await house.calls(4)
        assert (busy.waiting, idle.waiting) == (0, 4)
        busy.post.handed -= 4
        await house.settle()


async def test_a_late_ones_connection_goes_to_the_one_of_several_who_serves_its_listener(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE, binds=TWO) as house:
        late = hire(house, (0, 1))
        await house.calls(1, door=0)
        other, server = hire(house, (1,)), hire(house, (0,))
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: server.waiting == 1)
        assert other.waiting == 0
        late.take()
        late.report()
        await house.settle()


async def test_nobody_is_late_for_the_sake_of_those_who_serve_other_listeners(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE, binds=TWO) as house:
        slow = hire(house, (0,))
        await house.calls(1, door=0)
        hire(house, (1,))
        mock_clock.jump(LATE + 0.001)
        await wait_all_tasks_blocked()
        assert house.recall.suspensions == 0
        await house.calls(1, door=0)
        assert slow.waiting == 2
        await house.settle()


async def test_a_newcomers_share_is_a_share_of_each_listener(mock_clock: MockClock) -> None:
    async with a_house(0, window=100, binds=TWO) as house:
        old = hire(house, None)
        mock_clock.jump(NEWCOMER_S)
        new = hire(house, None)
        other = hire(house, (1,))
        await house.calls(10, door=0)
        assert (old.waiting, new.waiting) == (5, 5)
        await house.calls(9, door=1)
        assert other.waiting == 3, "a third of this listener's, though it has nothing of the other's"
        await house.settle()


async def test_another_policy_keeps_who_serves_what() -> None:
    async with a_house(0, binds=TWO) as house:
        first, second = hire(house, (0,)), hire(house, (1,))
        house.dispatcher.adopt(RoundRobin)
        await house.calls(3, door=0)
        await house.calls(2, door=1)
        assert (seen(first), seen(second)) == ([0] * 3, [1] * 2)
        assert [door.policy.name for door in house.dispatcher.doors] == ["round-robin"] * 2
        await house.settle()


async def test_a_last_call_closes_a_listener_that_nobody_serves_at_once(mock_clock: MockClock) -> None:
    async with a_house(0, binds=TWO) as house:
        first = hire(house, (0,))
        await house.calls(2, door=0)
        address = house.dispatcher.doors[1].listener.socket.getsockname()
        await house.dispatcher.last_call(10)
        assert house.dispatcher.doors == []
        assert mock_clock.current_time() < 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        assert seen(first) == [0, 0]
        await house.settle()


def test_the_listeners_a_worker_names_travel_in_its_ready() -> None:
    assert decode_up(wire.encode(wire.Ready(7, listeners=(0, 3)))) == wire.Ready(7, listeners=(0, 3))
