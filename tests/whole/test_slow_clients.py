"""Silent, slow and dripping clients lose their place, on each runtime alike; those at rest do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
import trio

from tests.whole.browser import STAYS, Browser, browsing
from tests.whole.harness import PATIENCE, Running, ask, closed, running

RUNTIMES = {
    "uvloop": ("with_fastapi:app", "--runtime", "uvloop"),
    "asyncio": ("with_fastapi:app", "--runtime", "asyncio"),
    "trio": ("with_trio:app", "--runtime", "trio"),
    "wsgi": ("with_flask:app", "--threads", "2"),
}

SHORT = ("--header-timeout", "1s", "--body-timeout", "1s", "--keep-alive", "60s", "--defer-accept", "off")
"""A silent client is its worker's from the beginning, and not held back by the kernel for a second."""

DRIP_S = 0.1
"""Seconds between two bytes of a client that drips."""

HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: te"
HALF_A_BODY = b"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nabc"

CLIENTS: dict[str, tuple[bytes, bytes, bytes]] = {
    "no byte": (b"", b"", b""),
    "half a head": (HALF_A_HEAD, b"", b"408"),
    "a head that drips": (HALF_A_HEAD, b"x", b"408"),
    "half a body": (HALF_A_BODY, b"", b"408"),
    "a body that drips": (HALF_A_BODY, b"x", b"408"),
    "half a websocket's handshake": (b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\n", b"", b"408"),
}
"""What each sends at once, what it then drips, and the status that it gets."""


async def _end(port: int, first: bytes, drip: bytes, begun: bool = False) -> tuple[bytes, float]:
    """What a client is answered until its connection is closed, and the seconds until then."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    if begun:
        assert (await Browser(stream).get("/")).status == 200
    answer, began = b"", trio.current_time()
    async with stream, trio.open_nursery() as nursery:
        if first:
            await stream.send_all(first)
        if drip:
            nursery.start_soon(_drip, stream, drip)
        with trio.move_on_after(PATIENCE):
            try:
                while data := await stream.receive_some():
                    answer += data
            except trio.BrokenResourceError:
                pass  # closed while a byte was under way
        nursery.cancel_scope.cancel()
    return answer, trio.current_time() - began


async def _drip(stream: trio.SocketStream, what: bytes) -> None:
    try:
        while True:
            await stream.send_all(what)
            await trio.sleep(DRIP_S)
    except trio.BrokenResourceError:
        pass  # closed, as it must be


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_client_that_does_not_send_its_request_loses_its_place(runtime: str) -> None:
    ends: dict[str, tuple[bytes, float]] = {}

    async def note(port: int, name: str, begun: bool) -> None:
        first, drip, _ = CLIENTS[name]
        ends[f"{name}, second" if begun else name] = await _end(port, first, drip, begun)

    async with running(*RUNTIMES[runtime], *SHORT, workers=1) as master:
        async with trio.open_nursery() as nursery:
            for name, (first, _, _) in CLIENTS.items():
                nursery.start_soon(note, master.port, name, False)
                if first:
                    nursery.start_soon(note, master.port, name, True)
        for name, (answer, seconds) in ends.items():
            status = CLIENTS[name.removesuffix(", second")][2]
            if "drips" not in name:  # a byte under way may cost its answer
                assert answer[:12].removeprefix(b"HTTP/1.1 ") == status, name
            assert 0.8 < seconds < 6, (name, seconds)
        await _answers(master)


async def _answers(master: Running) -> None:
    with trio.fail_after(PATIENCE):
        async with browsing(master.port) as client:
            assert (await client.get("/")).status == 200


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_client_that_sends_steadily_or_rests_keeps_its_place(runtime: str) -> None:
    """It rests for longer than a head may take, then uploads for longer than a body may stand still."""
    async with running(*RUNTIMES[runtime], *SHORT, workers=1) as master, browsing(master.port) as client:
        assert (await client.get("/")).status == 200
        with trio.move_on_after(2.5):
            assert await client.stream.receive_some() is None, "closed at rest"
        await client.stream.send_all(b"POST /length HTTP/1.1\r\nHost: test\r\nContent-Length: 24000\r\n\r\n")
        for _ in range(24):
            await client.stream.send_all(b"x" * 1000)
            await trio.sleep(DRIP_S)
        with trio.fail_after(PATIENCE):
            assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 200")


UNREAD = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n"


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_the_rest_of_a_body_that_no_application_reads_holds_no_place(runtime: str) -> None:
    """It is answered at once (405), and what comes after that is no progress, however steadily it comes."""
    async with running(*RUNTIMES[runtime], *SHORT, workers=1) as master:
        answer, seconds = await _end(master.port, UNREAD, b"x" * 2000)
        assert answer.startswith(b"HTTP/1.1 405")
        assert seconds < 6
        await _answers(master)


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_body_in_many_parts_that_no_application_reads_is_answered(runtime: str) -> None:
    """anycorn keeps ten messages for a call, and put the last one there within the call's own `send`."""
    async with running(*RUNTIMES[runtime], *SHORT, workers=1) as master, browsing(master.port) as client:
        await client.stream.send_all(b"GET /slow?ms=700 HTTP/1.1\r\nHost: test\r\nContent-Length: 30000\r\n\r\n")
        for _ in range(30):
            await client.stream.send_all(b"x" * 1000)
            await trio.sleep(0.01)
        with trio.fail_after(PATIENCE):
            assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 200")
        assert await master.stop() == 0
        assert "not done in time" not in master.text


async def _first_to_go(streams: list[trio.SocketStream]) -> bytes:
    send, receive = trio.open_memory_channel[bytes](len(streams))

    async def wait(stream: trio.SocketStream) -> None:
        await send.send(bytes(await stream.receive_some()))

    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(wait, stream)
        first = await receive.receive()
        nursery.cancel_scope.cancel()
    return first


HELD: Sequence[str] = ("uvloop", "trio")


@pytest.mark.parametrize("runtime", HELD)
async def test_a_full_worker_says_what_holds_it_and_those_that_have_said_least_go(runtime: str) -> None:
    patient = ("--header-timeout", "60s", "--worker-connections", "5", "--defer-accept", "off", *STAYS)
    async with running(*RUNTIMES[runtime], *patient, workers=1) as master:
        silent = [await trio.open_tcp_stream("127.0.0.1", master.port) for _ in range(3)]
        half = await trio.open_tcp_stream("127.0.0.1", master.port)
        await half.send_all(HALF_A_HEAD)
        held = await trio.open_tcp_stream("127.0.0.1", master.port)
        client = Browser(held)
        assert (await client.get("/")).status == 200
        await master.said(r"every place is taken \(--worker-connections 5\).*: of 5, 3 have sent nothing, 1 have sent")
        await _answers(master)
        with trio.fail_after(PATIENCE):
            assert await _first_to_go(silent) == b"", "one that is silent goes first, and without an answer"
        assert (await client.get("/")).status == 200, "one at rest stays"
        for stream in (*silent, half, held):
            await stream.aclose()


async def test_half_a_body_on_a_stream_of_http_2_ends_its_connection_and_a_whole_one_does_not() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    post = b"\0\0\16\1\4\0\0\0\1" + b"\x83\x86\x44\x07/length\x41\x01x"  # with END_HEADERS, and no END_STREAM
    async with running(*RUNTIMES["trio"], *SHORT, workers=1) as master:
        _, seconds = await _end(master.port, preface + post, b"")
        assert 0.8 < seconds < 6
        async with httpx.AsyncClient(http1=False, http2=True, timeout=PATIENCE, trust_env=False) as client:
            url = f"http://127.0.0.1:{master.port}/length"
            assert (await client.post(url, content=b"x" * 100_000)).json() == 100_000
            assert (await client.get(f"http://127.0.0.1:{master.port}/slow?ms=2500")).status_code == 200


HANDLERS = """
import asyncio
import trio

async def on_trio(stream):
    with trio.move_on_after(1):
        await stream.send_all(await stream.receive_some())

async def on_asyncio(reader, writer):
    async with asyncio.timeout(1):
        writer.write(await reader.read(100))
        await writer.drain()
"""


@pytest.mark.parametrize(("handler", "runtime"), [("on_trio", "trio"), ("on_asyncio", "asyncio")])
async def test_a_handler_with_a_deadline_has_its_places_again(handler: str, runtime: str, tmp_path: Path) -> None:
    """As docs/streams.md asks for: here is none."""
    (tmp_path / "deadline.py").write_text(HANDLERS)
    options = ("--runtime", runtime, "--worker-connections", "3", "--defer-accept", "off")
    async with running(f"deadline:{handler}", *options, workers=1, app_dir=tmp_path) as master:
        silent = await master.burst(9)  # three times the places
        began = trio.current_time()
        assert await ask(master.port, b"well") == b"well"
        assert trio.current_time() - began > 2.0, "behind all of them"
        for stream in silent:
            assert await closed(stream) == b""
