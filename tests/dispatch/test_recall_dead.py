"""Connections in the letterboxes of dead workers: each is given to another worker.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from trio.testing import wait_all_tasks_blocked

from rrmaster.dispatch.load import Peer
from rrmaster.dispatch.policies import Candidate, UserPolicy
from rrmaster.dispatch.stall_detector import MAX_RECALLS
from tests.dispatch.workers import Crowded, hand_to_first
from tests.fakes import a_house, eventually, run_alone

# --- dead workers


async def test_what_a_dead_worker_had_not_taken_is_given_to_others() -> None:
    async with a_house(3) as house:
        dead = await hand_to_first(house, 5)
        assert house.remove(dead) == 0
        assert house.recall.from_dead == 5
        await house.settle()


async def test_what_a_dead_worker_held_is_counted_as_lost() -> None:
    async with a_house(2) as house:
        dead = await hand_to_first(house, 5)
        dead.take(2)
        assert house.remove(dead) == 2
        assert house.recall.from_dead == 3
        await house.settle(lost=2)


async def test_the_reports_that_a_dead_worker_has_sent_are_read() -> None:
    async with a_house(2) as house:
        dead = await hand_to_first(house, 3)
        dead.take()
        dead.answer()
        dead.report()
        assert house.remove(dead) == 0, "it had closed all that it took"
        await house.settle()


async def test_a_dead_workers_letterbox_is_kept_until_others_have_room() -> None:
    async with a_house(2, window=4) as house:
        dead, other = house.players
        await house.calls(8)
        house.remove(dead)
        assert (other.waiting, house.recall.from_dead) == (4, 0)
        assert dead.waiting == 4
        other.take(2)
        await wait_all_tasks_blocked()
        assert (other.waiting, house.recall.from_dead) == (4, 2)
        await house.settle()
        assert dead.line.fileno() == -1, "an emptied letterbox is closed"


async def test_all_workers_dead_at_once_lose_nothing_that_they_had_not_taken() -> None:
    async with a_house(3) as house:
        await house.calls(24 + 3)
        for player in house.players:
            house.remove(player)
        await wait_all_tasks_blocked()
        for _ in range(3):
            house.add_worker()
        await wait_all_tasks_blocked()
        await house.settle()
        assert house.recall.from_dead == 24


async def test_connections_of_dead_workers_come_before_new_ones() -> None:
    async with a_house(1, window=4) as house:
        await house.calls(4)
        house.remove(house.players[0])
        await house.calls(4)
        heir = house.add_worker()
        house.recall.recall_dead()
        heir.take()
        assert house.recall.from_dead == 4
        await house.settle()


async def test_what_no_line_can_pass_just_now_stays_in_the_dead_workers_letterbox() -> None:
    async with a_house(1) as house:
        (dead,) = house.players
        await house.calls(3)
        heir = house.add_worker(kind=Crowded)
        house.remove(dead)
        await wait_all_tasks_blocked()
        assert dead.line.unclaimed() == 2, "one undelivered connection is enough"
        heir.line.full = False  # type: ignore[attr-defined]
        await eventually(lambda: heir.waiting == 3)
        await house.settle()


async def test_a_policy_is_given_the_peer_of_a_recalled_connection() -> None:
    peers = []

    def rule(candidates: Sequence[Candidate], peer: Peer) -> Candidate:
        peers.append(peer)
        return candidates[0]

    async with a_house(1, policy=lambda: UserPolicy(rule=rule, on_error=print)) as house:
        await house.calls(1)
        house.add_worker()
        house.remove(house.players[0])
        assert peers == [house.clients[0].getsockname()] * 2
        await house.settle()


async def test_connections_of_dead_workers_are_recalled_without_a_limit() -> None:
    async with a_house(1) as house:
        await house.calls(2)
        for _ in range(MAX_RECALLS + 3):
            heir = house.add_worker()
            house.remove(house.players[-2])
            assert heir.waiting == 2
        await house.settle()


def test_a_full_descriptor_table_loses_nothing_of_a_dead_workers_letterbox() -> None:
    run_alone("""
import trio
from tests import fakes
from trio.testing import wait_all_tasks_blocked

async def main():
    async with fakes.a_house(1) as house:
        await house.calls(6)
        dead = house.players[0]
        heir = house.add_worker()
        dead.die()
        relieve = fakes.fill_the_table()
        house.dispatcher.remove(dead.link)
        await wait_all_tasks_blocked()
        relieve()
        await house.settle()
        assert house.recall.from_dead == 6

trio.run(main)
""")


def test_a_descriptor_table_so_full_that_nothing_can_be_copied_only_delays_the_recall() -> None:
    run_alone("""
import os, trio
from tests import fakes
from trio.testing import wait_all_tasks_blocked

async def main():
    async with fakes.a_house(1) as house:
        await house.calls(6)
        dead = house.players[0]
        dead.die()
        os.close(house.recall._reserve)
        house.recall._reserve = -1
        relieve = fakes.fill_the_table()
        house.dispatcher.remove(dead.link)
        assert house.recall.from_dead == 0 and dead.waiting == 6
        relieve()
        house.add_worker()
        await house.settle()
        assert house.recall.from_dead == 6

trio.run(main)
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
            await house.read_reports()
            late.take(0)
            late.die()
            relieve = fakes.fill_the_table()
            house.dispatcher.remove(late.link)
            relieve()
            assert house.recall.from_dead and house.recall._reserve >= 0
            house.add_worker()
        await house.settle()

trio.run(main)
""")


@pytest.mark.parametrize("dead", [1, 3])
async def test_many_dead_letterboxes_are_emptied_in_the_order_of_their_deaths(dead: int) -> None:
    async with a_house(dead, window=4) as house:
        await house.calls(4 * dead)
        for player in list(house.players):
            house.remove(player)
        heir = house.add_worker()
        house.recall.recall_dead()
        assert heir.waiting == 4
        assert [link.load.id for link in house.recall.dead] == list(range(2, dead + 1)), "the first is empty"
        await house.settle()
