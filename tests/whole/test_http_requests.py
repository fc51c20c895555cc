"""What a valid request of HTTP/1.1 may look like, and that its answer is the answer to all of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.events
import pytest
import trio

from tests.whole.browser import browsing
from tests.whole.harness import PATIENCE, Running, running
from tests.whole.test_trio_clients import Modern

SERVED = {
    "httptools": ("tells:app", {}),
    "h11": ("tells:app", {"hidden": "httptools"}),
    "wsgi": ("tells:wsgi", {}),
    "trio": ("tells:app", {"runtime": "trio"}),
}
ENDLESS = {
    "endless": ("asgi_apps:endless", {}),
    "endless without httptools": ("asgi_apps:endless", {"hidden": "httptools"}),
    "endless on trio": ("asgi_apps:endless", {"runtime": "trio"}),
}
"""The application, what of its libraries is not installed, and its runtime."""


@asynccontextmanager
async def served(kind: str, hidden: Path, *options: str, **more: Any) -> AsyncIterator[Running]:
    """A master with one worker, for one of `SERVED`."""
    application, without = (SERVED | ENDLESS)[kind]
    environ = dict(more.pop("environ", {}))
    if "runtime" in without:
        options = ("--runtime", without["runtime"], *options)
    if "hidden" in without:
        (hidden / f"{without['hidden']}.py").write_text("raise ImportError('hidden by a test')\n")
        environ["PYTHONPATH"] = str(hidden)
    async with running(application, *options, workers=1, environ=environ, **more) as master:
        yield master


async def sent(port: int, *parts: bytes | None) -> tuple[list[int], list[Any]]:
    """The statuses and the bodies of the answers to these bytes; None is the client's end of stream."""
    received = bytearray()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            nursery.start_soon(_send, stream, parts)
            async for data in stream:
                received += data
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", received)]
    return statuses, [json.loads(body) for body in re.findall(rb"\[.*?\]", received)]


async def _send(stream: trio.SocketStream, parts: Iterable[bytes | None]) -> None:
    for part in parts:
        if part is None:
            await stream.send_eof()
        else:
            await stream.send_all(part)


FORWARDED = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"


# --- the environment, and which proxies are believed


@pytest.mark.parametrize("value", ["auto", "1:2", ""])
@pytest.mark.parametrize("kind", ["httptools", "wsgi"])
async def test_uvicorn_does_not_read_the_number_of_workers(kind: str, value: str, tmp_path: Path):
    async with served(kind, tmp_path, environ={"WEB_CONCURRENCY": value}) as master, browsing(master.port) as browser:
        assert (await browser.get("/")).status == 200


@pytest.mark.parametrize("runtime", ["uvloop", "trio"])
async def test_a_proxy_is_believed_on_a_listener_of_both_families(runtime: str):
    async with running("tells:app", "--runtime", runtime, workers=1, bind="[::]:0") as master:
        statuses, bodies = await sent(master.port, FORWARDED)
        assert (statuses, bodies) == ([200], [["GET", "/", 0, "192.0.2.7"]])


# --- no body and no request is lost

HOST = b"Host: test\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
LAST = b"GET /last HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
FIVE = b"Content-Length: 5\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\n" + HOST
GET = b"GET /a HTTP/1.1\r\n" + HOST
UPLOAD = b"Content-Length: 300000\r\n\r\n"

COMPLETE: dict[str, tuple[tuple[bytes, ...], list[tuple[str, int]]]] = {
    "h2c with a body": ((POST + H2C + FIVE + b"hello" + LAST,), [("POST", 5)]),
    "h2c with a body in pieces": ((POST + H2C + FIVE, b"he", b"llo" + LAST), [("POST", 5)]),
    "h2c with chunks": (
        (POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + LAST,),
        [("POST", 5)],
    ),
    "h2c with a large body": ((POST + H2C + UPLOAD, b"x" * 300_000 + LAST), [("POST", 300_000)]),
    "h2c 500 times": ((500 * (GET + H2C + b"\r\n") + LAST,), 500 * [("GET", 0)]),
    "a websocket by POST": ((POST + WEBSOCKET + FIVE + b"hello" + LAST,), [("POST", 5)]),
    "a websocket with a body": ((GET + WEBSOCKET + FIVE, b"hello" + LAST), [("GET", 5)]),
    "another protocol": (
        (POST + b"Connection: upgrade\r\nUpgrade: other/1\r\n" + FIVE + b"hello" + LAST,),
        [("POST", 5)],
    ),
    "trailers": (
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n" + LAST,),
        [("POST", 5)],
    ),
    "5,000 requests at once": ((5_000 * (GET + b"\r\n") + LAST,), 5_000 * [("GET", 0)]),
    "bodies between requests": (
        (20 * (GET + b"\r\n" + POST + UPLOAD + b"y" * 300_000) + LAST,),
        20 * [("GET", 0), ("POST", 300_000)],
    ),
}  # fmt: skip
"""The parts that are sent, and the method and the size of the body of each request before the last."""


@pytest.mark.parametrize("kind", SERVED)
async def test_each_request_is_answered_and_has_its_body(kind: str, tmp_path: Path):
    async with served(kind, tmp_path) as master:
        for name, (parts, seen) in COMPLETE.items():
            if len(seen) > 1_000 and kind != "httptools":
                continue  # a second of processor time, and the same code
            if name == "h2c 500 times" and kind == "trio":
                continue  # there it is an upgrade, which without a body is done
            statuses, bodies = await sent(master.port, *parts)
            assert statuses == [200] * (len(seen) + 1), name
            assert [(body[0], body[2]) for body in bodies] == [*seen, ("GET", 0)], name


async def test_an_answer_behind_another_waits_for_it(tmp_path: Path):
    """A malformed request and a websocket, sent ahead of the answer to a slow request."""
    slow = b"GET /?s=0.3 HTTP/1.1\r\n" + HOST + b"\r\n"
    async with served("httptools", tmp_path) as master:
        assert (await sent(master.port, slow + b"nonsense\r\n\r\n"))[0] == [200, 400]
        assert (await sent(master.port, slow + slow + POST + b"Content-Length: +5\r\n\r\nhello"))[0] == [200, 200, 400]
        assert (await sent(master.port, slow + POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"))[0] == [200, 400]
        close = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
        async with await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
            with trio.fail_after(PATIENCE):
                await stream.send_all(slow + GET + WEBSOCKET + b"\r\n")
                received = b""
                while b" 101 " not in received:
                    received += await stream.receive_some()
                assert received.startswith(b"HTTP/1.1 200")
                await stream.send_all(close)
                assert b"\x88" in b"".join([bytes(data) async for data in stream])


# --- a client that closes its direction


@pytest.mark.parametrize("kind", SERVED)
async def test_a_client_that_closes_its_direction_has_its_answers(kind: str, tmp_path: Path):
    """At once or later, for one request or several; what is not complete is not answered."""
    slow = b" /a?s=0.3 HTTP/1.1\r\n" + HOST
    async with served(kind, tmp_path) as master:
        assert await sent(master.port, GET + b"\r\n", None) == ([200], [["GET", "/a", 0, "127.0.0.1"]])
        assert await sent(master.port, b"GET" + slow + b"\r\n", None) == ([200], [["GET", "/a", 0, "127.0.0.1"]])
        assert (await sent(master.port, b"POST" + slow + FIVE + b"hello", None))[1] == [["POST", "/a", 5, "127.0.0.1"]]
        assert (await sent(master.port, 3 * (b"GET" + slow + b"\r\n"), None))[0] == [200, 200, 200]
        assert (await sent(master.port, b"GET" + slow + b"\r\nGET / HT", None))[0] == [200]
        assert (await sent(master.port, b"GET" + slow + b"\r\n" + POST + FIVE + b"he", None))[0] == [200]
        assert (await sent(master.port, POST + FIVE + b"he", None))[0] == []


async def test_an_application_hears_that_its_client_has_left(tmp_path: Path):
    """It waits for that, sends nothing, and its client has closed the connection as browsers do."""
    async with served("httptools", tmp_path) as master:
        async with await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
            await stream.send_all(b"GET /?wait HTTP/1.1\r\n" + HOST + b"\r\n")
            await master.said("waits")
        await master.said("disconnect")
        assert await master.stop() == 0


# --- what is not read


AHEAD = {
    "requests": GET + b"\r\n",
    "requests with large answers": b"GET /?size=100000 HTTP/1.1\r\n" + HOST + b"\r\n",
    "requests with bodies": POST + FIVE + b"hello",
}
TRAILERS = {"trailers": b"X-Some: trailer\r\n", "a long trailer": b"x" * 64}


def memory(pid: int) -> int:
    """The resident memory of a process in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) >> 10


async def poured(port: int, first: bytes, piece: bytes, most: int) -> int:
    """Send and read nothing, until the server reads nothing more for half a second, or has closed; bytes sent."""
    sent = 0
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(first)
        block = memoryview(piece * (65536 // len(piece)))
        try:
            while sent < most:
                with trio.move_on_after(0.5) as waited:
                    await stream.send_all(block)
                if waited.cancelled_caught:
                    break
                sent += len(block)
        except trio.BrokenResourceError:
            pass
    return sent


@pytest.mark.parametrize("kind", ["httptools", "h11", "trio"])
async def test_a_client_that_reads_nothing_is_not_read(kind: str, tmp_path: Path):
    """Of 40 MB of requests a few are taken into the kernel's buffers, and the worker grows by 20 MiB at most."""
    most = 40_000_000
    async with served(kind, tmp_path) as master:
        (pid,) = master.workers
        begun = memory(pid)
        for name, request in AHEAD.items():
            assert await poured(master.port, b"", request, most) < most, name
        for name, field in TRAILERS.items():
            begin = POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + (b"X: " if "long" in name else b"")
            assert await poured(master.port, begin, field, most) < most, name
        assert memory(pid) - begun < 20
        assert list(master.workers) == [pid]


@pytest.mark.parametrize("kind", SERVED)
async def test_a_client_that_still_sends_its_body_reads_the_answer(kind: str, tmp_path: Path):
    """The answer comes before the body is read, and ends the connection."""
    upload = POST + 3 * b"X: 1\r\n" + b"Content-Length: 8000000\r\n\r\n" + b"x" * 8_000_000
    async with served(kind, tmp_path, "--limit-request-fields", "3") as master:
        assert await sent(master.port, upload) == ([431], [])


@pytest.mark.parametrize("kind", SERVED)
async def test_a_client_that_still_sends_reads_that_it_is_refused(kind: str, tmp_path: Path):
    """What is refused is in a part of its own, so that the body comes when the answer is on its way."""
    head = POST + b"Malformed : 1\r\nContent-Length: 5000000\r\n\r\n"
    async with served(kind, tmp_path) as master:
        for body in (b"x" * 5_000_000, b""):
            assert await sent(master.port, head, body) == ([400], []), len(body)


# --- rare forms


RARE: dict[str, tuple[bytes, tuple[list[int], list[list[object]]]]] = {
    "blank lines before a request": (b"\r\n\r\n" + LAST, ([200], [["GET", "/last", 0, "127.0.0.1"]])),
    "a blank line between requests": (
        POST + FIVE + b"hello\r\n" + LAST,
        ([200, 200], [["POST", "/a", 5, "127.0.0.1"], ["GET", "/last", 0, "127.0.0.1"]]),
    ),
    "a path that is no UTF-8": (LAST.replace(b"/last", b"/%E9"), ([200], [["GET", "/\ufffd", 0, "127.0.0.1"]])),
    "absolute form": (LAST.replace(b"/last", b"http://test/b?c"), ([200], [["GET", "/b", 0, "127.0.0.1"]])),
    "absolute form without a path": (LAST.replace(b"/last", b"http://test"), ([200], [["GET", "/", 0, "127.0.0.1"]])),
    "a tunnel": (b"CONNECT test:443 HTTP/1.1\r\n" + HOST + b"\r\n", ([400], [])),
    "a tunnel to a path": (b"CONNECT /last HTTP/1.1\r\n" + HOST + b"\r\n", ([400], [])),
    "a path with a stray per cent sign": (LAST.replace(b"/last", b"/%"), ([200], [["GET", "/%", 0, "127.0.0.1"]])),
    "a path that looks wrapped": (LAST.replace(b"last", b"%25%E9"), ([200], [["GET", "/%\ufffd", 0, "127.0.0.1"]])),
    "a fragment": (LAST.replace(b"/last", b"/a#b"), ([200], [["GET", "/a", 0, "127.0.0.1"]])),
    "absolute form without a host": (LAST.replace(b"/last", b"http:///a"), ([400], [])),
    "absolute form with no port": (LAST.replace(b"/last", b"http://test:a/"), ([400], [])),
    "no path at all": (LAST.replace(b"/last", b"last"), ([400], [])),
    "the server itself": (LAST.replace(b"GET /last", b"OPTIONS *"), ([200], [["OPTIONS", "*", 0, "127.0.0.1"]])),
    "a method in lower case": (LAST.replace(b"GET", b"get"), ([400], [])),
    "a websocket in HTTP/1.0": (
        b"GET /a HTTP/1.0\r\n" + HOST + WEBSOCKET + b"\r\n",
        ([200], [["GET", "/a", 0, "127.0.0.1"]]),
    ),
}


@pytest.mark.parametrize("kind", ["httptools", "h11", "trio"])
async def test_rare_forms_of_requests_are_answered_alike(kind: str, tmp_path: Path):
    async with served(kind, tmp_path) as master:
        for name, (data, expected) in RARE.items():
            assert await sent(master.port, data) == expected, name
        async with await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
            with trio.fail_after(PATIENCE):
                await stream.send_all(b"GET /caf%E9 HTTP/1.1\r\n" + HOST + WEBSOCKET + b"\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")


async def test_http_2_has_the_paths_of_http_1(tmp_path: Path):
    paths = {"/caf%E9": "/caf\ufffd", "/%": "/%", "/%25%2541": "/%%41", "*": "*", "%25/": None, "caf": None}
    async with served("trio", tmp_path) as master, await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
        client = Modern(stream)
        for path in paths:
            await client.ask(path, 1)
        answers: dict[int, Any] = dict.fromkeys(range(1, 2 * len(paths), 2))
        open_streams = set(answers)
        with trio.fail_after(PATIENCE):
            while open_streams:
                for event in client.http.receive_data(await stream.receive_some()):
                    if isinstance(event, h2.events.DataReceived) and event.data:
                        assert event.stream_id is not None
                        answers[event.stream_id] = json.loads(event.data)[1]
                    if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        open_streams.discard(event.stream_id)
        assert list(answers.values()) == list(paths.values())


@pytest.mark.parametrize("kind", ["endless", "endless without httptools", "endless on trio"])
async def test_a_stream_whose_client_has_left_holds_no_drain(kind: str, tmp_path: Path):
    """It ends when it sends on, without an error in the log; while the worker serves it may go on, as with uvicorn."""
    async with served(kind, tmp_path, "--graceful-timeout", "600s") as master:
        async with await trio.open_tcp_stream("127.0.0.1", master.port) as stream:
            await stream.send_all(GET + b"\r\n")
            with trio.fail_after(PATIENCE):
                assert b"200" in await stream.receive_some()
        with trio.fail_after(PATIENCE):
            assert await master.stop() == 0
        assert "the stream has ended" in master.text
        assert "Traceback" not in master.text
