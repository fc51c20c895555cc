"""Malformed requests are answered as by uvicorn alone, and harm no other client."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.whole.browser import browsing
from tests.whole.harness import PATIENCE, PROGRAMS, running

GET = b"GET / HTTP/1.1\r\nHost: test\r\n"
POST = b"POST /length HTTP/1.1\r\nHost: test\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
NEXT = b"GET /slow?ms=0 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"

TWO = GET + b"\r\n" + NEXT

INPUTS = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "zeros": bytes(10_000),
    "no version": b"GET /\r\n\r\n",
    "a version that is none": b"GET / HTTP/9.9\r\nHost: test\r\n\r\n",
    "length and chunks (CL.TE)": POST + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + NEXT,
    "chunks and length (TE.CL)": POST + CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + NEXT,
    "two lengths": POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde" + NEXT,
    "a signed length": POST + b"Content-Length: +4\r\n\r\nabcd" + NEXT,
    "a length that is none": POST + b"Content-Length: 4, 4\r\n\r\nabcd" + NEXT,
    "chunked, twice encoded": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + NEXT,
    "a chunk size that is none": POST + CHUNKED + b"\r\nxyz\r\nabc\r\n0\r\n\r\n" + NEXT,
    "a huge chunk size": POST + CHUNKED + b"\r\nfffffffffffffffff\r\nabc\r\n" + NEXT,
    "a space before the colon": GET + b"Content-Length : 4\r\n\r\nabcd" + NEXT,
    "a folded header": GET + b"X-Folded: one\r\n two\r\n\r\n" + NEXT,
    "a bare line feed": GET + b"X-One: 1\nX-Two: 2\r\n\r\n" + NEXT,
    "a zero in a header": GET + b"X-Zero: a\x00b\r\n\r\n" + NEXT,
    "a header of 100 kB": GET + b"X-Long: " + b"x" * 100_000 + b"\r\nConnection: close\r\n\r\n",
    "5,000 headers": GET + b"".join(b"X-%d: 1\r\n" % n for n in range(5_000)) + b"Connection: close\r\n\r\n",
    "two requests at once": TWO,
    "half a request": GET,
    "nothing": b"",
}


@asynccontextmanager
async def bare() -> AsyncIterator[int]:
    """uvicorn by itself, with the same application; the port."""
    options = ["--port", "0", "--no-access-log", "--app-dir", str(PROGRAMS)]
    command = [sys.executable, "-m", "uvicorn", *options, "with_fastapi:app"]
    process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        said, port = b"", None
        with trio.fail_after(PATIENCE):
            while port is None:
                assert process.stderr is not None
                said += await process.stderr.receive_some()
                port = re.search(rb"running on \S*?:(\d+)", said)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_forget, process.stderr)
            yield int(port[1])
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        await process.wait()


async def _forget(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


async def answer(port: int, data: bytes) -> list[bytes]:
    """The answer to these bytes and the end of stream: status lines and bodies, without dates and the like."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        with trio.fail_after(PATIENCE):
            try:
                await stream.send_all(data)
                if data != TWO:  # uvicorn may take an end that comes early for the end of the second request, too
                    await stream.send_eof()
                async for more in stream:
                    received += more
            except trio.BrokenResourceError:
                pass  # it was closed with bytes unread; what came before that counts
    return re.findall(rb"HTTP/1\.1 \d+ [^\r]*|Invalid HTTP request received\.|^\d+$", received, re.MULTILINE)


async def test_what_no_honest_client_sends_is_answered_as_by_the_bare_server():
    """Meanwhile 50 clients never finish their headers."""
    async with bare() as port, running("with_fastapi:app", workers=1) as master:
        (pid,) = master.workers
        for stream in await master.burst(50):
            await stream.send_all(GET)
        differing = {}
        for name, data in INPUTS.items():
            theirs, ours = await answer(port, data), await answer(master.port, data)
            if theirs != ours:
                differing[name] = theirs, ours
        assert differing == {}
        async with browsing(master.port) as browser:
            assert (await browser.get("/")).json["pid"] == pid, "and it lives"


LIMITS = ("--limit-request-line", "100", "--limit-request-fields", "10", "--limit-request-field-size", "200")
HEAD = 100 + 10 * (200 + 32)

HEADS = {
    "within all of them": (GET + b"X-Field: " + b"x" * 189 + b"\r\n" + b"X: 1\r\n" * 7 + b"\r\n", b"200"),
    "a long line": (b"GET /?" + b"x" * 100 + b" HTTP/1.1\r\nHost: test\r\n\r\n", b"414"),
    "many fields": (GET + b"X: 1\r\n" * 10 + b"\r\n", b"431"),
    "a field with a byte too many, as gunicorn counts": (GET + b"X-Field: " + b"x" * 190 + b"\r\n\r\n", b"431"),
    "a websocket with a long field": (
        GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Field: " + b"x" * 200 + b"\r\n\r\n",
        b"403",
    ),
}  # fmt: skip


@pytest.mark.parametrize("runtime", ["auto", "trio"])
async def test_a_head_beyond_the_limits_is_refused_and_never_ends_in_memory(runtime: str):
    async with running("asgi_apps:asks_nothing", "--runtime", runtime, *LIMITS, workers=1) as master:
        for name, (data, status) in HEADS.items():
            async with await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
                await stream.send_all(data)
                with trio.fail_after(PATIENCE):
                    assert (await stream.receive_some()).split()[1] == status, name
        async with await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
            with trio.fail_after(PATIENCE):
                await stream.send_all(GET + b"X-Field: ")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_pour, stream)
                    answer = await stream.receive_some()
                    nursery.cancel_scope.cancel()
        assert answer.split()[1] in (b"400", b"431")


async def _pour(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"x" * HEAD)
