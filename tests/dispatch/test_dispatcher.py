"""The hot path among real clients, real listeners and real lines; the test plays the workers.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Callable, Sequence

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.parsing import Tcp, Unix
from rrmaster.dispatch.dispatcher import PEEP, RETRY
from rrmaster.dispatch.listeners import ACCEPT_PAUSE
from rrmaster.dispatch.load import NEWCOMER_S, Candidate, Peer, RoundRobin, UserPolicy
from rrmaster.dispatch.report_reader import REPORTS_PER_S
from rrmaster.dispatch.stall_detector import MAX_RECALLS, STUCK
from rrmaster.protocol import wire
from rrmaster.protocol.channel import _SO_PASSRIGHTS
from rrmaster.protocol.line import Line
from tests.fakes import DEADLINE, House, Player, a_house, eventually, run_alone

LATE = 0.005
"""Seconds, the master's own default."""


def waiting(house: House) -> list[int]:
    return [player.waiting for player in house.players]


# --- who gets it


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
        await house.calls(1, door=0)
        await house.calls(1, door=1)
        (player,) = house.players
        player.take()
        assert player.seen == [wire.Handoff(0, family=socket.AF_INET), wire.Handoff(1, family=socket.AF_INET)]
        await house.settle()


async def test_the_master_keeps_nothing_of_a_connection() -> None:
    async with a_house(2, window=100) as house:
        before = len(os.listdir("/proc/self/fd"))
        await house.calls(60)
        assert len(os.listdir("/proc/self/fd")) == before + 60  # the clients' own ends
        await house.settle()


# --- nobody has room


@pytest.mark.parametrize("window", [2, 3, 8, 100])
async def test_what_nobody_has_room_for_stays_in_the_backlog(window: int) -> None:
    async with a_house(2, window=window) as house:
        await house.calls(2 * window + 5)
        assert house.dispatcher.accepted == 2 * window
        assert house.dispatcher.doors[0].queued() == 5
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
        assert house.dispatcher.accepted == 3, "to take is not to close"
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
        house.dispatcher.catch_up()  # the report is gone from the line before the loop could see it
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 4
        await house.settle()


async def test_acceptance_begins_with_the_first_worker() -> None:
    async with a_house(0) as house:
        await house.calls(3)
        assert house.dispatcher.accepted == 0
        house.hire()
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 3
        await house.settle()


async def test_an_idle_dispatcher_with_full_letterboxes_does_not_spin(mock_clock: MockClock) -> None:
    async with a_house(2, window=1) as house:
        await house.calls(4)  # `calls` returns only when everybody rests
        mock_clock.jump(PEEP)
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


# --- accept fails


class Accept:
    """A door's accept that fails as often as it is told."""

    def __init__(self, house: House, *codes: int) -> None:
        self.door, self.codes, self.tries = house.dispatcher.doors[0], list(codes), 0
        self.real, self.door.accept = self.door.accept, self

    def __call__(self) -> tuple[int, object]:
        self.tries += 1
        if self.codes:
            raise OSError(self.codes[0], os.strerror(self.codes.pop(0)))
        return self.real()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_full_table_pauses_acceptance_and_is_said_once(
    code: int, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with a_house() as house:
        mock_clock.jump(10)
        accept = Accept(house, *[code] * 3)
        await house.calls(2)
        for tries in (1, 2, 3):
            assert (accept.tries, house.dispatcher.accepted) == (tries, 0)
            mock_clock.jump(ACCEPT_PAUSE / 2)
            await wait_all_tasks_blocked()
            assert accept.tries == tries, "it did not pause"
            mock_clock.jump(ACCEPT_PAUSE / 2 + 0.001)
            await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 2
        assert len([r for r in caplog.records if errno.errorcode[code] in r.getMessage()]) == 1
        await house.settle()


async def test_newly_arriving_connections_do_not_shorten_the_pause(mock_clock: MockClock) -> None:
    async with a_house() as house:
        accept = Accept(house, errno.EMFILE)
        await house.calls()
        await house.calls()
        assert accept.tries == 1
        mock_clock.jump(ACCEPT_PAUSE + 0.001)
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 2
        await house.settle()


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN])
async def test_a_connections_own_trouble_costs_the_next_one_nothing(code: int) -> None:
    async with a_house() as house:
        Accept(house, code, code)
        await house.calls(2)
        assert house.dispatcher.accepted == 2
        await house.settle()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_any_other_error_of_accept_rises() -> None:
    async def meet_it() -> None:
        async with a_house() as house:
            Accept(house, errno.ENOTSOCK)
            await house.calls()
            await trio.sleep(DEADLINE)

    with pytest.raises(ExceptionGroup) as caught:
        await meet_it()
    assert caught.group_contains(OSError, match=os.strerror(errno.ENOTSOCK))


# --- handing over fails


@define(eq=False)
class Reluctant(Line):
    """A line on which the kernel refuses to pass descriptors for a while."""

    refusals: list[int] = Factory(list)

    def hand_over(self, handoff: bytes, fd: int) -> None:
        if self.refusals:
            raise OSError(self.refusals[0], os.strerror(self.refusals.pop(0)))
        super().hand_over(handoff, fd)


@pytest.mark.parametrize("code", [errno.ETOOMANYREFS, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM])
async def test_a_line_that_cannot_pass_it_just_now_keeps_nobody_from_getting_it(code: int) -> None:
    async with a_house(0) as house:
        reluctant = house.hire(kind=Reluctant)
        other = house.hire()
        reluctant.line.refusals = [code] * 2  # type: ignore[attr-defined]
        await house.calls(1)
        assert [reluctant.waiting, other.waiting] == [0, 1]
        assert house.breaches == {}
        await house.settle()


async def test_a_connection_that_no_line_can_pass_is_kept_and_given_later(mock_clock: MockClock) -> None:
    async with a_house(0) as house:
        for _ in range(2):
            house.hire(kind=Reluctant).line.refusals = [errno.ETOOMANYREFS] * 2  # type: ignore[attr-defined]
        await house.calls(3)
        assert house.dispatcher.accepted == 1, "nothing is accepted while one waits in the master's hands"
        assert waiting(house) == [0, 0]
        # Each of the two is asked once for each try: the next fails too.
        for _ in range(2):
            mock_clock.jump(RETRY + 0.001)
            await wait_all_tasks_blocked()
        assert sum(waiting(house)) == 3
        assert house.breaches == {}
        await house.settle()


@define(eq=False)
class Crowded(Line):
    """A line whose buffer is full, whatever the count says, until it is drained; it says nothing of it."""

    full: bool = True

    def hand_over(self, handoff: bytes, fd: int) -> None:
        if self.full:
            raise BlockingIOError(errno.EAGAIN, "full")
        super().hand_over(handoff, fd)


async def test_a_kept_connection_is_closed_with_the_dispatcher() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with a_house(0) as house:
        house.hire(kind=Crowded)
        await house.calls(1)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_kept_connection_is_given_as_soon_as_its_only_worker_can_take_it(mock_clock: MockClock) -> None:
    async with a_house(0) as house:
        player = house.hire(kind=Crowded)
        await house.calls(2)
        player.line.full = False  # type: ignore[attr-defined]
        mock_clock.jump(RETRY + 0.001)
        await wait_all_tasks_blocked()
        assert player.waiting == 2
        await house.settle()


def refuse_descriptors(player: Player) -> None:
    try:
        player.letterbox.line.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        pytest.skip("this kernel has no SO_PASSRIGHTS")


def stop_reading(player: Player) -> None:
    player.letterbox.line.shutdown(socket.SHUT_RD)


@pytest.mark.parametrize("spoil", [refuse_descriptors, stop_reading])
async def test_a_line_that_refuses_connections_is_its_workers_breach_and_another_gets_them(
    spoil: Callable[[Player], None],
) -> None:
    async with a_house(2) as house:
        hostile, other = house.players
        spoil(hostile)
        await house.calls(4)
        assert list(house.breaches) == [hostile.post.id]
        assert other.waiting == 4
        house.bury(hostile)
        await house.settle()


async def test_a_connection_refused_by_the_only_worker_waits_for_the_next(mock_clock: MockClock) -> None:
    async with a_house(1) as house:
        stop_reading(house.players[0])
        await house.calls(3)
        assert list(house.breaches) == [1]
        house.bury(house.players[0])
        house.hire()
        mock_clock.jump(RETRY + 0.001)
        await wait_all_tasks_blocked()
        assert house.players[1].waiting == 3
        await house.settle()


# --- hostile words


def report(**counts: int) -> bytes:
    return wire.encode(wire.Report(**counts))  # type: ignore[arg-type]


HOSTILE = {
    "an empty message": b"",
    "one byte": b"x",
    "random bytes": random.Random(1).randbytes(300),
    "a report cut short": report(closed=0)[:20],
    "more than it was given": report(closed=1),
    "a count beyond all bounds": report(closed=2**64 - 1),
    "nudges nobody sent": report(closed=0, asides=7),
    "more than may be said": b"\x03" * (wire.MAX_UP + 500),
    "a version nobody speaks": wire.encode(wire.Ready(1, protocol=99)),
    "brackets without end": wire._frame(wire.FAILED, b"[" * 9000),
    "a reason that is none": wire._frame(wire.FAILED, b'{"reason": 3}'),
}


@pytest.mark.parametrize("words", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_words_are_a_breach_of_that_worker_alone(words: bytes) -> None:
    async with a_house(3) as house:
        hostile = house.players[1]
        hostile.letterbox.line.send(words)
        await house.listen()
        assert list(house.breaches) == [2]
        await house.calls(6)
        assert waiting(house) == [3, 0, 3]
        house.bury(hostile)
        await house.settle()


async def test_a_count_that_falls_is_a_breach() -> None:
    async with a_house(2) as house:
        await house.calls_one_by_one(4)
        liar = house.players[0]
        liar.answer()
        liar.report()
        await house.listen()
        assert house.breaches == {}
        liar.closed -= 1
        liar.report()
        liar.closed += 1
        await house.listen()
        assert list(house.breaches) == [1]
        house.bury(liar)
        await house.settle()


async def test_closing_what_was_never_taken_is_a_breach() -> None:
    async with a_house(2) as house:
        await house.calls(2)
        liar = house.players[0]
        liar.letterbox.send(wire.Report(closed=1))  # it lies in its letterbox still, and the kernel knows
        await house.listen()
        assert list(house.breaches) == [1]
        house.bury(liar)
        await house.settle()


async def test_a_closed_side_of_the_line_is_a_breach() -> None:
    async with a_house(2) as house:
        house.players[0].letterbox.line.shutdown(socket.SHUT_WR)
        await house.listen()
        assert list(house.breaches) == [1]
        house.bury(house.players[0])
        await house.calls(2)
        await house.settle()


async def test_a_message_of_the_future_is_no_breach() -> None:
    async with a_house(1) as house:
        house.players[0].letterbox.line.send(wire._frame(200, b"from a later version"))
        house.players[0].letterbox.line.send(wire._frame(wire.REPORT, bytes(60)))  # a longer report
        await house.calls(1)
        assert house.breaches == {}
        await house.settle()


async def test_a_flood_is_a_breach_and_nobody_else_waits_for_it(mock_clock: MockClock) -> None:
    async with a_house(2) as house:
        loud = house.players[0]
        sent = 0
        while not house.breaches and sent < 20 * REPORTS_PER_S:
            while loud.letterbox.send(wire.Report(0)):
                sent += 1
            await house.listen()
        assert REPORTS_PER_S <= sent < 2 * REPORTS_PER_S
        await house.calls(3)
        assert waiting(house) == [0, 3]
        house.bury(loud)
        await house.settle()


async def test_five_hundred_reports_a_second_are_no_flood(mock_clock: MockClock) -> None:
    async with a_house(1) as house:
        for _ in range(500):
            for _ in range(10):
                house.players[0].report()
            mock_clock.jump(0.020)
            await house.listen()
        assert house.breaches == {}


async def test_who_has_breached_is_not_heard_any_more() -> None:
    async with a_house(2) as house:
        house.players[0].letterbox.line.send(b"")
        await house.listen()
        for _ in range(50):
            house.players[0].letterbox.line.send(b"")
        await house.listen()  # and nothing spins
        assert house.dispatcher.breaches == 1
        house.bury(house.players[0])


# --- the late


async def hand_to_first(house: House, count: int = 1) -> Player:
    """So many connections lie in the first worker's letterbox, and all the others are idle."""
    first = house.players[0]
    for other in house.players[1:]:
        other.report(taking=False)
    await house.calls(count)
    assert first.waiting == count
    for other in house.players[1:]:
        other.report(taking=True)
    await house.listen()
    return first


async def test_a_late_workers_connections_are_recalled_to_the_idle(mock_clock: MockClock) -> None:
    async with a_house(3, recall_after=LATE) as house:
        late = await hand_to_first(house, 4)
        mock_clock.jump(LATE + 0.001)
        # One for each of the two idle; they have room for more, but would only let it wait.
        await eventually(lambda: house.recall.from_late == 2)
        assert [p.waiting for p in house.players[1:]] == [1, 1]
        assert late.waiting == 2 + 1, "two connections and the nudge"
        for player in house.players[1:]:
            player.take()
            assert player.seen[0].recalled == 1
        await house.settle()


async def test_who_has_taken_something_is_not_late(mock_clock: MockClock) -> None:
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
            await house.listen()
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
        assert late.waiting == 3, "it is the emptier one, and serves again"
        await house.settle()


async def test_nothing_is_recalled_without_a_receiver(mock_clock: MockClock) -> None:
    async with a_house(3, recall_after=LATE) as house:
        await house.calls(6)
        for _ in range(STUCK + 2):
            mock_clock.jump(LATE + 0.001)
            await wait_all_tasks_blocked()
        assert house.recall.suspensions == 3, "each is stuck, and there is nobody else"
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


async def test_after_a_gap_of_its_own_the_master_calls_nobody_late(mock_clock: MockClock) -> None:
    async with a_house(2, recall_after=LATE) as house:
        await hand_to_first(house, 2)
        mock_clock.jump(30.0)
        await wait_all_tasks_blocked()
        assert house.recall.suspensions == 0
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: house.recall.from_late == 1)
        await house.settle()


async def test_one_idle_worker_is_not_given_what_two_late_ones_have(mock_clock: MockClock) -> None:
    async with a_house(3, window=1, recall_after=LATE) as house:
        idle = house.players[2]
        idle.report(taking=False)
        await house.calls(2)
        idle.report(taking=True)
        await house.listen()
        mock_clock.jump(LATE + 0.001)
        await eventually(lambda: idle.waiting == 1)
        await eventually(lambda: not any(p.link.recalling for p in house.players))
        # The other one stays where it is: there is nobody to give it to, and the master holds no connection.
        assert house.recall.from_late == 1
        assert not house.dispatcher._strays
        await house.settle()


async def test_a_nudge_that_the_recall_swallowed_hides_no_connection(mock_clock: MockClock) -> None:
    async with a_house(2, recall_after=LATE) as house:
        late, other = house.players
        other.report(taking=False)
        await house.calls(1)
        for _ in range(STUCK):  # late, and there is nobody to recall to; then stuck: nudged
            mock_clock.jump(LATE + 0.001)
            await wait_all_tasks_blocked()
        assert late.post.asides == 1
        assert late.take(1) == 1
        late.report()  # of its own accord; the nudge lies in its letterbox still
        await house.calls(1)
        other.report(taking=True)
        await house.listen()
        mock_clock.jump(LATE + 0.001)  # late again: what is read back first is the nudge
        await eventually(lambda: house.recall.from_late == 1)
        other.take()
        late.report()
        other.report(taking=False)
        await house.calls(1)
        await wait_all_tasks_blocked()
        assert late.post.recount() == 1
        assert late.waiting == 1 + late.post.aside
        await house.settle()


async def test_a_full_cycle_of_nudges_keeps_the_books(mock_clock: MockClock) -> None:
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
            await house.listen()
            assert [p.post.recount() for p in house.players] == waiting(house)
        assert house.breaches == {}
        await house.settle()


# --- the dead


async def test_what_a_dead_worker_had_not_taken_is_given_to_others() -> None:
    async with a_house(3) as house:
        dead = await hand_to_first(house, 5)
        assert house.bury(dead) == 0
        assert house.recall.from_dead == 5
        await house.settle()


async def test_what_a_dead_worker_held_is_counted_as_lost() -> None:
    async with a_house(2) as house:
        dead = await hand_to_first(house, 5)
        dead.take(2)
        assert house.bury(dead) == 2
        assert house.recall.from_dead == 3
        await house.settle(lost=2)


async def test_a_dead_workers_last_words_are_heard() -> None:
    async with a_house(2) as house:
        dead = await hand_to_first(house, 3)
        dead.take()
        dead.answer()
        dead.report()
        assert house.bury(dead) == 0, "it had closed all that it took"
        await house.settle()


async def test_a_dead_workers_letterbox_is_kept_until_others_have_room() -> None:
    async with a_house(2, window=4) as house:
        dead, other = house.players
        await house.calls(8)
        house.bury(dead)
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
            house.bury(player)
        await wait_all_tasks_blocked()
        for _ in range(3):
            house.hire()
        await wait_all_tasks_blocked()
        await house.settle()
        assert house.recall.from_dead == 24


async def test_the_dead_come_before_the_newly_arriving() -> None:
    async with a_house(1, window=4) as house:
        await house.calls(4)
        house.bury(house.players[0])
        await house.calls(4)
        heir = house.hire()
        house.recall.exhume()
        heir.take()
        assert house.recall.from_dead == 4
        await house.settle()


async def test_what_no_line_can_pass_just_now_stays_in_the_dead_workers_letterbox() -> None:
    async with a_house(1) as house:
        (dead,) = house.players
        await house.calls(3)
        heir = house.hire(kind=Crowded)
        house.bury(dead)
        await wait_all_tasks_blocked()
        assert dead.line.unclaimed() == 2, "one in the master's hands is enough"
        heir.line.full = False  # type: ignore[attr-defined]
        await eventually(lambda: heir.waiting == 3)
        await house.settle()


async def test_a_policy_is_told_whose_the_recalled_connection_is() -> None:
    peers = []

    def rule(candidates: Sequence[Candidate], peer: Peer) -> Candidate:
        peers.append(peer)
        return candidates[0]

    async with a_house(1, policy=lambda: UserPolicy(rule=rule, complain=print)) as house:
        await house.calls(1)
        house.hire()
        house.bury(house.players[0])
        assert peers == [house.clients[0].getsockname()] * 2
        await house.settle()


async def test_a_dead_workers_connections_walk_without_a_limit() -> None:
    async with a_house(1) as house:
        await house.calls(2)
        for _ in range(MAX_RECALLS + 3):
            heir = house.hire()
            house.bury(house.players[-2])
            assert heir.waiting == 2
        await house.settle()


def test_a_full_table_loses_nothing_of_a_dead_workers_letterbox() -> None:
    run_alone("""
import trio
from tests import fakes
from trio.testing import wait_all_tasks_blocked

async def main():
    async with fakes.a_house(1) as house:
        await house.calls(6)
        dead = house.players[0]
        heir = house.hire()
        dead.die()
        relieve = fakes.fill_the_table()
        house.dispatcher.bury(dead.link)
        await wait_all_tasks_blocked()
        relieve()
        await house.settle()
        assert house.recall.from_dead == 6

trio.run(main)
""")


def test_a_table_so_full_that_nothing_can_be_copied_only_delays_it() -> None:
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
        house.dispatcher.bury(dead.link)
        assert house.recall.from_dead == 0 and dead.waiting == 6
        relieve()
        house.hire()
        await house.settle()
        assert house.recall.from_dead == 6

trio.run(main)
""")


def test_a_full_table_pauses_acceptance_for_real() -> None:
    run_alone("""
import trio, time
from tests import fakes
from trio.testing import wait_all_tasks_blocked

async def main():
    async with fakes.a_house(2) as house:
        house.call(3)
        relieve = fakes.fill_the_table()
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 0
        cpu = time.process_time()
        await trio.sleep(0.3)
        assert time.process_time() - cpu < 0.1, "it spins"
        relieve()
        await house.settle()

trio.run(main)
""")


# --- the dismissed


async def test_who_is_dismissed_gets_no_more_and_then_the_end() -> None:
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
        assert house.bury(leaving) == 0
        await house.settle()


async def test_what_the_dismissed_had_not_taken_goes_to_others_as_far_as_they_have_room() -> None:
    async with a_house(2, window=4) as house:
        leaving, other = house.players
        await house.calls(8)
        other.take(3)
        with trio.fail_after(DEADLINE):
            await house.dispatcher.dismiss(leaving.link)
        await eventually(lambda: house.recall.from_late == 3)
        assert other.waiting == 4
        assert leaving.take() == 1, "what nobody else had room for is still its own"
        leaving.answer()
        leaving.report()
        await house.settle()


async def test_a_worker_that_dies_before_its_dismissal_has_begun_harms_nobody() -> None:
    async with a_house(2) as house:
        dead = await hand_to_first(house, 2)
        house.nursery.start_soon(house.dispatcher.dismiss, dead.link)
        house.bury(dead)  # in the same turn of trio's loop: the dismissal finds its line closed
        await wait_all_tasks_blocked()
        await house.settle()


async def test_a_last_call_hands_over_what_the_backlog_holds_and_closes() -> None:
    async with a_house(1, window=4) as house:
        address = house.dispatcher.doors[0].listener.socket.getsockname()
        await house.calls(10)
        assert house.dispatcher.accepted == 4
        house.nursery.start_soon(house.dispatcher.last_call, DEADLINE)
        await wait_all_tasks_blocked()
        await house.settle()
        assert house.dispatcher.doors == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, DEADLINE)


async def test_a_last_call_of_a_unix_socket_hands_over_its_backlog_too(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "door")
    async with a_house(1, window=4, binds=(Unix(path),)) as house:
        for _ in range(7):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(DEADLINE)
            client.connect(path)
            house.clients.append(client)
        await wait_all_tasks_blocked()
        house.nursery.start_soon(house.dispatcher.last_call, DEADLINE)
        await wait_all_tasks_blocked()
        await house.settle()
        assert not os.path.exists(path)


async def test_a_last_call_ends_though_clients_keep_coming() -> None:
    async with a_house(1, window=4) as house:
        (player,) = house.players
        await house.calls(6)
        house.nursery.start_soon(house.dispatcher.last_call, DEADLINE)
        await wait_all_tasks_blocked()
        came = 0
        while house.dispatcher.doors and came < 50:
            house.call()
            came += 1
            player.take(1)
            await wait_all_tasks_blocked()
        assert came < 10
        accepted = house.dispatcher.accepted
        for refused in house.clients[accepted:]:
            refused.close()
        del house.clients[accepted:]
        await house.settle()


async def test_a_last_call_loses_its_patience(autojump_clock: MockClock) -> None:
    async with a_house(1, window=1) as house:
        await house.calls(3)
        begun = trio.current_time()
        await house.dispatcher.last_call(3.0)
        assert trio.current_time() - begun == pytest.approx(3.0)


async def test_a_last_call_without_workers_waits_for_nobody(autojump_clock: MockClock) -> None:
    async with a_house(0) as house:
        await house.calls(3)
        begun = trio.current_time()
        await house.dispatcher.last_call(30.0)
        assert trio.current_time() == begun


async def test_a_last_call_gives_what_the_master_has_in_its_hands_before_it_is_over() -> None:
    async with a_house(0) as house:
        player = house.hire(kind=Crowded)
        await house.calls(1)
        assert house.dispatcher.accepted == 1
        house.nursery.start_soon(house.dispatcher.last_call, DEADLINE)
        await wait_all_tasks_blocked()
        assert house.dispatcher.doors, "one is still in its hands"
        player.line.full = False  # type: ignore[attr-defined]
        await eventually(lambda: not house.dispatcher.doors)
        await house.settle()


async def test_a_last_call_waits_for_what_the_master_has_in_its_hands_also_when_its_listeners_are_closed() -> None:
    async with a_house(0) as house:
        player = house.hire(kind=Crowded)
        await house.calls(1)
        house.dispatcher.close_doors()
        over = trio.Event()

        async def last_call() -> None:
            await house.dispatcher.last_call(DEADLINE)
            over.set()

        house.nursery.start_soon(last_call)
        await wait_all_tasks_blocked()
        assert not over.is_set()
        player.line.full = False  # type: ignore[attr-defined]
        await over.wait()
        assert player.waiting == 1
        await house.settle()


# --- several doors, and newcomers


async def test_no_door_starves_another() -> None:
    async with a_house(1, window=8, binds=(Tcp("127.0.0.1", 0), Tcp("127.0.0.1", 0))) as house:
        house.call(50, door=0)
        house.call(50, door=1)
        await wait_all_tasks_blocked()
        (player,) = house.players
        for _ in range(5):
            player.take()
            await wait_all_tasks_blocked()
        through = [handoff.listener for handoff in player.seen]
        assert abs(through.count(0) - through.count(1)) <= 1
        await house.settle()


async def test_a_newcomer_gets_no_more_than_its_fair_share_at_first(mock_clock: MockClock) -> None:
    async with a_house(2) as house:
        mock_clock.jump(NEWCOMER_S + 1)
        await house.calls_one_by_one(20)
        newcomer = house.hire()
        await house.calls_one_by_one(30)
        assert 9 <= len(newcomer.held) <= 11
        mock_clock.jump(NEWCOMER_S + 0.001)
        await wait_all_tasks_blocked()
        await house.calls_one_by_one(10)
        assert [len(player.held) for player in house.players] == [20, 20, 20]
        await house.settle()


async def test_those_who_start_together_are_no_newcomers(mock_clock: MockClock) -> None:
    async with a_house(2) as house:
        mock_clock.jump(NEWCOMER_S / 2)
        third = house.hire()
        await house.calls_one_by_one(6)
        assert len(third.held) == 2
        await house.settle()


# --- all at once


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_every_connection_is_answered_once(seed: int, mock_clock: MockClock) -> None:
    dice = random.Random(seed)
    lost = 0
    async with a_house(4, window=3, recall_after=LATE) as house:
        for _ in range(150):
            living = [p for p in house.players if p.post.id in house.dispatcher.links]
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
                    lost += len(player.held)  # the truth; what the dispatcher thinks is another test's affair
                    house.bury(player)
                    house.hire()
                case "dismiss" if dice.random() < 0.3:
                    await house.dispatcher.dismiss(player.link)
                    player.take()
                    player.answer()
                    player.report()
                    house.bury(player)
                    house.hire()
            if dice.random() < 0.7:
                await wait_all_tasks_blocked()
            assert house.breaches == {}
        await settle_in_time(house, lost, mock_clock)


async def settle_in_time(house: House, lost: int, clock: MockClock) -> None:
    """As `House.settle`, for a clock that stands still: retries and looks need a later time to happen."""
    for _ in range(200):
        clock.jump(0.003)
        for player in house.players:
            if player.post.id in house.dispatcher.links:
                player.take()
                player.answer()
                player.report()
        await wait_all_tasks_blocked()
    await house.settle(lost)
