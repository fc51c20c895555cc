"""How long a connection on trio waits for a client that still sends, or sends no more."""

from __future__ import annotations

import contextlib

import h11
import pytest
import trio
import trio.testing
from attrs import frozen

from rrmaster.worker.serving.http1.endings import REFUSED_BYTES
from rrmaster.worker.serving.http1.endings_on_trio import linger, until_nothing_is_sent


@frozen
class States:
    """h11's connection, as far as it is asked."""

    their_state: object
    our_state: object


ANSWERED_EARLY = States(h11.SEND_BODY, h11.MUST_CLOSE)


def a_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    ours, theirs = trio.socket.socketpair()
    return trio.SocketStream(ours), trio.SocketStream(theirs)


async def test_a_client_without_an_answer_has_left_after_ten_seconds(autojump_clock: trio.testing.MockClock):
    ours, theirs = a_pair()
    async with ours, theirs:
        await until_nothing_is_sent(ours)
    assert trio.current_time() == pytest.approx(10)


async def test_what_a_client_still_sends_is_dropped_until_it_closes(autojump_clock: trio.testing.MockClock):
    ours, theirs = a_pair()
    with trio.fail_after(20):
        async with ours, trio.open_nursery() as nursery:
            nursery.start_soon(linger, ours, ANSWERED_EARLY)
            assert await theirs.receive_some() == b""
            await theirs.send_all(b"x" * 5_000_000)
            await theirs.aclose()


async def test_a_client_that_sends_no_more_and_does_not_close_is_left(autojump_clock: trio.testing.MockClock):
    ours, theirs = a_pair()
    async with ours, theirs:
        await linger(ours, ANSWERED_EARLY)
    assert trio.current_time() == pytest.approx(5)


async def test_a_client_that_sends_on_is_left_in_the_end(autojump_clock: trio.testing.MockClock):
    ours, theirs = a_pair()

    async def drip() -> None:
        while True:
            await theirs.send_all(b"x")
            await trio.sleep(1)

    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        await linger(ours, ANSWERED_EARLY)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(10)


async def test_of_what_cannot_be_parsed_no_more_than_a_bound_is_dropped(autojump_clock: trio.testing.MockClock):
    ours, theirs = a_pair()
    sent = 0

    async def pour() -> None:
        nonlocal sent
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await theirs.send_all(bytes(1 << 20))
                sent += 1 << 20

    async with ours, theirs, trio.open_nursery() as nursery:
        nursery.start_soon(pour)
        with trio.fail_after(9):
            await linger(ours, States(h11.ERROR, h11.MUST_CLOSE))
        await ours.aclose()
    assert REFUSED_BYTES - (1 << 20) <= sent <= REFUSED_BYTES + (1 << 20)


@pytest.mark.parametrize("states", [States(h11.DONE, h11.MUST_CLOSE), States(h11.SEND_BODY, h11.SEND_BODY)])
async def test_other_connections_do_not_linger(states: States):
    ours, theirs = a_pair()
    async with ours, theirs:
        with trio.fail_after(20):
            await linger(ours, states)
            await ours.send_all(b"x")  # its direction is open
