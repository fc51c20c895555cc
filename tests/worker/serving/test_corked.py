"""An answer's head leaves with the first part of its body, in one piece; it waits for no part that comes later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rrmaster.worker.serving.asgi import Message, Receive, Send
from rrmaster.worker.serving.http1.reading import JOINED

from .test_http1 import TURNS, FakeLoop, FakeTransport, a_client

GET, HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"


def start(length: int, status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % length)]}


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def turn_until(done: Callable[[], bool]) -> None:
    for _ in range(TURNS):
        if done():
            return
        await asyncio.sleep(0)
    raise AssertionError("no answer")


async def pieces_of(app: Any, *requests: bytes, answers: int = 1) -> list[bytes]:
    """What is written piece by piece, when these are read in one turn after the other."""
    client, transport = await a_client("httptools", FakeLoop(), app)
    for request in requests:
        client.data_received(request)
        await asyncio.sleep(0)

    def is_over() -> bool:
        whole = transport.written.count(b"HTTP/1.1 ") >= answers and client.cycle.response_complete
        return whole or transport.closed or transport.ended

    await turn_until(is_over)
    client.connection_lost(None)
    return transport.pieces


async def small(scope: Message, receive: Receive, send: Send) -> None:
    await send(start(2))
    await send(part(b"ok"))


def test_a_small_answer_is_one_piece() -> None:
    assert len(asyncio.run(pieces_of(small, GET))) == 1


def test_answers_to_requests_sent_ahead_are_whole_and_in_order() -> None:
    pieces = asyncio.run(pieces_of(small, GET * 3, answers=3))
    assert b"".join(pieces).count(b"\r\n\r\nok") == 3


def test_an_answer_without_a_body_is_not_held_beyond_its_end() -> None:
    seen, found = list[FakeTransport](), list[bytes]()

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await small(scope, receive, send)
        found.append(seen[0].written)  # in the same turn: work that follows keeps no client waiting

    async def act() -> None:
        client, transport = await a_client("httptools", FakeLoop(), app)
        seen.append(transport)
        client.data_received(HEAD)
        await turn_until(lambda: bool(found))

    asyncio.run(act())
    assert found[0].endswith(b"\r\n\r\n")


def test_a_head_does_not_wait_for_a_body_that_comes_later() -> None:
    async def act() -> None:
        event = asyncio.Event()

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await send(start(2))
            await event.wait()
            await send(part(b"ok"))

        client, transport = await a_client("httptools", FakeLoop(), app)
        client.data_received(GET)
        await turn_until(lambda: transport.written.endswith(b"\r\n\r\n"))
        event.set()
        await turn_until(lambda: client.cycle.response_complete)
        assert [piece[-2:] for piece in transport.pieces] == [b"\r\n", b"ok"]

    asyncio.run(act())


@pytest.mark.parametrize(("size", "pieces"), [(JOINED, 1), (JOINED + 1, 2)])
def test_a_large_first_part_is_not_copied(size: int, pieces: int) -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start(size))
        await send(part(b"x" * size))

    written = asyncio.run(pieces_of(app, GET))
    assert (len(written), len(b"".join(written).partition(b"\r\n\r\n")[2])) == (pieces, size)


def test_an_answer_that_breaks_off_leaves_its_head_and_the_connection_ends() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await send(start(2))

    written = b"".join(asyncio.run(pieces_of(app, GET)))
    assert (written[:12], written[-4:]) == (b"HTTP/1.1 200", b"\r\n\r\n")


def test_a_refusal_comes_behind_the_word_to_continue() -> None:
    async def app(scope: Message, receive: Receive, send: Send) -> None:
        await receive()

    written = b"".join(asyncio.run(pieces_of(app, POST, b"no chunk\r\n")))
    assert written.startswith(b"HTTP/1.1 100 "), written
    assert written.count(b"HTTP/1.1 400 ") == 1
