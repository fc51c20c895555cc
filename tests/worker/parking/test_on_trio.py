"""When can a connection of anycorn's be parked: only while its reading task waits, and nothing is in progress on it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from attrs import Factory, define

from rrmaster.worker.parking.law import ParkingLaw
from rrmaster.worker.parking.on_trio import AnycornGuest
from tests.whole.harness import PATIENCE


@define(eq=False)
class Outgoing:
    waiting_since: float | None = None


@define(eq=False)
class Connection:
    """What a guest asks of its connection: at rest, with an answer behind it."""

    silent: bool = False
    resting: bool = True
    h2: object = None
    left: bool = False
    rested_at: float = Factory(trio.current_time)
    outgoing: Outgoing = Factory(Outgoing)


@define(eq=False)
class Lot:
    """A lot that parks at once, if it is told to."""

    at_once: bool = False
    law: ParkingLaw = Factory(lambda: ParkingLaw(1.0))
    parked: list[Any] = Factory(list)

    def park(self, guest: AnycornGuest) -> None:
        if guest.rested(0.0) is not None:
            self.parked.append(guest)
            guest.parked()


@define(eq=False)
class Pair:
    """A guest, its lot, and the client's end."""

    guest: Any
    lot: Lot
    client: socket.socket


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    client, server = socket.socketpair()
    server.setblocking(False)
    lot = Lot()
    connection: Any = Connection()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(server))
    yield Pair(AnycornGuest(lot, Any, connection, stream), lot, client)  # type: ignore[arg-type]
    client.close()
    stream.socket.close()


async def waiting(pair: Pair, nursery: trio.Nursery) -> None:
    nursery.start_soon(pair.guest.until_readable)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_connection_whose_task_does_not_wait_stays(pair: Pair) -> None:
    assert pair.guest.rested(0.0) is None, "its task may have read something that is in no buffer yet"
    async with trio.open_nursery() as nursery:
        await waiting(pair, nursery)
        assert pair.guest.rested(0.0) is not None
        pair.client.send(b"x")
    assert pair.guest.rested(0.0) is None


@pytest.mark.parametrize(
    ("name", "value"), [("resting", False), ("h2", object()), ("left", True), ("outgoing", Outgoing(1.0))]
)
async def test_a_connection_with_something_in_progress_stays(pair: Pair, name: str, value: object) -> None:
    async with trio.open_nursery() as nursery:
        await waiting(pair, nursery)
        setattr(pair.guest.connection, name, value)
        assert pair.guest.rested(0.0) is None
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("draining", [False, True])
async def test_a_connection_without_a_request_leaves_only_in_a_drain(pair: Pair, draining: bool) -> None:
    pair.guest.connection.silent, pair.lot.law.draining = True, draining
    async with trio.open_nursery() as nursery:
        await waiting(pair, nursery)
        assert (pair.guest.rested(0.0) is not None) is draining
        nursery.cancel_scope.cancel()


async def test_a_connection_that_is_parked_at_once_ends_its_task_and_its_client_hears_nothing(pair: Pair) -> None:
    pair.lot.at_once = True
    kept = pair.guest.stream.socket.dup()  # the pool's copy
    with trio.fail_after(PATIENCE), pytest.raises(trio.ClosedResourceError):
        await pair.guest.until_readable()
    assert pair.lot.parked == [pair.guest]
    pair.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.client.recv(1)
    kept.close()


async def test_a_connection_that_is_parked_while_its_task_waits_ends_it(pair: Pair) -> None:
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_closed, pair.guest)
            await trio.testing.wait_all_tasks_blocked()
            pair.lot.park(pair.guest)
    assert pair.lot.parked == [pair.guest]
    assert pair.guest.rested(0.0) is None


async def _until_closed(guest: AnycornGuest) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await guest.until_readable()
