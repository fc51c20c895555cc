"""The intake: a header or a handshake that does not come costs its own connection, and some seconds at most."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from math import inf

import pytest
import trio
import trustme
from trio.testing import MockClock

from rrmaster.protocol.channel import Letterbox
from rrmaster.protocol.proxy_header import Header, TrustedSenders
from rrmaster.worker.duty import Duty, Identity, Taken
from rrmaster.worker.intake import (
    FIRST_BYTE_S,
    HANDSHAKE_S,
    HEADER_S,
    LOG_EVERY_S,
    Intake,
    RefusalLog,
    Refused,
    reason,
)
from rrmaster.worker.serving.on_asyncio import Connection, StreamServer
from rrmaster.worker.serving.on_trio import TrioServer
from tests.fakes import DEADLINE
from tests.launches import a_launch

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
PARSED = Header(("192.0.2.7", 56324), ("198.51.100.1", 443))


@pytest.fixture
def duty() -> Iterator[Duty]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Duty(Letterbox(theirs), Identity(1, 0, 1), 0.5)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and the connection as a worker takes it."""
    client, taken = socket.socketpair()
    client.settimeout(DEADLINE)
    taken.setblocking(False)
    with client, taken:
        yield client, taken


def an_intake(
    duty: Duty, context: ssl.SSLContext | None = None, versions: tuple[int, ...] = (1, 2)
) -> tuple[Intake, list]:
    """An intake, and the lines that it logs."""
    logged: list[str] = []
    return Intake(duty, context, versions, TrustedSenders.named("127.0.0.1"), RefusalLog(logged.append)), logged


def as_taken(sock: socket.socket) -> Taken:
    return Taken(sock.fileno(), 0, socket.AF_UNIX, False)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(made)
    return made


def test_without_tls_and_proxy_protocol_there_is_no_intake(duty):
    assert Intake.of(duty, a_launch()) is None


async def test_bytes_behind_the_header_stay_in_the_socket(duty, pair):
    client, taken = pair
    intake, _ = an_intake(duty)
    client.sendall(V1 + b"\x16\x03\x01 the handshake")
    await intake.read_header(taken, "", as_taken(taken), trio.lowlevel.checkpoint)
    assert duty.clients[taken.fileno()][1] == PARSED
    assert taken.recv(100) == b"\x16\x03\x01 the handshake"


async def test_an_incomplete_header_is_waited_for_once_for_each_piece(duty, pair):
    """Bytes that were seen are consumed, so the socket is not readable until more come, and no loop spins."""
    client, taken = pair
    intake, _ = an_intake(duty)
    pieces = [V1[i : i + 7] for i in range(0, len(V1), 7)]
    waits = 0

    async def readable() -> None:
        nonlocal waits
        waits += 1
        with pytest.raises(BlockingIOError):
            taken.recv(1)
        client.sendall(pieces.pop(0))

    await intake.read_header(taken, "", as_taken(taken), readable)
    assert duty.clients[taken.fileno()][1] == PARSED
    assert (waits, pieces) == (7, [])


async def test_a_header_from_an_address_that_may_not_send_one_is_refused_unread(duty, pair):
    client, taken = pair
    intake, _ = an_intake(duty)
    client.sendall(V1)
    with pytest.raises(Refused, match="--proxy-allow-from"):
        await intake.read_header(taken, ("192.0.2.1", 9), as_taken(taken), trio.lowlevel.checkpoint)
    assert taken.recv(1) == b"P"


@pytest.mark.parametrize("begun", [b"", V1[:11], V1[:11] + b"\r"])
async def test_a_slow_header_has_five_seconds_on_trio(duty, begun):
    intake, logged = an_intake(duty)
    assert HEADER_S <= await _seconds_until_closed(duty, intake, begun) < HEADER_S + 1
    assert logged == ["a connection from a unix socket was closed: no PROXY header in 5 s\n"]
    assert duty.clients == {}


async def test_a_slow_handshake_has_ten_seconds_on_trio(duty, context):
    intake, logged = an_intake(duty, context, ())
    assert HANDSHAKE_S <= await _seconds_until_closed(duty, intake) < HANDSHAKE_S + 1
    assert logged == ["a connection from a unix socket was closed: no TLS handshake in 10 s\n"]


async def _seconds_until_closed(duty: Duty, intake: Intake, begun: bytes = b"", drains_after: float = inf) -> float:
    """Seconds, by trio's clock, for which the connection of a silent client is kept; `begun` is all that it sends."""
    client, taken = socket.socketpair()
    clock = MockClock(autojump_threshold=0.01)
    client.sendall(begun)
    duty.taken += 1

    async def serve() -> float:
        service = TrioServer(duty, serve=_never, intake=intake)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service._serve_one, as_taken(taken))
            if drains_after < inf:
                await trio.sleep(drains_after)
                service.drain()
        return trio.current_time() - began

    seconds = await trio.to_thread.run_sync(lambda: trio.run(serve, clock=clock))
    taken.detach()
    with client:
        assert client.recv(1) == b""
    return seconds


async def _never(*streams: object) -> None:
    raise AssertionError("the application must not get the connection")


async def test_a_slow_client_has_two_seconds_in_a_drain_on_trio(duty, context):
    intake, logged = an_intake(duty, context)
    assert 1 + FIRST_BYTE_S <= await _seconds_until_closed(duty, intake, drains_after=1) < 2 + FIRST_BYTE_S
    assert logged == []


@pytest.mark.parametrize("what", ["header", "handshake"])
@pytest.mark.parametrize("drains", [False, True])
def test_a_slow_client_is_closed_on_asyncio(duty, context, monkeypatch, what, drains):
    for name in ("FIRST_BYTE_S",) if drains else ("HEADER_S", "HANDSHAKE_S"):
        monkeypatch.setattr(f"rrmaster.worker.serving.on_asyncio.{name}", 0.05)
    client, theirs = socket.socketpair()
    intake, logged = an_intake(duty, *((None, (1,)) if what == "header" else (context, ())))

    async def serve() -> None:
        connection = Connection(fileno=theirs.detach())
        connection.setblocking(False)
        over = asyncio.Event()
        connection.on_close = over.set
        server = StreamServer(_never, duty, intake)
        server.begin(connection, as_taken(connection))
        if drains:
            server.drain()
        await asyncio.wait_for(over.wait(), DEADLINE)
        await server.end()
        assert not server._arriving

    client.settimeout(DEADLINE)
    asyncio.run(serve())
    with client:
        assert client.recv(1) == b""
    if drains:
        assert logged == []
        return
    (line,) = logged
    assert "no PROXY header in" in line if what == "header" else "no TLS handshake in" in line


def test_many_refusals_are_one_line_with_a_count():
    logged: list[str] = []
    now = 0.0
    refusals = RefusalLog(logged.append, lambda: now)
    for _ in range(1000):
        refusals.add("why", ("192.0.2.1", 9))
    now = LOG_EVERY_S
    refusals.add("why", None)
    assert logged == [
        "a connection from 192.0.2.1:9 was closed: why\n",
        "a connection from a unix socket was closed: why (and 999 before it)\n",
    ]


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), ssl.SSLEOFError(), Refused("")])
def test_a_client_that_merely_disconnects_is_not_logged(error):
    assert reason(error) == ""
