"""Our protocols for HTTP/1.1 with a fake transport: however requests are cut, each has its body and its answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any
from unittest.mock import Mock, patch

import pytest
from attrs import Factory, define
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config

from rrmaster.worker.serving.asgi import Message, Receive, Send
from rrmaster.worker.serving.http1 import httptools_client
from rrmaster.worker.serving.http1.h11_client import H11Client
from rrmaster.worker.serving.http1.httptools_client import HttptoolsClient
from rrmaster.worker.serving.http1.reading import State

CLIENTS = {"httptools": HttptoolsClient, "h11": H11Client}

TURNS = 2_000
"""Turns of the loop after which a test gives up waiting."""


class FakeTransport(asyncio.Transport):
    """A transport that keeps what is written, and says whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.reads, self.closed, self.ended = b"", True, False, False
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))
        self.written += data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True


async def measures(scope: Message, receive: Receive, send: Send) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = json.dumps([scope["method"], scope["path"], size, len(scope["headers"])]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"

REQUESTS = {
    b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n": ["GET", "/a", 0, 1],
    b"\r\n\r\nGET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n": ["GET", "/", 0, 1],
    b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello": ["POST", "/c", 5, 2],
    b"POST /d HTTP/1.1\r\nHost: a\r\n" + H2C + b"Content-Length: 5\r\n\r\nhello": ["POST", "/d", 5, 5],
    b"GET /e HTTP/1.1\r\nHost: a\r\n" + H2C + b"\r\n": ["GET", "/e", 0, 4],
    b"PUT /f HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n\r\n": [
        "PUT", "/f", 5, 2,
    ],
}  # fmt: skip
"""Requests, and what the application sees of each: method, path, bytes of the body, fields of the head."""


async def answered(kind: str, pieces: list[bytes], count: int) -> bytes:
    """What is written when the pieces come, each when the transport reads."""
    config = Config(measures, http=kind, log_config=None, lifespan="off")  # type: ignore[arg-type]
    config.load()
    transport, waiting = FakeTransport(), list(pieces)
    client: Any = CLIENTS[kind](config=config, server_state=State(), app_state={})
    client.connection_made(transport)
    for _ in range(TURNS):
        if waiting and transport.reads:
            client.data_received(waiting.pop(0))
        await asyncio.sleep(0)
        if not waiting and transport.written.count(b"HTTP/1.1 ") >= count:
            break
    client.connection_lost(ConnectionResetError())
    client._unset_keepalive_if_required()
    return transport.written


@pytest.mark.parametrize("kind", CLIENTS)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_however_requests_are_cut_each_is_answered_in_order(kind: str, data: Any) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=12))
    stream = b"".join(chosen)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    with patch.object(httptools_client, "PIECE", data.draw(st.sampled_from([httptools_client.PIECE, 11]))):
        written = asyncio.run(answered(kind, pieces, len(chosen)))
    assert [json.loads(seen) for seen in re.findall(rb"\[.*?\]", written)] == [REQUESTS[one] for one in chosen]
    assert written.count(b"HTTP/1.1 200 ") == len(chosen)


@define
class FakeLoop:
    """A clock that a test moves, with the timers that wait for it; the rest is the real loop."""

    now: float = 0.0
    timers: dict[object, tuple[float, Callable[[], None]]] = Factory(dict)

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> Any:
        timer = Mock()
        timer.cancel = lambda: self.timers.pop(timer, None)
        self.timers[timer] = (self.now + seconds, partial(call, *arguments))
        return timer

    def call_soon(self, call: Callable[..., None], *arguments: Any) -> Any:
        return asyncio.get_running_loop().call_soon(call, *arguments)

    def create_task(self, coroutine: Any) -> Any:
        return asyncio.get_running_loop().create_task(coroutine)

    def pass_time(self, until: float) -> None:
        """Move the clock, and call what is due on the way."""
        while self.timers and min(self.timers.values(), key=itemgetter(0))[0] <= until:
            timer = min(self.timers, key=lambda each: self.timers[each][0])
            self.now, call = self.timers.pop(timer)
            call()
        self.now = until


kinds = pytest.mark.parametrize("kind", CLIENTS)


async def a_client(kind: str, loop: FakeLoop, app: Any = measures) -> tuple[Any, FakeTransport]:
    config = Config(app, http=kind, log_config=None, lifespan="off", timeout_keep_alive=5)  # type: ignore[arg-type]
    config.load()
    transport = FakeTransport()
    client: Any = CLIENTS[kind](config=config, server_state=State(), app_state={}, _loop=loop)  # type: ignore[arg-type]
    client.connection_made(transport)
    return client, transport


async def an_answered_client(kind: str, loop: FakeLoop) -> tuple[Any, FakeTransport]:
    client, transport = await a_client(kind, loop)
    await answer_one(client)
    return client, transport


async def answer_one(client: Any, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> None:
    client.data_received(request)
    for _ in range(TURNS):
        if client.cycle.response_complete:
            return
        await asyncio.sleep(0)
    raise AssertionError("no answer")


@kinds
def test_keep_alive_counts_from_the_last_answer(kind: str) -> None:
    async def act() -> None:
        loop = FakeLoop()
        client, transport = await an_answered_client(kind, loop)
        for second in (1, 2, 3, 4, 8):
            loop.pass_time(second)
            assert not transport.closed
            await answer_one(client)
            assert len(loop.timers) == 1
        loop.pass_time(12.9)
        assert not transport.closed
        loop.pass_time(13)
        assert transport.closed

    asyncio.run(act())


@kinds
def test_a_request_in_progress_outlives_the_keep_alive_time_and_its_answer_begins_another(kind: str) -> None:
    async def act() -> None:
        loop = FakeLoop()
        client, transport = await an_answered_client(kind, loop)
        loop.pass_time(1)
        client.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        loop.pass_time(20)
        assert not loop.timers
        assert not transport.closed, "the deadline of a body is not this timer's"
        client.data_received(b"x")
        for _ in range(10):
            await asyncio.sleep(0)
        loop.pass_time(24.9)
        assert not transport.closed
        loop.pass_time(25)
        assert transport.closed

    asyncio.run(act())


@kinds
def test_a_closed_connection_leaves_no_timer(kind: str) -> None:
    async def act() -> None:
        loop = FakeLoop()
        client, _ = await an_answered_client(kind, loop)
        client.connection_lost(ConnectionResetError())
        assert not loop.timers

    asyncio.run(act())


@kinds
def test_blank_lines_after_an_answer_give_no_more_time(kind: str) -> None:
    async def act() -> None:
        loop = FakeLoop()
        client, transport = await an_answered_client(kind, loop)
        for second in range(1, 5):
            loop.pass_time(second)
            client.data_received(b"\r\n")
        loop.pass_time(4.9)
        assert not transport.closed
        loop.pass_time(5)
        assert transport.closed

    asyncio.run(act())


async def refuses(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 100\r\n\r\n"


@kinds
def test_a_client_that_still_sends_reads_the_answer_before_its_connection_is_closed(kind: str) -> None:
    async def act() -> None:
        loop = FakeLoop()
        client, transport = await a_client(kind, loop, refuses)
        await answer_one(client, UPLOAD)
        assert (b" 401 " in transport.written, transport.ended, transport.closed) == (True, True, False)
        loop.pass_time(1)
        client.data_received(b"x")
        loop.pass_time(9.9)
        assert not transport.closed
        loop.pass_time(10)
        assert transport.closed, "nothing has come since the look at five seconds"
        assert transport.written.count(b"HTTP/1.1") == 1

    asyncio.run(act())


@kinds
def test_a_client_that_sends_on_is_cut_in_the_end(kind: str) -> None:
    async def act() -> None:
        loop = FakeLoop()
        client, transport = await a_client(kind, loop, refuses)
        await answer_one(client, UPLOAD)
        for second in range(1, 10):
            loop.pass_time(second)
            assert not transport.closed
            client.data_received(b"x" * 100_000)
        loop.pass_time(10)
        assert transport.closed

    asyncio.run(act())


@kinds
def test_the_end_of_a_drain_does_not_wait_for_a_client_that_still_sends(kind: str) -> None:
    async def act() -> None:
        client, transport = await a_client(kind, FakeLoop(), refuses)
        await answer_one(client, UPLOAD)
        client.shutdown()
        assert transport.closed

    asyncio.run(act())


@kinds
def test_a_connection_whose_request_is_whole_is_closed_with_its_answer(kind: str) -> None:
    async def act() -> None:
        loop = FakeLoop()
        client, transport = await a_client(kind, loop, refuses)
        client.data_received(UPLOAD)
        await answer_one(client, b"x" * 100)
        assert (transport.ended, transport.closed) == (False, True)

    asyncio.run(act())
