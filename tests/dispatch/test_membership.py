"""Workers and the listeners they serve: real listeners and real lines, and the test plays the workers.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

import socket

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.addresses import Tcp
from rrmaster.dispatch.load import NEWCOMER_S
from rrmaster.dispatch.policies import LeastLoaded, RoundRobin
from rrmaster.dispatch.recall import RETRY_EMPTY
from rrmaster.protocol import wire
from rrmaster.protocol.uplink import decode_up
from tests.fakes import House, Player, a_house, eventually, opened

LATE = 0.005

LOOPBACK = Tcp("127.0.0.1", 0)
TWO = (LOOPBACK, LOOPBACK)


def worker_serving(house: House, listeners: tuple[int, ...] | None) -> Player:
    """A worker that serves these."""
    player = house.add_worker(enlist=False)
    assert house.dispatcher.hear_ready(player.link, wire.Ready(0, listeners=listeners))
    house.dispatcher.enlist(player.link)
    return player


def seen(player: Player) -> list[int]:
    """The listeners of all that it took."""
    player.take()
    return [handoff.listener for handoff in player.seen]


async def test_a_worker_gets_the_connections_of_its_own_listeners_only() -> None:
    async with a_house(0, binds=TWO) as house:
        first, second, both = worker_serving(house, (0,)), worker_serving(house, (1,)), worker_serving(house, None)
        for _ in range(6):
            await house.calls(1, listener=0)
            await house.calls(1, listener=1)
        assert set(seen(first)) == {0}
        both.take()
        assert set(seen(second)) == {1}
        assert [len(player.held) for player in (first, second, both)] == [4, 4, 4], (
            "load counts, whichever listener it comes from"
        )
        await house.settle()


async def test_clients_of_a_listener_that_no_worker_serves_wait_there_and_delay_no_others() -> None:
    async with a_house(0, binds=TWO) as house:
        first = worker_serving(house, (0,))
        await house.calls(5, listener=1)
        await house.calls(3, listener=0)
        assert seen(first) == [0, 0, 0]
        assert house.dispatcher.acceptors[1].queued() == 5
        second = worker_serving(house, (1,))
        await eventually(lambda: second.waiting == 5)
        await house.settle()


async def test_a_full_listener_does_not_stop_the_other() -> None:
    async with a_house(0, window=2, binds=TWO) as house:
        first, second = worker_serving(house, (0,)), worker_serving(house, (1,))
        await house.calls(5, listener=0)
        await house.calls(2, listener=1)
        assert (first.waiting, second.waiting) == (2, 2)
        assert [acceptor.queued() for acceptor in house.dispatcher.acceptors] == [3, 0]
        await house.settle()


async def test_a_worker_may_serve_nothing_yet() -> None:
    async with a_house(0) as house:
        idle = worker_serving(house, ())
        await house.calls(2)
        assert idle.waiting == 0
        assert house.dispatcher.acceptors[0].queued() == 2
        worker_serving(house, None)
        await house.settle()


@pytest.mark.parametrize("number", [2, -1, 65535])
async def test_to_serve_a_listener_that_does_not_exist_is_a_breach(number: int) -> None:
    async with a_house(1, binds=TWO) as house:
        liar = house.add_worker(enlist=False)
        assert not house.dispatcher.hear_ready(liar.link, wire.Ready(0, listeners=(0, number)))
        assert house.breaches == {liar.load.id: f"it would serve listener {number}, and there is none"}


async def test_a_listener_opened_later_is_served_by_workers_that_serve_all() -> None:
    async with a_house(0) as house:
        named, everything = worker_serving(house, (0,)), worker_serving(house, None)
        (listener,) = opened(LOOPBACK)
        house.dispatcher.open(listener)
        await house.calls(4, listener=1)
        assert (seen(named), seen(everything)) == ([], [1] * 4)
        await house.settle()


async def test_a_dismissed_worker_leaves_all_its_listeners() -> None:
    async with a_house(2, binds=TWO) as house:
        gone, left = house.players
        await house.dispatcher.dismiss(gone.link)
        for acceptor in (0, 1):
            await house.calls(3, acceptor)
        assert (gone.waiting, left.waiting) == (0, 6)
        assert [list(acceptor.policy.members) for acceptor in house.dispatcher.acceptors] == [[left.load.id]] * 2
        await house.settle()


async def test_a_listener_opened_later_has_a_new_number_and_the_current_policy() -> None:
    async with a_house(1, binds=TWO) as house:
        house.dispatcher.drain_listener(house.dispatcher.acceptors[0])
        await eventually(lambda: len(house.dispatcher.acceptors) == 1)
        house.dispatcher.set_policy(RoundRobin)
        (listener,) = opened(LOOPBACK)
        acceptor = house.dispatcher.open(listener)
        assert (acceptor.number, acceptor.policy.name) == (2, "round-robin")
        house.dispatcher.drain_listener(acceptor)
        await eventually(lambda: len(house.dispatcher.acceptors) == 1)
        (listener,) = opened(LOOPBACK)
        house.dispatcher.open(listener)
        await house.calls(1, listener=1)
        assert seen(house.players[0]) == [3], "no number is used again: a worker may serve only the old one"
        await house.settle()


async def test_a_late_workers_connections_go_only_to_workers_that_serve_their_listener(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE, binds=TWO) as house:
        late = worker_serving(house, None)
        await house.calls(1, listener=0)
        await house.calls(1, listener=1)
        await house.calls(1, listener=0)
        idle = worker_serving(house, (0,))
        house.recall.stall_detector.watch(late.load, mock_clock.current_time())
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: idle.waiting == 1)
        assert seen(idle) == [0]
        idle.answer()
        idle.report()
        for _ in range(20):
            mock_clock.jump(RETRY_EMPTY)
            await wait_all_tasks_blocked()
            await eventually(lambda: not late.link.recalling)
        assert late.waiting >= 2, "the next one is of a listener that no other worker serves"
        assert idle.waiting == 0
        late.take()
        late.report()
        await house.settle()


async def test_what_a_dismissed_worker_had_of_a_listener_it_alone_serves_stays_with_it() -> None:
    async with a_house(0, binds=TWO) as house:
        leaving = worker_serving(house, None)
        await house.calls(1, listener=0)
        await house.calls(2, listener=1)
        other = worker_serving(house, (0,))
        await house.dispatcher.dismiss(leaving.link)
        await wait_all_tasks_blocked()
        assert seen(other) == [0]
        assert seen(leaving) == [1, 1]
        assert leaving.hung_up
        await house.settle()


async def test_a_dead_workers_connections_wait_for_a_worker_that_serves_their_listener() -> None:
    async with a_house(0, binds=TWO) as house:
        dead = worker_serving(house, (1,))
        await house.calls(3, listener=1)
        other = worker_serving(house, (0,))
        assert house.remove(dead) == 0
        await house.calls(2, listener=0)
        assert seen(other) == [0, 0], "a dead worker's letterbox without a receiver stops no other listener"
        successor = worker_serving(house, (1,))
        await eventually(lambda: successor.waiting == 3)
        assert seen(successor) == [1, 1, 1]
        await house.settle()


async def test_what_came_through_a_listener_closed_since_is_still_answered() -> None:
    async with a_house(0, binds=TWO) as house:
        dead = worker_serving(house, None)
        await house.calls(3, listener=1)
        house.dispatcher.drain_listener(house.dispatcher.acceptors[1])
        await eventually(lambda: len(house.dispatcher.acceptors) == 1)
        assert house.remove(dead) == 0
        successor = worker_serving(house, None)
        await eventually(lambda: successor.waiting == 3)
        assert successor.load.connections == 3
        await house.settle()


async def test_what_came_through_a_listener_closed_since_goes_to_the_least_loaded_that_serves_it() -> None:
    async with a_house(0, binds=TWO) as house:
        dead = worker_serving(house, None)
        await house.calls(2, listener=1)
        house.dispatcher.drain_listener(house.dispatcher.acceptors[1])
        await eventually(lambda: len(house.dispatcher.acceptors) == 1)
        stranger = worker_serving(house, (0,))
        house.remove(dead)
        await wait_all_tasks_blocked()
        assert stranger.waiting == 0, "it does not serve that listener"
        busy, idle = house.add_worker(enlist=False), house.add_worker(enlist=False)
        busy.load.handed = 5
        house.dispatcher.enlist(busy.link)
        house.dispatcher.enlist(idle.link)
        await eventually(lambda: idle.waiting == 2)
        assert (busy.waiting, stranger.waiting) == (0, 0)
        busy.load.handed = 0
        await house.settle()


async def test_what_one_line_refuses_goes_to_another_worker_of_the_same_listener() -> None:
    async with a_house(0, binds=TWO) as house:
        broken, stranger = worker_serving(house, (1,)), worker_serving(house, (0,))
        broken.letterbox.line.shutdown(socket.SHUT_RD)
        await house.calls(1, listener=1)
        assert broken.link.breached
        assert stranger.waiting == 0
        heir = worker_serving(house, (1,))
        await eventually(lambda: heir.waiting == 1)
        await house.settle()


async def test_a_worker_that_closes_connections_of_one_listener_is_chosen_at_the_other() -> None:
    async with a_house(0, binds=TWO) as house:
        first, second = worker_serving(house, None), worker_serving(house, None)
        for _ in range(4):
            await house.calls(1, listener=0)
            await house.calls(1, listener=1)
        second.take(2)
        second.answer()
        second.report()
        await house.read_reports()
        await house.calls(1, listener=1)
        assert (first.load.connections, second.load.connections) == (4, 3)
        first.take()
        first.answer()
        first.report()
        await house.read_reports()
        await house.calls(3, listener=1)
        assert (first.load.connections, second.load.connections) == (3, 3)
        await house.settle()


async def test_a_policy_set_later_begins_without_newcomers() -> None:
    async with a_house(0) as house:
        busy, idle = worker_serving(house, None), worker_serving(house, None)
        busy.load.handed += 4
        house.dispatcher.set_policy(LeastLoaded)
        await house.calls(4)
        assert (busy.waiting, idle.waiting) == (0, 4)
        busy.load.handed -= 4
        await house.settle()


async def test_a_late_workers_connection_goes_to_the_one_idle_worker_that_serves_its_listener(
    mock_clock: MockClock,
) -> None:
    async with a_house(0, recall_after=LATE, binds=TWO) as house:
        late = worker_serving(house, (0, 1))
        await house.calls(1, listener=0)
        other, server = worker_serving(house, (1,)), worker_serving(house, (0,))
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: server.waiting == 1)
        assert other.waiting == 0
        late.take()
        late.report()
        await house.settle()


async def test_idle_workers_of_other_listeners_make_no_worker_late(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE, binds=TWO) as house:
        slow = worker_serving(house, (0,))
        await house.calls(1, listener=0)
        worker_serving(house, (1,))
        mock_clock.jump(LATE + 0.001)
        await wait_all_tasks_blocked()
        assert house.recall.suspensions == 0
        await house.calls(1, listener=0)
        assert slow.waiting == 2
        await house.settle()


async def test_a_newcomers_share_is_a_share_of_each_listener(mock_clock: MockClock) -> None:
    async with a_house(0, window=100, binds=TWO) as house:
        old = worker_serving(house, None)
        mock_clock.jump(NEWCOMER_S)
        new = worker_serving(house, None)
        other = worker_serving(house, (1,))
        await house.calls(10, listener=0)
        assert (old.waiting, new.waiting) == (5, 5)
        await house.calls(9, listener=1)
        assert other.waiting == 3, "a third of this listener's connections, though it has none of the other's"
        await house.settle()


async def test_another_policy_keeps_the_members_of_each_listener() -> None:
    async with a_house(0, binds=TWO) as house:
        first, second = worker_serving(house, (0,)), worker_serving(house, (1,))
        house.dispatcher.set_policy(RoundRobin)
        await house.calls(3, listener=0)
        await house.calls(2, listener=1)
        assert (seen(first), seen(second)) == ([0] * 3, [1] * 2)
        assert [acceptor.policy.name for acceptor in house.dispatcher.acceptors] == ["round-robin"] * 2
        await house.settle()


async def test_draining_closes_a_listener_that_no_worker_serves_at_once(mock_clock: MockClock) -> None:
    async with a_house(0, binds=TWO) as house:
        first = worker_serving(house, (0,))
        await house.calls(2, listener=0)
        address = house.dispatcher.acceptors[1].listener.socket.getsockname()
        await house.dispatcher.drain_listeners(10)
        assert house.dispatcher.acceptors == []
        assert mock_clock.current_time() < 1
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        assert seen(first) == [0, 0]
        await house.settle()


def test_the_listeners_a_worker_names_travel_in_its_ready() -> None:
    assert decode_up(wire.encode(wire.Ready(7, listeners=(0, 3)))) == wire.Ready(7, listeners=(0, 3))
