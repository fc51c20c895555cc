"""What a program learns of the idle pool: that it stands, is full, has ended, and what was cut with it."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from rrmaster import PoolCut, PoolEnded, PoolFull, PoolStarted
from tests.whole.harness import connect
from tests.whole.test_library import a_master, port, until

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
PARKING = {"application": "parks:app", "park_after": 0.0, "keep_alive": 60.0, "max_parked": 2, "workers": 1}


async def test_a_pool_that_stands_is_full_and_is_killed_is_told_with_what_was_cut(caplog: pytest.LogCaptureFixture):
    async with a_master(**PARKING) as (master, told):
        async with trio.open_nursery() as clients:
            for _ in range(5):
                stream = await connect(port(master))
                clients.start_soon(_closed, stream)
                await stream.send_all(REQUEST)
            full = await until(told, PoolFull)
            assert full == PoolFull(2, full.closed)  # type: ignore[attr-defined]
            pool = master.status().pool
            assert pool is not None
            assert pool.pid is not None
            while (pool := master.status().pool) is not None and pool.held < 2:
                await trio.sleep(0.01)
            assert pool is not None
            assert pool.pid is not None
            os.kill(pool.pid, signal.SIGKILL)
            assert await until(told, PoolCut) == PoolCut(2)
        await until(told, PoolEnded, pid=pool.pid)
        while len(started := [event for event in told if isinstance(event, PoolStarted)]) < 2:
            await trio.sleep(0.01)
        assert started[0] == PoolStarted(pool.pid)
    assert sum(isinstance(event, PoolFull) for event in told) == 1, "once a minute"
    assert sum(isinstance(event, PoolEnded) for event in told) == 1, "a stop of the fleet is none"


async def _closed(stream: trio.SocketStream) -> None:
    """Read until the server closes the connection."""
    async with stream:
        while await stream.receive_some():
            pass
