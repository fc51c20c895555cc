"""Clients that have connected and said nothing, with a real fleet that stops."""

from __future__ import annotations

import signal
import socket
from collections import Counter

import pytest
import trio

from rrmaster.dispatch.listening.half_open import half_open_at
from tests.whole.harness import PATIENCE, Running, connect, running

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


async def ask_once(stream: trio.SocketStream, ledger: Counter[str]) -> None:
    """Send a request, and count its outcome."""
    answer = b""
    try:
        with trio.fail_after(PATIENCE):
            await stream.send_all(REQUEST)
            while data := await stream.receive_some():
                answer += data
    except trio.BrokenResourceError:
        ledger["reset"] += 1
    else:
        ledger["answered" if b" 200 " in answer else "cut"] += 1


async def all_answered_at_a_stop(master: Running, port: int, count: int) -> None:
    """Connect clients, stop the master, and send the requests."""
    held_back = [await connect(port) for _ in range(count)]
    master.clients.extend(held_back)
    ledger: Counter[str] = Counter()
    master.signal(signal.SIGTERM)
    await master.said("received SIGTERM")
    async with trio.open_nursery() as nursery:
        for stream in held_back:
            nursery.start_soon(ask_once, stream, ledger)
    assert ledger == {"answered": count}
    assert await master.ended() == 0


async def test_a_stop_loses_no_client_that_is_held_back():
    async with running("with_starlette:make", "--factory", workers=2) as master:
        await all_answered_at_a_stop(master, master.port, 10)


async def test_a_stop_loses_no_client_that_a_passed_socket_holds_back():
    """systemd's DeferAcceptSec=; nothing else has the socket when the master stops."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        passed.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        port, fd = passed.getsockname()[1], passed.fileno()
        async with running("with_starlette:make", "--factory", workers=1, bind=f"fd://{fd}", pass_fds=(fd,)) as master:
            passed.close()
            await all_answered_at_a_stop(master, port, 5)


@pytest.mark.parametrize(
    ("application", "options", "expected"),
    [
        ("with_starlette:make", ("--factory",), True),
        ("with_trio:app", ("--runtime", "trio"), True),
        ("with_starlette:make", ("--factory", "--defer-accept", "off"), False),
        ("handlers:ident", (), False),
    ],
    ids=str,
)
async def test_clients_of_http_are_held_back_and_no_others(application: str, options: tuple[str, ...], expected: bool):
    """Looked at again until it is so: a client is held back for a second, which may be over before the first look, and
    on a busy machine any handshake takes a while."""
    async with running(application, *options, workers=1) as master:
        with trio.fail_after(PATIENCE):
            while is_held_back(master.port) != expected:
                await trio.lowlevel.checkpoint()


def is_held_back(port: int) -> bool:
    """Whether a new client that is silent stays half open for ten looks."""
    with socket.create_connection(("127.0.0.1", port)):
        return all(half_open_at(port) for _ in range(10))
