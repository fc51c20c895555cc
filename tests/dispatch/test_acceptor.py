"""Accepting and handing over: errors of either, several listeners, and listeners that are drained.

Every test that opens connections ends with the ledger (`House.settle`): each was answered exactly once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable

import pytest
import trio
from attrs import Factory, define
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.addresses import Tcp, Unix
from rrmaster.dispatch.acceptor import MAX_FAILURES
from rrmaster.dispatch.listeners import ACCEPT_PAUSE
from rrmaster.dispatch.load import NEWCOMER_S
from rrmaster.dispatch.membership import HANDOFF_RETRY
from rrmaster.protocol.channel import _SO_PASSRIGHTS
from rrmaster.protocol.line import Line
from rrmaster.rules.kernel_errors import CONNECTION_ERRORS
from tests.dispatch.workers import Crowded, waiting
from tests.fakes import DEADLINE, House, Player, a_house, eventually, run_alone

# --- accept fails


class Accept:
    """An acceptor's accept that fails with each of these errors in turn, and then works."""

    def __init__(self, house: House, *codes: int) -> None:
        self.acceptor, self.codes, self.tries = house.dispatcher.acceptors[0], list(codes), 0
        self.real, self.acceptor.accept = self.acceptor.accept, self

    def __call__(self) -> tuple[int, object]:
        self.tries += 1
        if self.codes:
            raise OSError(self.codes[0], os.strerror(self.codes.pop(0)))
        return self.real()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_full_descriptor_table_pauses_accepting_and_is_logged_once(
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


@pytest.mark.parametrize("code", sorted(CONNECTION_ERRORS))
async def test_a_connections_own_trouble_costs_the_next_one_nothing(code: int) -> None:
    async with a_house() as house:
        Accept(house, code, code)
        await house.calls(2)
        assert house.dispatcher.accepted == 2
        await house.settle()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO, errno.ENOSYS, 9999])
async def test_an_error_of_accept_that_no_page_lists_costs_a_pause(code: int, mock_clock: MockClock) -> None:
    async with a_house() as house:
        Accept(house, code)
        await house.calls()
        assert house.dispatcher.accepted == 0
        mock_clock.jump(ACCEPT_PAUSE + 0.001)
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 1
        await house.settle()


async def test_a_connection_that_is_refused_again_and_again_costs_a_pause_too(mock_clock: MockClock) -> None:
    async with a_house() as house:
        accept = Accept(house, *[errno.EACCES] * (MAX_FAILURES + 10))
        await house.calls()
        assert accept.tries == MAX_FAILURES + 1, "then it rests"
        mock_clock.jump(1.1)
        await wait_all_tasks_blocked()
        assert house.dispatcher.accepted == 1
        await house.settle()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_an_error_of_the_masters_own_state_propagates() -> None:
    async def meet_it() -> None:
        async with a_house() as house:
            Accept(house, errno.ENOTSOCK)
            await house.calls()
            await trio.sleep(DEADLINE)

    with pytest.raises(ExceptionGroup) as caught:
        await meet_it()
    assert caught.group_contains(OSError, match=os.strerror(errno.ENOTSOCK))


def test_a_really_full_descriptor_table_pauses_accepting() -> None:
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
async def test_a_connection_that_one_line_cannot_pass_at_the_moment_goes_to_another_worker(code: int) -> None:
    async with a_house(0) as house:
        reluctant = house.add_worker(kind=Reluctant)
        other = house.add_worker()
        reluctant.line.refusals = [code] * 2  # type: ignore[attr-defined]
        await house.calls(1)
        assert [reluctant.waiting, other.waiting] == [0, 1]
        assert house.breaches == {}
        await house.settle()


async def test_a_connection_that_no_line_can_pass_is_kept_and_given_later(mock_clock: MockClock) -> None:
    async with a_house(0) as house:
        for _ in range(2):
            house.add_worker(kind=Reluctant).line.refusals = [errno.ETOOMANYREFS] * 2  # type: ignore[attr-defined]
        await house.calls(3)
        assert house.dispatcher.accepted == 1, "nothing is accepted while one is undelivered"
        assert waiting(house) == [0, 0]
        # Each try asks each of the two once, so the second try fails too.
        for _ in range(2):
            mock_clock.jump(HANDOFF_RETRY + 0.001)
            await wait_all_tasks_blocked()
        assert sum(waiting(house)) == 3
        assert house.breaches == {}
        await house.settle()


async def test_a_kept_connection_is_closed_with_the_dispatcher() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with a_house(0) as house:
        house.add_worker(kind=Crowded)
        await house.calls(1)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_kept_connection_is_given_as_soon_as_its_only_worker_can_take_it(mock_clock: MockClock) -> None:
    async with a_house(0) as house:
        player = house.add_worker(kind=Crowded)
        await house.calls(2)
        player.line.full = False  # type: ignore[attr-defined]
        mock_clock.jump(HANDOFF_RETRY + 0.001)
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
        assert list(house.breaches) == [hostile.load.id]
        assert other.waiting == 4
        house.remove(hostile)
        await house.settle()


async def test_a_connection_refused_by_the_only_worker_waits_for_the_next(mock_clock: MockClock) -> None:
    async with a_house(1) as house:
        stop_reading(house.players[0])
        await house.calls(3)
        assert list(house.breaches) == [1]
        house.remove(house.players[0])
        house.add_worker()
        mock_clock.jump(HANDOFF_RETRY + 0.001)
        await wait_all_tasks_blocked()
        assert house.players[1].waiting == 3
        await house.settle()


# --- listeners that are drained


async def test_draining_hands_over_what_the_backlog_holds_and_closes() -> None:
    async with a_house(1, window=4) as house:
        address = house.dispatcher.acceptors[0].listener.socket.getsockname()
        await house.calls(10)
        assert house.dispatcher.accepted == 4
        house.nursery.start_soon(house.dispatcher.drain_listeners, DEADLINE)
        await wait_all_tasks_blocked()
        await house.settle()
        assert house.dispatcher.acceptors == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, DEADLINE)


async def test_draining_a_unix_socket_hands_over_its_backlog_too(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(tmp_path / "door")
    async with a_house(1, window=4, binds=(Unix(path),)) as house:
        for _ in range(7):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(DEADLINE)
            client.connect(path)
            house.clients.append(client)
        await wait_all_tasks_blocked()
        house.nursery.start_soon(house.dispatcher.drain_listeners, DEADLINE)
        await wait_all_tasks_blocked()
        await house.settle()
        assert not os.path.exists(path)


async def test_draining_ends_though_clients_keep_coming() -> None:
    async with a_house(1, window=4) as house:
        (player,) = house.players
        address = house.dispatcher.acceptors[0].listener.socket.getsockname()
        await house.calls(6)
        house.nursery.start_soon(house.dispatcher.drain_listeners, DEADLINE)
        await wait_all_tasks_blocked()
        came = 0
        with contextlib.ExitStack() as clients:
            while house.dispatcher.acceptors and came < 50:
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(address)
                came += 1
                player.take(1)
                await wait_all_tasks_blocked()
        assert came < 10
        assert house.dispatcher.accepted == 6
        await house.settle()


async def test_draining_ends_at_its_timeout(autojump_clock: MockClock) -> None:
    async with a_house(1, window=1) as house:
        await house.calls(3)
        begun = trio.current_time()
        await house.dispatcher.drain_listeners(3.0)
        assert trio.current_time() - begun == pytest.approx(3.0)


async def test_draining_without_workers_does_not_wait(autojump_clock: MockClock) -> None:
    async with a_house(0) as house:
        await house.calls(3)
        begun = trio.current_time()
        await house.dispatcher.drain_listeners(30.0)
        assert trio.current_time() == begun


async def test_draining_ends_only_when_undelivered_connections_are_handed_over() -> None:
    async with a_house(0) as house:
        player = house.add_worker(kind=Crowded)
        await house.calls(1)
        assert house.dispatcher.accepted == 1
        house.nursery.start_soon(house.dispatcher.drain_listeners, DEADLINE)
        await wait_all_tasks_blocked()
        assert house.dispatcher.acceptors, "one is still undelivered"
        player.line.full = False  # type: ignore[attr-defined]
        await eventually(lambda: not house.dispatcher.acceptors)
        await house.settle()


async def test_draining_waits_for_undelivered_connections_also_when_the_listeners_are_closed() -> None:
    async with a_house(0) as house:
        player = house.add_worker(kind=Crowded)
        await house.calls(1)
        house.dispatcher.close_listeners()
        over = trio.Event()

        async def last_call() -> None:
            await house.dispatcher.drain_listeners(DEADLINE)
            over.set()

        house.nursery.start_soon(last_call)
        await wait_all_tasks_blocked()
        assert not over.is_set()
        player.line.full = False  # type: ignore[attr-defined]
        await over.wait()
        assert player.waiting == 1
        await house.settle()


# --- several listeners, and newcomers


async def test_no_listener_starves_another() -> None:
    async with a_house(1, window=8, binds=(Tcp("127.0.0.1", 0), Tcp("127.0.0.1", 0))) as house:
        house.call(50, listener=0)
        house.call(50, listener=1)
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
        newcomer = house.add_worker()
        await house.calls_one_by_one(30)
        assert 9 <= len(newcomer.held) <= 11
        mock_clock.jump(NEWCOMER_S + 0.001)
        await wait_all_tasks_blocked()
        await house.calls_one_by_one(10)
        assert [len(player.held) for player in house.players] == [20, 20, 20]
        await house.settle()


async def test_workers_that_start_together_are_no_newcomers(mock_clock: MockClock) -> None:
    async with a_house(2) as house:
        mock_clock.jump(NEWCOMER_S / 2)
        third = house.add_worker()
        await house.calls_one_by_one(6)
        assert len(third.held) == 2
        await house.settle()
