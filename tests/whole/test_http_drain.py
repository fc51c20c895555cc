"""A drain loses nothing: what happens to each kind of connection when its worker drains?"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.whole.browser import DRAINS, FRAMEWORKS, STAYS, Ends, browsing, customer, last_answer
from tests.whole.harness import BRIEF, PATIENCE, Running, running


@asynccontextmanager
async def one_worker(*options: str) -> AsyncIterator[Running]:
    async with running("with_fastapi:app", *DRAINS, *options, workers=1) as master:
        yield master


async def drained(master: Running) -> None:
    """Wait until the only worker drains."""
    master.signal(signal.SIGTERM)
    await master.said("serving -> draining")


@pytest.mark.parametrize("options", [(), ("--runtime", "asyncio")])
async def test_every_kind_of_connection_ends_properly(options: tuple[str, ...]):
    """Virgin, idle, busy and streaming connections, and a task after the answer, in one worker that drains."""
    async with one_worker(*options) as master, browsing(master.port) as virgin, browsing(master.port) as idle:
        async with browsing(master.port) as busy, browsing(master.port) as after:
            assert not (await idle.get("/")).last
            await busy.ask("/slow?ms=700")
            assert (await after.get("/afterwards?ms=1000", Connection="close")).status == 200
            await drained(master)
            await last_answer(virgin)
            await last_answer(idle)
            answer = await busy.answer()
            assert (answer.status, answer.last) == (200, True)
            assert await busy.closed()
        assert await master.ended() == 0
        assert master.text.index("done afterwards") < master.text.index("lifespan ends")


async def test_a_silent_client_is_not_waited_for_for_long():
    """A virgin connection for two seconds, an idle one and a websocket for half of the graceful timeout (1012)."""
    async with one_worker() as master, browsing(master.port) as virgin, browsing(master.port) as idle:
        assert not (await idle.get("/")).last
        noted = Ends()
        ends = noted.at
        async with trio.open_nursery() as nursery:
            await nursery.start(noted.of_websocket, master.port)
            began = trio.current_time()
            await drained(master)
            nursery.start_soon(noted.of, "virgin", virgin)
            nursery.start_soon(noted.of, "idle", idle)
        assert await master.ended() == 0
        # Not before; on a busy machine it may be later.
        assert ends["virgin"] - began >= 1.9
        assert ends["idle"] - began >= 3.9
        assert ends["websocket"] - began >= 3.9
        assert ends["virgin"] < ends["idle"]


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TEXT = b"\x81\xfe\x40\x00" + bytes(4) + b"x" * 0x4000
"""A frame of a client, masked with zeros."""


@pytest.mark.parametrize("runtime", ["uvloop", "asyncio"])
async def test_a_websocket_whose_client_never_answers_does_not_hold_the_drain(runtime: str):
    """One reads and does not answer Close; another does not read what the application sends."""
    options = ("--runtime", runtime, "--graceful-timeout", "4s")
    async with running("tells:app", *options, workers=1) as master:
        for stream in await master.burst(2):
            await stream.send_all(HANDSHAKE)
            with trio.fail_after(PATIENCE):
                assert b" 101 " in await stream.receive_some()
        with trio.move_on_after(1):
            while True:
                await stream.send_all(TEXT)
        assert await master.stop() == 0
        assert "draining -> gone, exited with status 0" in master.text
        assert "not done in time" not in master.text


async def test_a_second_signal_ends_a_worker_whatever_it_does():
    """A request in a thread, which cannot be cancelled, too."""
    async with running("with_flask:app", "--graceful-timeout", "500ms", workers=1) as master:
        async with browsing(master.port) as browser:
            await browser.ask("/slow?ms=60000")
            await master.said("serving")
            master.signal(signal.SIGTERM)
            await master.said("draining -> stopping")
            assert await browser.closed()
        await master.said("stopping -> gone, exited with status 0")


@pytest.mark.parametrize("application", FRAMEWORKS)
async def test_a_reload_under_load_fails_no_request(application: str):
    """Clients with new connections, and with kept ones, with and without pauses between requests."""
    path = "/slow?ms=20" if application in ("with_fastapi:app", "with_flask:app") else "/"
    async with running(application, *FRAMEWORKS[application], *BRIEF, workers=2) as master:
        ledger: Counter[str] = Counter()

        def over() -> bool:
            return master.text.count("draining -> gone, exited with status 0") >= 4

        async with trio.open_nursery() as nursery:
            for think in (0.0, 0.01, 0.3):
                for _ in range(3):
                    nursery.start_soon(customer, master.port, ledger, over, think, path)
            for _ in range(3):
                nursery.start_soon(partial(customer, master.port, ledger, over, 0.0, path, Connection="close"))
            for generation in (2, 3):
                master.signal(signal.SIGHUP)
                await master.said(f"committed: generation {generation} serves alone")
        assert ledger.keys() == {"200"}, ledger
        assert await master.stop() == 0


async def test_a_reload_of_new_code_serves_kept_connections():
    """The next answer over a kept connection comes from the new worker."""
    async with running("with_starlette:make", "--factory", *BRIEF, workers=1) as master:
        (old,) = master.workers
        async with browsing(master.port) as browser:
            assert (await browser.get("/")).json["pid"] == old
            master.signal(signal.SIGHUP)
            await master.said("draining -> gone")
            answer = await browser.get("/")
            assert (answer.json["pid"] != old, answer.last) == (True, False)


async def test_a_reload_of_new_code_is_seen_by_connections_that_stay():
    """The next answer over a kept connection says close, and the one after it comes from the new worker."""
    async with running("with_starlette:make", "--factory", *BRIEF, *STAYS, workers=1) as master:
        (old,) = master.workers
        async with browsing(master.port) as browser:
            assert (await browser.get("/")).json["pid"] == old
            master.signal(signal.SIGHUP)
            await master.said("serving -> draining")
            await last_answer(browser)
        async with browsing(master.port) as browser:
            assert (await browser.get("/")).json["pid"] != old
