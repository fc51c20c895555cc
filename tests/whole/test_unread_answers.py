"""A client that does not read its answer loses its place, on each runtime alike, and never costs its worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.whole.browser import browsing
from tests.whole.harness import PATIENCE, Running, closed, running, status

RUNTIMES = {
    "uvloop": ("asgi_apps:pours", "--runtime", "uvloop"),
    "asyncio": ("asgi_apps:pours", "--runtime", "asyncio"),
    "trio": ("asgi_apps:pours", "--runtime", "trio"),
    "wsgi": ("with_flask:app", "--threads", "8"),
}

SHORT = ("--send-timeout", "1s", "--keep-alive", "60s")

PARTS = b"GET /parts HTTP/1.1\r\nHost: test\r\n\r\n"
WHOLE = b"GET /whole HTTP/1.1\r\nHost: test\r\n\r\n"
WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

CLIENTS: dict[str, tuple[bytes, int]] = {
    "never reads": (PARTS, 0),
    "stops in the head": (PARTS, 10),
    "stops after a while": (PARTS, 3_000_000),
    "of a whole answer": (WHOLE, 1000),
    "and sends requests ahead": (PARTS * 3, 0),
    "of a websocket": (WEBSOCKET, 1000),
}
"""What each sends, and how many bytes it reads."""


async def _stop_reading(port: int, request: bytes, count: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(request)
    with trio.fail_after(PATIENCE):
        while count > 0:
            count -= len(await stream.receive_some(min(count, 65_536)))
    return stream


async def _open(control: Path) -> int:
    (worker,) = (await status(control)).workers
    return worker.open


async def _none_is_open(master: Running, control: Path) -> None:
    with trio.move_on_after(PATIENCE):
        while await _open(control):
            await trio.sleep(0.3)
        return
    raise AssertionError(master.text)


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_a_client_that_stops_reading_at_any_moment_loses_its_place(runtime: str, tmp_path: Path) -> None:
    control = tmp_path / "control"
    names = [name for name in CLIENTS if runtime != "wsgi" or CLIENTS[name][0][:12] == PARTS[:12]]
    async with running(*RUNTIMES[runtime], *SHORT, "--control", str(control), workers=1) as master:
        before = dict(master.workers)
        held = [await _stop_reading(master.port, *CLIENTS[name]) for name in names]
        await _none_is_open(master, control)
        for stream in held:
            await closed(stream)
            await stream.aclose()
        async with browsing(master.port) as other:
            assert (await other.get("/")).status == 200
        assert master.workers == before


@pytest.mark.parametrize("runtime", ["trio", "wsgi"])
async def test_a_request_over_its_time_whose_client_does_not_read_costs_no_worker(runtime: str, tmp_path: Path) -> None:
    control = tmp_path / "control"
    limits = ("--request-timeout", "1s", "--send-timeout", "0")
    async with running(*RUNTIMES[runtime], *limits, "--control", str(control), workers=1) as master:
        before = dict(master.workers)
        held = await _stop_reading(master.port, PARTS, 0)
        await _none_is_open(master, control)
        async with browsing(master.port) as other:
            assert (await other.get("/")).status == 200
        assert master.workers == before
        assert "this worker is replaced" not in master.text
        await held.aclose()
