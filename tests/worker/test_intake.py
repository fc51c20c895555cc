"""The way to the application: a header or a handshake that does not come costs its connection, and seconds at most."""

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
from rrmaster.worker import Duty, Facts, Taken
from rrmaster.worker.intake import COMPLAIN_EVERY, HANDSHAKE_S, HEADER_S, VIRGIN, Arrival, Complaints, Refused, reason
from rrmaster.worker.serving.on_asyncio import Connection, StreamServer
from rrmaster.worker.serving.on_trio import TrioServer
from tests.fakes import DEADLINE
from tests.launches import a_launch

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
TOLD = Header(("192.0.2.7", 56324), ("198.51.100.1", 443))


@pytest.fixture
def duty() -> Iterator[Duty]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Duty(Letterbox(theirs), Facts(1, 0, 1))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client, and the connection as it was taken."""
    client, taken = socket.socketpair()
    client.settimeout(DEADLINE)
    taken.setblocking(False)
    with client, taken:
        yield client, taken


def way(duty: Duty, context: ssl.SSLContext | None = None, versions: tuple[int, ...] = (1, 2)) -> tuple[Arrival, list]:
    """With what is complained."""
    said: list[str] = []
    return Arrival(duty, context, versions, TrustedSenders.named("127.0.0.1"), Complaints(said.append)), said


def as_taken(sock: socket.socket) -> Taken:
    return Taken(sock.fileno(), 0, socket.AF_UNIX, False)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(made)
    return made


def test_where_nothing_is_asked_for_nothing_stands_in_the_way(duty):
    assert Arrival.of(duty, a_launch()) is None


async def test_what_follows_the_header_is_left_where_it_is(duty, pair):
    client, taken = pair
    arrival, _ = way(duty)
    client.sendall(V1 + b"\x16\x03\x01 the handshake")
    await arrival.announce(taken, "", as_taken(taken), trio.lowlevel.checkpoint)
    assert duty.clients[taken.fileno()][1] == TOLD
    assert taken.recv(100) == b"\x16\x03\x01 the handshake"


async def test_an_incomplete_header_is_waited_for_once_a_piece(duty, pair):
    """What has been seen is taken, so the socket is not readable until more comes: no busy loop."""
    client, taken = pair
    arrival, _ = way(duty)
    pieces = [V1[i : i + 7] for i in range(0, len(V1), 7)]
    waits = 0

    async def readable() -> None:
        nonlocal waits
        waits += 1
        with pytest.raises(BlockingIOError):
            taken.recv(1)
        client.sendall(pieces.pop(0))

    await arrival.announce(taken, "", as_taken(taken), readable)
    assert duty.clients[taken.fileno()][1] == TOLD
    assert (waits, pieces) == (7, [])


async def test_who_may_not_speak_is_not_listened_to(duty, pair):
    client, taken = pair
    arrival, _ = way(duty)
    client.sendall(V1)
    with pytest.raises(Refused, match="--proxy-allow-from"):
        await arrival.announce(taken, ("192.0.2.1", 9), as_taken(taken), trio.lowlevel.checkpoint)
    assert taken.recv(1) == b"P"


@pytest.mark.parametrize("begun", [b"", V1[:11], V1[:11] + b"\r"])
async def test_a_slow_header_has_five_seconds_on_trio(duty, begun):
    arrival, said = way(duty)
    assert HEADER_S <= await _seconds_until_closed(duty, arrival, begun) < HEADER_S + 1
    assert said == ["a connection from a unix socket was closed: no PROXY header in 5 s\n"]
    assert duty.clients == {}


async def test_a_slow_handshake_has_ten_seconds_on_trio(duty, context):
    arrival, said = way(duty, context, ())
    assert HANDSHAKE_S <= await _seconds_until_closed(duty, arrival) < HANDSHAKE_S + 1
    assert said == ["a connection from a unix socket was closed: no TLS handshake in 10 s\n"]


async def _seconds_until_closed(duty: Duty, arrival: Arrival, begun: bytes = b"", drains_after: float = inf) -> float:
    """How long a connection is kept whose client has only begun, or says nothing; by trio's clock."""
    client, taken = socket.socketpair()
    clock = MockClock(autojump_threshold=0.01)
    client.sendall(begun)

    async def serve() -> float:
        service = TrioServer(duty, serve=_never, arrival=arrival)
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
    raise AssertionError("the application is not to see it")


async def test_in_a_drain_it_has_two_seconds_on_trio(duty, context):
    arrival, said = way(duty, context)
    assert 1 + VIRGIN <= await _seconds_until_closed(duty, arrival, drains_after=1) < 2 + VIRGIN
    assert said == []


@pytest.mark.parametrize("what", ["header", "handshake"])
@pytest.mark.parametrize("drains", [False, True])
def test_what_is_slow_is_closed_on_asyncio(duty, context, monkeypatch, what, drains):
    for name in ("VIRGIN",) if drains else ("HEADER_S", "HANDSHAKE_S"):
        monkeypatch.setattr(f"rrmaster.worker.serving.on_asyncio.{name}", 0.05)
    client, theirs = socket.socketpair()
    arrival, said = way(duty, *((None, (1,)) if what == "header" else (context, ())))

    async def serve() -> None:
        connection = Connection(fileno=theirs.detach())
        connection.setblocking(False)
        over = asyncio.Event()
        connection.over = over.set
        server = StreamServer(_never, arrival)
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
        assert said == []
        return
    (line,) = said
    assert "no PROXY header in" in line if what == "header" else "no TLS handshake in" in line


def test_many_refusals_are_one_line_and_a_number():
    said: list[str] = []
    now = 0.0
    complaints = Complaints(said.append, lambda: now)
    for _ in range(1000):
        complaints.add("why", ("192.0.2.1", 9))
    now = COMPLAIN_EVERY
    complaints.add("why", None)
    assert said == [
        "a connection from 192.0.2.1:9 was closed: why\n",
        "a connection from a unix socket was closed: why (and 999 before it)\n",
    ]


@pytest.mark.parametrize("error", [ConnectionResetError(), BrokenPipeError(), ssl.SSLEOFError(), Refused("")])
def test_a_client_that_just_leaves_is_not_worth_a_line(error):
    assert reason(error) == ""
