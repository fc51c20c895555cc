"""A client that is silent, endless or does not read is dropped, and delays no other client."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from rrmaster.control.recent_log import MAX_ENTRIES
from rrmaster.control.session import IDLE_S, MAX_REQUEST, SEND_S
from tests.control.serving import serving


async def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await served.connect()
        await client.stream.send_all(b"x" * (MAX_REQUEST + 1))
        (answer,) = await client.answer()
        assert answer["status"] == 1
        assert await client.line() is None


async def test_a_client_that_is_silent_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with serving(tmp_path) as served:
        silent, half = await served.connect(), await served.connect()
        await half.stream.send_all(b'{"do": ')
        before = trio.current_time()
        assert await silent.line() is None
        assert await half.line() is None
        assert trio.current_time() - before <= IDLE_S + 1


async def test_a_client_that_does_not_read_is_dropped_and_the_others_are_served(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with serving(tmp_path) as served:
        await served.follow(do="logs")
        for _ in range(MAX_ENTRIES):
            served.prints(0, "x" * 4000)  # 4 MB, far beyond any socket's buffer
        assert (await served.end_of(do="status"))["status"] == 0
        await trio.sleep(SEND_S + 1)
        assert served.server.log.followers == 0
        assert served.server.sessions == []
