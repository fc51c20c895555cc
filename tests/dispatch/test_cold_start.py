"""The clients of a server that starts are shared by its workers, although one of these is ready first."""

from __future__ import annotations

import random

import pytest
from hypothesis import given as law
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.dispatch.load import AT_ONCE, COLD_START_S, NEWCOMER_S, cold_until, fair_share
from rrmaster.dispatch.policies import policy_named
from tests.fakes import House, a_house

CLIENTS = 120
WINDOW = 250
STEP = COLD_START_S / 2
"""Seconds between two workers that become ready."""


def given(house: House) -> list[int]:
    """Connections that each worker has."""
    for player in house.players:
        player.take()
    return [len(player.held) for player in house.players]


MOST = {"least-loaded": 1.0, "round-robin": 1.3, "random-two": 1.3}
"""How much more than the mean a worker may get.  The last two do not give all to the emptiest once all serve."""


@pytest.mark.parametrize("name", MOST)
async def test_clients_that_wait_for_a_fleet_are_shared_by_all_of_its_workers(name, mock_clock: MockClock) -> None:
    async with a_house(0, WINDOW, lambda: policy_named(name, random.Random(1))) as house:
        house.dispatcher.expect(4)
        house.call(CLIENTS)
        for _ in range(4):
            house.add_worker()
            await wait_all_tasks_blocked()
            mock_clock.jump(STEP)
            await wait_all_tasks_blocked()
        assert sum(given(house)) == CLIENTS
        assert max(given(house)) / (CLIENTS / 4) <= MOST[name]
        await house.settle()


async def test_clients_that_come_back_while_a_fleet_starts_are_shared_too(mock_clock: MockClock) -> None:
    async with a_house(0, WINDOW) as house:
        house.dispatcher.expect(4)
        for coming in (60, 30, 20, 10):
            house.add_worker()
            await house.calls(coming)
            mock_clock.jump(STEP)
            await wait_all_tasks_blocked()
        assert given(house) == [CLIENTS // 4] * 4
        await house.settle()


async def test_a_light_load_waits_for_no_other_worker(mock_clock: MockClock) -> None:
    async with a_house(0, WINDOW) as house:
        house.dispatcher.expect(64)
        house.add_worker()
        await house.calls(AT_ONCE)
        assert given(house) == [AT_ONCE]
        await house.settle()


async def test_clients_wait_for_a_worker_that_does_not_come_no_longer_than_said(mock_clock: MockClock) -> None:
    async with a_house(0, WINDOW) as house:
        house.dispatcher.expect(4)
        house.call(CLIENTS)
        house.add_worker()
        await wait_all_tasks_blocked()
        assert given(house) == [CLIENTS // 4]
        mock_clock.jump(0.99 * COLD_START_S)
        await wait_all_tasks_blocked()
        assert given(house) == [CLIENTS // 4]
        mock_clock.jump(0.02 * COLD_START_S)
        await wait_all_tasks_blocked()
        assert given(house) == [CLIENTS]
        await house.settle()


async def test_a_fleet_of_the_size_that_is_wanted_keeps_no_client_waiting(mock_clock: MockClock) -> None:
    async with a_house(0, WINDOW) as house:
        house.dispatcher.expect(1)
        house.call(CLIENTS)
        house.add_worker()
        await wait_all_tasks_blocked()
        assert given(house) == [CLIENTS]
        house.dispatcher.expect(4)  # it is scaled up: what serves has served before
        house.add_worker()
        await house.calls(CLIENTS)
        assert sum(given(house)) == 2 * CLIENTS
        await house.settle()


async def test_connections_that_end_make_room_for_those_that_wait(mock_clock: MockClock) -> None:
    async with a_house(0, WINDOW) as house:
        house.dispatcher.expect(4)
        first = house.add_worker()
        await house.calls(CLIENTS)
        assert given(house) == [CLIENTS // 4]
        first.answer()
        first.report()
        await house.read_reports()
        assert given(house) == [CLIENTS // 4]
        await house.settle()


async def test_the_limit_that_is_configured_holds_in_a_cold_start_and_after_it(mock_clock: MockClock) -> None:
    async with a_house(0, WINDOW) as house:
        house.dispatcher.expect(4)
        house.call(CLIENTS)
        house.add_worker(limit=10)
        await wait_all_tasks_blocked()
        assert given(house) == [10]
        mock_clock.jump(COLD_START_S + NEWCOMER_S)
        await wait_all_tasks_blocked()
        assert given(house) == [10]
        await house.settle()


# --- the numbers


@law(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 128))
def test_the_shares_of_a_whole_fleet_hold_all_that_is_here_and_hardly_more(in_hand, waiting, size):
    share = fair_share(in_hand, waiting, size)
    assert share * size >= in_hand + waiting
    assert share == AT_ONCE or share * size < in_hand + waiting + size


def test_a_light_load_is_served_at_once_by_the_first_worker():
    assert fair_share(0, AT_ONCE, 64) == AT_ONCE


@law(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_the_next_worker_is_waited_for_a_second_and_all_of_them_two(pauses):
    first = now = 100.0
    until = cold_until(first, now)
    for pause in pauses:
        now += pause
        if now >= until:
            break
        until = cold_until(first, now)
        assert until <= now + COLD_START_S
    assert until <= first + 2 * COLD_START_S
