"""Late workers and suspects among real clients: what is recalled from them, and what they are still given.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.dispatch.stall_detector import MAX_RECALLS, STUCK
from rrmaster.protocol.wire import REPORT_AFTER
from tests.dispatch.workers import LATE, hand_to_first, waiting
from tests.fakes import House, Player, a_house, eventually

# --- late workers


async def test_a_late_workers_connections_are_recalled_to_the_idle(mock_clock: MockClock) -> None:
    async with a_house(3, recall_after=LATE) as house:
        late = await hand_to_first(house, 4)
        mock_clock.jump(LATE + 0.001)
        # One for each of the two idle workers.  They have room for more, but it would only wait there.
        await eventually(lambda: house.recall.from_late == 2)
        assert [p.waiting for p in house.players[1:]] == [1, 1]
        assert late.waiting == 2 + 1, "two connections and the nudge"
        for player in house.players[1:]:
            player.take()
            assert player.seen[0].recalled == 1
        await house.settle()


async def test_a_worker_that_has_taken_something_is_not_late(mock_clock: MockClock) -> None:
    async with a_house(2, recall_after=LATE) as house:
        player = await hand_to_first(house, 4)
        for _ in range(4):
            player.take(1)
            mock_clock.jump(LATE + 0.001)
            await wait_all_tasks_blocked()
        assert (house.recall.suspensions, house.recall.from_late) == (0, 0)
        await house.settle()


async def test_with_healthy_workers_nothing_is_recalled(mock_clock: MockClock) -> None:
    async with a_house(4, recall_after=LATE) as house:
        for _ in range(100):
            await house.calls(2)
            mock_clock.jump(LATE * 0.8)  # slow, but not late
            for player in house.players:
                player.take()
                player.answer()
                player.report()
            await house.read_reports()
        assert (house.recall.suspensions, house.recall.from_late, house.breaches) == (0, 0, {})
        await house.settle()


async def test_a_late_worker_gets_nothing_until_it_reports(mock_clock: MockClock) -> None:
    async with a_house(2, recall_after=LATE) as house:
        late = await hand_to_first(house)
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: house.recall.from_late == 1)
        house.players[1].take()
        await house.calls(3)
        house.players[1].take()
        assert late.waiting == 1, "a nudge, and no connection"
        assert late.take() == 0
        assert late.asides == 1
        late.report()
        await house.calls(3)
        assert late.waiting == 3, "it has fewer, and serves again"
        await house.settle()


async def test_nothing_is_recalled_without_a_receiver(mock_clock: MockClock) -> None:
    async with a_house(3, recall_after=LATE) as house:
        await house.calls(6)
        for _ in range(STUCK + 2):
            mock_clock.jump(LATE + 0.001)
            await wait_all_tasks_blocked()
        assert house.recall.suspensions == 3, "each is stuck, and there is no other worker"
        assert house.recall.from_late == 0
        await house.settle()


async def test_a_single_late_worker_keeps_what_it_has(mock_clock: MockClock) -> None:
    async with a_house(1, recall_after=LATE) as house:
        await house.calls(3)
        mock_clock.jump(1.0)
        await wait_all_tasks_blocked()
        assert house.recall.from_late == 0
        await house.settle()


async def test_a_connection_is_taken_back_for_lateness_three_times_at_most(mock_clock: MockClock) -> None:
    async with a_house(MAX_RECALLS + 3, recall_after=LATE) as house:
        await house.calls(1)
        for times in range(1, MAX_RECALLS + 1):
            mock_clock.jump(LATE + 0.001)
            await eventually(lambda times=times: house.recall.from_late == times)  # type: ignore[misc]
        for _ in range(STUCK + 2):
            mock_clock.jump(LATE + 0.001)
            await wait_all_tasks_blocked()
            await eventually(lambda: not any(p.link.recalling for p in house.players))
        assert house.recall.from_late == MAX_RECALLS
        assert house.recall.suspensions == MAX_RECALLS + 1
        for player in house.players:
            player.take()
        assert [h.recalled for p in house.players for h in p.seen] == [MAX_RECALLS]
        await house.settle()


async def test_after_a_pause_of_its_own_the_master_finds_no_worker_late(mock_clock: MockClock) -> None:
    async with a_house(2, recall_after=LATE) as house:
        await hand_to_first(house, 2)
        mock_clock.jump(30.0)
        await wait_all_tasks_blocked()
        assert house.recall.suspensions == 0
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: house.recall.from_late == 1)
        await house.settle()


async def test_one_idle_worker_is_given_the_connections_of_one_late_worker_only(mock_clock: MockClock) -> None:
    async with a_house(3, window=1, recall_after=LATE) as house:
        idle = house.players[2]
        idle.report(taking=False)
        await house.calls(2)
        idle.report(taking=True)
        await house.read_reports()
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: idle.waiting == 1)
        await eventually(lambda: not any(p.link.recalling for p in house.players))
        # The other one stays where it is: no worker could be given it, and the master holds no connection.
        assert house.recall.from_late == 1
        assert not house.dispatcher.delivery.undelivered
        await house.settle()


async def test_a_nudge_that_the_recall_swallowed_hides_no_connection(mock_clock: MockClock) -> None:
    async with a_house(2, recall_after=LATE) as house:
        late, other = house.players
        other.report(taking=False)
        await house.calls(1)
        for _ in range(STUCK):  # late, with no worker to recall to; then stuck: nudged
            mock_clock.jump(LATE + 0.001)
            await wait_all_tasks_blocked()
        assert late.load.asides_sent == 1
        assert late.take(1) == 1
        late.report()  # without reading the nudge, which still lies in its letterbox
        await house.calls(1)
        other.report(taking=True)
        await house.read_reports()
        mock_clock.jump(LATE + 0.001)  # late again: what is read back first is the nudge
        await eventually(lambda: house.recall.from_late == 1)
        other.take()
        late.report()
        other.report(taking=False)
        await house.calls(1)
        await wait_all_tasks_blocked()
        assert late.load.recount() == 1
        assert late.waiting == 1 + late.load.asides_unread
        await house.settle()


async def test_the_count_of_nudges_stays_right_through_many_recalls(mock_clock: MockClock) -> None:
    async with a_house(2, recall_after=LATE) as house:
        for _ in range(20):
            await house.calls(3)
            mock_clock.jump(LATE + 0.001)
            await wait_all_tasks_blocked()
            await eventually(lambda: not any(p.link.recalling for p in house.players))
            for player in house.players:
                player.take()
                player.answer()
                player.report()
            await house.read_reports()
            assert [p.load.recount() for p in house.players] == waiting(house)
        assert house.breaches == {}
        await house.settle()


# --- suspects: they took a connection and have not reported since


async def falls_silent(house: House, clock: MockClock) -> Player:
    """A first worker that took a connection and has not reported since, and a second one beside it."""
    silent = house.add_worker()
    await house.calls()
    silent.take()
    house.add_worker()
    clock.jump(LATE + 0.0001)
    await wait_all_tasks_blocked()
    clock.jump(REPORT_AFTER)
    await wait_all_tasks_blocked()
    assert house.recall.stall_detector.suspects == {silent.load}
    return silent


async def test_a_worker_that_took_one_and_has_not_reported_since_comes_after_the_others(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        silent = await falls_silent(house, mock_clock)
        other = house.players[1]
        await house.calls_one_by_one(2)
        assert (len(silent.held), len(other.held)) == (1, 2), "though it has more"
        silent.report()
        await house.calls()
        assert silent.waiting == 1, "it has reported"
        assert house.recall.suspensions == 0
        await house.settle()


async def test_while_many_workers_are_suspect_few_connections_are_put_before_the_others(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        silent = await falls_silent(house, mock_clock)
        other = house.players[1]
        await house.calls(12)
        assert (silent.waiting, other.waiting) == (1, 2)
        other.take(1)
        await wait_all_tasks_blocked()
        assert other.waiting == 2, "the kernel has said that it has taken one"
        late_comer = house.add_worker()
        await wait_all_tasks_blocked()
        assert late_comer.waiting == 2
        assert house.dispatcher.accepted < 13, "the others wait in the backlog"
        silent.take()
        silent.report()
        await house.read_reports()
        assert house.recall.stall_detector.suspects == set()
        assert house.dispatcher.accepted == 13, "as usual"
        await house.settle()


async def test_letterboxes_are_of_full_length_again_when_the_suspect_has_died(mock_clock: MockClock) -> None:
    async with a_house(0, recall_after=LATE) as house:
        silent = await falls_silent(house, mock_clock)
        await house.calls(6)
        house.remove(silent)
        await house.read_reports()
        assert house.players[1].waiting == 6
        await house.settle(lost=1)


async def test_once_letterboxes_need_not_be_short_a_worker_with_room_is_found_behind_a_full_one() -> None:
    async with a_house(3) as house:
        full, roomy, paused = house.players
        full.report(taking=False)
        paused.report(taking=False)
        await house.read_reports()
        await house.calls(3)
        roomy.take()
        await house.calls(6)  # more than half: the kernel says nothing when there may be more
        roomy.report(taking=False)
        full.report()
        await house.read_reports()
        await house.calls(8)
        roomy.report()
        await house.read_reports()
        house.recall.stall_detector.suspects.update([full.load, paused.load])
        await house.read_reports()
        await house.calls()
        assert (full.waiting, roomy.waiting) == (8, 6), (
            "no worker is given the last one: both have more than the short window"
        )
        house.recall.stall_detector.suspects.clear()
        await house.read_reports()
        assert (full.waiting, roomy.waiting) == (8, 7)
        await house.settle()
