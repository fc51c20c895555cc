"""The loop: which worker gets a connection, and what happens while none has room.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

import os
import random
import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.addresses import Tcp
from rrmaster.dispatch.membership import FULL_POLL
from rrmaster.dispatch.policies import RoundRobin
from tests.dispatch.workers import LATE, hand_to_first, waiting
from tests.fakes import DEADLINE, House, a_house, eventually

# --- which worker gets it


async def test_the_least_loaded_worker_gets_the_next_connection() -> None:
    async with a_house(4) as house:
        await house.calls_one_by_one(20)
        assert [len(player.held) for player in house.players] == [5, 5, 5, 5]
        house.players[2].answer()
        house.players[2].report()
        await house.calls_one_by_one(5)
        assert [len(player.held) for player in house.players] == [5, 5, 5, 5]
        await house.settle()


async def test_a_burst_is_spread_evenly() -> None:
    async with a_house(4, window=100) as house:
        await house.calls(200)
        assert waiting(house) == [50, 50, 50, 50]
        await house.settle()


async def test_round_robin_gives_to_each_in_turn() -> None:
    async with a_house(3, policy=RoundRobin) as house:
        order = []
        for _ in range(9):
            await house.calls()
            order.append(next(i for i, player in enumerate(house.players) if player.take()))
        assert order == order[:3] * 3
        assert sorted(order[:3]) == [0, 1, 2]
        await house.settle()


async def test_a_handoff_names_its_listener_and_its_family() -> None:
    async with a_house(1, binds=(Tcp("127.0.0.1", 0), Tcp("127.0.0.1", 0))) as house:
        await house.calls(1, listener=0)
        await house.calls(1, listener=1)
        (player,) = house.players
        player.take()
        assert [(each.listener, each.family) for each in player.seen] == [(0, socket.AF_INET), (1, socket.AF_INET)]
        assert all(each.accepted_at for each in player.seen)
        await house.settle()


async def test_the_master_keeps_nothing_of_a_connection() -> None:
    async with a_house(2, window=100) as house:
        before = len(os.listdir("/proc/self/fd"))
        await house.calls(60)
        assert len(os.listdir("/proc/self/fd")) == before + 60  # the clients' own ends
        await house.settle()


# --- no worker has room


@pytest.mark.parametrize("window", [2, 3, 8, 100])
async def test_what_no_worker_has_room_for_stays_in_the_backlog(window: int) -> None:
    async with a_house(2, window=window) as house:
        await house.calls(2 * window + 5)
        assert house.dispatcher.accepted == 2 * window
        assert house.dispatcher.acceptors[0].queued() == 5
        await house.settle()


@pytest.mark.parametrize("window", [1, 2, 3, 8, 100])
async def test_acceptance_resumes_when_a_letterbox_is_emptied_and_no_report_is_needed(window: int) -> None:
    async with a_house(1, window=window) as house:
        (player,) = house.players
        await house.calls(window + 5)
        for _ in range(window + 5):
            await eventually(lambda: player.waiting > 0)
            player.take(1)
        assert player.waiting == 0
        await house.settle()


async def test_half_a_letterbox_taken_wakes_the_dispatcher() -> None:
    async with a_house(1, window=8) as house:
        (player,) = house.players
        await house.calls(12)
        player.take(4)
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 12
        await house.settle()


async def test_acceptance_resumes_when_a_report_makes_room() -> None:
    async with a_house(1, window=100, limit=3) as house:
        (player,) = house.players
        await house.calls(5)
        assert house.dispatcher.accepted == 3
        player.take()
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 3, "a connection taken is not closed yet"
        player.answer()
        player.report()
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 5
        await house.settle()


async def test_acceptance_resumes_when_the_report_was_read_by_the_supervisor() -> None:
    async with a_house(1, limit=3) as house:
        (player,) = house.players
        await house.calls(4)
        player.take()
        player.answer()
        player.report()
        house.dispatcher.read_reports()  # the loop finds the line empty: the report was read here
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 4
        await house.settle()


async def test_acceptance_begins_with_the_first_worker() -> None:
    async with a_house(0) as house:
        await house.calls(3)
        assert house.dispatcher.accepted == 0
        house.add_worker()
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 3
        await house.settle()


async def test_an_idle_dispatcher_with_full_letterboxes_does_not_spin(mock_clock: MockClock) -> None:
    async with a_house(2, window=1) as house:
        await house.calls(4)  # `calls` returns only when all tasks rest
        mock_clock.jump(FULL_POLL)
        await wait_all_tasks_blocked()
        assert waiting(house) == [1, 1]
        await house.settle()


async def test_a_worker_that_says_it_takes_nothing_is_given_nothing() -> None:
    async with a_house(2) as house:
        shy, _ = house.players
        shy.report(taking=False)
        await house.calls(4)
        assert waiting(house) == [0, 4]
        shy.report(taking=True)
        await house.calls(4)
        assert waiting(house) == [4, 4]
        await house.settle()


# --- dismissed workers


async def test_a_dismissed_worker_gets_no_connection_and_then_the_end_of_stream() -> None:
    async with a_house(2) as house:
        leaving, other = house.players
        await house.calls_one_by_one(2)
        await house.dispatcher.dismiss(leaving.link)
        await house.calls(4)
        assert other.waiting == 4
        leaving.take()
        assert leaving.hung_up
        leaving.answer()
        leaving.report()
        await wait_all_tasks_blocked()
        assert house.breaches == {}
        assert house.remove(leaving) == 0
        await house.settle()


async def test_what_a_dismissed_worker_had_not_taken_goes_to_others_as_far_as_they_have_room() -> None:
    async with a_house(2, window=4) as house:
        leaving, other = house.players
        await house.calls(8)
        other.take(3)
        with trio.fail_after(DEADLINE):
            await house.dispatcher.dismiss(leaving.link)
        await eventually(lambda: house.recall.from_late == 3)
        assert other.waiting == 4
        assert leaving.take() == 1, "what no other worker had room for stays with it"
        leaving.answer()
        leaving.report()
        await house.settle()


async def test_a_worker_that_dies_before_its_dismissal_has_begun_harms_no_other() -> None:
    async with a_house(2) as house:
        dead = await hand_to_first(house, 2)
        house.nursery.start_soon(house.dispatcher.dismiss, dead.link)
        house.remove(dead)  # in the same turn of trio's loop: the dismissal finds the line closed
        await wait_all_tasks_blocked()
        await house.settle()


# --- all at once


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_every_connection_is_answered_once(seed: int, mock_clock: MockClock) -> None:
    dice = random.Random(seed)
    lost = 0
    async with a_house(4, window=3, recall_after=LATE) as house:
        for _ in range(150):
            living = [p for p in house.players if p.load.id in house.dispatcher.links]
            player = dice.choice(living)
            match dice.choice(["call", "call", "call", "serve", "serve", "take", "time", "time", "die", "dismiss"]):
                case "call":
                    house.call(dice.randrange(1, 4))
                case "serve":
                    player.take(dice.randrange(1, 4))
                    player.answer()
                    player.report()
                case "take":
                    player.take(1)
                case "time":
                    mock_clock.jump(dice.choice([0.001, 0.006, 0.011]))
                case "die" if dice.random() < 0.3:
                    lost += len(player.held)  # the truth; what the dispatcher counts is tested elsewhere
                    house.remove(player)
                    house.add_worker()
                case "dismiss" if dice.random() < 0.3:
                    await house.dispatcher.dismiss(player.link)
                    player.take()
                    player.answer()
                    player.report()
                    house.remove(player)
                    house.add_worker()
            if dice.random() < 0.7:
                await wait_all_tasks_blocked()
            assert house.breaches == {}
        await settle_in_time(house, lost, mock_clock)


async def settle_in_time(house: House, lost: int, clock: MockClock) -> None:
    """As `House.settle`, for a clock that stands still: retries and polls need the time to advance."""
    for _ in range(200):
        clock.jump(0.003)
        for player in house.players:
            if player.load.id in house.dispatcher.links:
                player.take()
                player.answer()
                player.report()
        await wait_all_tasks_blocked()
    await house.settle(lost)
