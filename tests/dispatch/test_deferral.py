"""Clients that the kernel holds back until they speak: real listeners, real clients, and the kernel's own answers."""

from __future__ import annotations

import os
import select
import socket
import time
from errno import ECONNREFUSED

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rrmaster.config.addresses import Inherited, Tcp, Unix
from rrmaster.config.settings import Settings
from rrmaster.dispatch.listeners import Listener
from rrmaster.dispatch.listening import closing
from rrmaster.dispatch.listening.deferral import ROUND_TRIP, SECONDS, seconds_of
from rrmaster.dispatch.listening.half_open import half_open
from rrmaster.dispatch.listening.no_more_clients import drop_syns
from rrmaster.protocol import wire
from tests.dispatch.test_listeners import needs_ipv6
from tests.fakes import DEADLINE, House, Player, a_house, eventually, opened

SETTINGS = Settings("shop.main:app", defer_accept="auto")

LONG = 60
"""Seconds for which a client is held back where a test must not be too slow to see it."""

PATIENCE = 20.0
"""Seconds until a wait for the kernel fails; a SYN is repeated after one."""


def add_worker(house: House, client_first: bool = True) -> Player:
    """Add a worker that says who speaks first."""
    player = house.add_worker(enlist=False)
    player.link.agree(wire.Ready(0, client_first=client_first))
    house.dispatcher.enlist(player.link)
    return player


def listener_of(house: House) -> Listener:
    return house.dispatcher.acceptors[0].listener


def holds_back(house: House) -> bool:
    return seconds_of(listener_of(house).socket) > 0


async def closed(house: House) -> None:
    """Wait until the listeners are closed, while the workers take what comes."""
    deadline = time.monotonic() + PATIENCE
    while house.dispatcher.acceptors or house.in_letterboxes:
        assert time.monotonic() < deadline
        for player in house.players:
            if player.take():
                player.report()
        await trio.lowlevel.checkpoint()


# --- who is held back


async def test_clients_are_held_back_where_each_worker_says_that_they_speak_first() -> None:
    async with a_house(0) as house:
        house.dispatcher.configure(SETTINGS)
        add_worker(house)
        assert holds_back(house)
        other = add_worker(house, client_first=False)
        assert not holds_back(house)
        house.dispatcher.delist(other.link)
        assert holds_back(house)


async def test_a_listener_without_workers_goes_on_as_it_was() -> None:
    async with a_house(0) as house:
        house.dispatcher.configure(SETTINGS)
        assert not holds_back(house)
        house.dispatcher.delist(add_worker(house).link)
        assert holds_back(house)


@pytest.mark.parametrize(
    ("options", "client_first", "expected"),
    [
        ({"defer_accept": "on"}, False, True),
        ({"defer_accept": "off"}, True, False),
        ({"defer_accept": "auto", "certfile": "cert.pem"}, True, False),
        ({"defer_accept": "on", "certfile": "cert.pem"}, True, True),
    ],
    ids=str,
)
async def test_the_option_decides_and_tls_is_not_held_back_by_itself(options, client_first, expected):  # type: ignore[no-untyped-def]
    async with a_house(0) as house:
        add_worker(house, client_first)
        house.dispatcher.configure(Settings("shop.main:app", **options))
        assert holds_back(house) == expected
        house.dispatcher.configure(Settings("shop.main:app", defer_accept="off"))
        assert not holds_back(house)


async def test_a_unix_socket_is_served_as_ever(tmp_path) -> None:  # type: ignore[no-untyped-def]
    async with a_house(0, binds=(Unix(str(tmp_path / "door")),)) as house:
        house.dispatcher.configure(SETTINGS)
        player = add_worker(house)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "door"))
            await eventually(lambda: player.waiting == 1)


@pytest.mark.parametrize("came_with", [0, SECONDS])
async def test_a_socket_that_was_passed_keeps_what_it_came_with(came_with: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed:
        passed.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, came_with)
        async with a_house(0, binds=(Inherited(os.dup(passed.fileno())),)) as house:
            house.dispatcher.configure(SETTINGS)
            add_worker(house)
            assert seconds_of(passed) == came_with
            await house.dispatcher.drain_listeners(DEADLINE)
            assert not house.dispatcher.acceptors
        assert seconds_of(passed) == came_with
        with socket.create_connection(passed.getsockname(), DEADLINE) as client:  # the other process still serves
            client.sendall(b"?")
            assert select.select([passed], [], [], DEADLINE)[0]


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::", marks=needs_ipv6)])
def test_the_kernel_tells_which_clients_it_holds_back(host: str) -> None:
    (listener,) = opened(Tcp(host, 0))
    listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, LONG)
    address = "127.0.0.1", listener.socket.getsockname()[1]
    try:
        assert half_open(listener.socket) == set()
        with socket.create_connection(address) as silent, socket.create_connection(address) as speaking:
            assert len(both := half_open(listener.socket) or set()) == 2
            speaking.sendall(b"?")
            assert len((half_open(listener.socket) or set()) & both) == 1
            silent.sendall(b"?")
            assert half_open(listener.socket) == set()
    finally:
        listener.close()


# --- how they fare when the listener is closed


async def hold_back(house: House, count: int) -> None:
    """Connect clients that say nothing: they are held back for a second."""
    await house.calls(count)


@pytest.mark.parametrize("speak", [False, True], ids=["silent", "speaking"])
@pytest.mark.parametrize("one", [False, True], ids=["all listeners", "one listener"])
async def test_clients_that_are_held_back_are_served_when_the_listener_is_closed(speak: bool, one: bool) -> None:
    async with a_house(0) as house:
        house.dispatcher.configure(SETTINGS)
        player = add_worker(house)
        await hold_back(house, 3)
        if one:
            house.dispatcher.drain_listener(house.dispatcher.acceptors[0])
        else:
            house.nursery.start_soon(house.dispatcher.drain_listeners, PATIENCE)
        await wait_all_tasks_blocked()
        for client in house.clients if speak else ():
            client.sendall(b"?")
        await closed(house)
        assert len(player.held) == 3
        for sock in player.held:
            assert not speak or sock.recv(1) == b"?"
        await house.settle()


async def test_a_worker_that_joins_during_the_drain_does_not_hold_clients_back_again() -> None:
    async with a_house(0) as house:
        house.dispatcher.configure(SETTINGS)
        add_worker(house)
        await hold_back(house, 1)
        house.nursery.start_soon(house.dispatcher.drain_listeners, PATIENCE)
        await wait_all_tasks_blocked()
        add_worker(house)
        assert not holds_back(house)
        await closed(house)
        await house.settle()


async def test_no_time_is_lost_where_no_client_is_held_back(autojump_clock: MockClock) -> None:
    async with a_house(0) as house:
        house.dispatcher.configure(SETTINGS)
        add_worker(house)
        begun = trio.current_time()
        await house.dispatcher.drain_listeners(30.0)
        assert trio.current_time() == begun
        assert not house.dispatcher.acceptors


async def test_a_kernel_that_does_not_tell_is_given_the_time(autojump_clock, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(closing, "half_open", lambda sock: None)
    async with a_house(0, binds=(Tcp("127.0.0.1", 0), Tcp("127.0.0.1", 0))) as house:
        house.dispatcher.configure(SETTINGS)
        add_worker(house)
        begun = trio.current_time()
        await house.dispatcher.drain_listeners(30.0)
        assert trio.current_time() - begun == pytest.approx(SECONDS + ROUND_TRIP, abs=2 * closing.LOOK)


async def test_a_listener_that_holds_no_client_back_does_not_wait_for_a_kernel_that_does_not_tell(  # type: ignore[no-untyped-def]
    autojump_clock, monkeypatch
) -> None:
    monkeypatch.setattr(closing, "half_open", lambda sock: None)
    async with a_house(1) as house:
        begun = trio.current_time()
        await house.dispatcher.drain_listeners(30.0)
        assert trio.current_time() == begun


# --- new clients


async def test_a_client_that_comes_during_a_drain_is_refused_and_not_reset() -> None:
    async with a_house(1, window=1) as house:
        address = listener_of(house).socket.getsockname()
        await house.calls(2)  # one waits in the letterbox, one in the backlog
        house.nursery.start_soon(house.dispatcher.drain_listeners, PATIENCE)
        await wait_all_tasks_blocked()
        with socket.socket() as late:
            late.setblocking(False)
            late.connect_ex(address)
            assert select.select([], [late], [], 0.0)[1] == [], "its SYN is dropped"
            await closed(house)
            assert select.select([], [late], [], PATIENCE)[1] == [late]
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ECONNREFUSED
        await house.settle()


def test_clients_that_have_connected_are_not_dropped_with_the_new_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, SECONDS)
        with socket.create_connection(sock.getsockname(), DEADLINE) as held_back:
            assert drop_syns(sock)
            held_back.sendall(b"?")
            sock.settimeout(DEADLINE)
            taken, _ = sock.accept()
            with taken:
                assert taken.recv(1) == b"?"
                taken.sendall(b"!")
                assert held_back.recv(1) == b"!"
