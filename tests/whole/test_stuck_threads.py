"""A worker whose threads are all taken gets no connections while another has threads to spare."""

from __future__ import annotations

import select
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from attrs import define

from rrmaster.config.names import POLICIES
from tests.fakes import eventually
from tests.whole.browser import STAYS
from tests.whole.harness import PATIENCE, Running, dial, running
from tests.whole.test_stuck_requests import get, workers

THREADS = 4
ASGI = ("--interface", "asgi")
RUNTIMES = {
    "fastapi": ("stuck_threads:fastapi", "--factory", "--runtime", "uvloop"),
    "fastapi on asyncio": ("stuck_threads:fastapi", "--factory", *ASGI, "--runtime", "asyncio"),
    "fastapi on trio": ("stuck_threads:fastapi", "--factory", *ASGI, "--runtime", "trio"),
    "trio": ("stuck_threads:on_trio", *ASGI, "--runtime", "trio"),
    "executor": ("stuck_threads:on_asyncio", *ASGI, "--runtime", "uvloop"),
    "executor on asyncio": ("stuck_threads:on_asyncio", *ASGI, "--runtime", "asyncio"),
    "own limiter": ("stuck_threads:own_limiter", *ASGI, "--runtime", "uvloop"),
    "wsgi": ("stuck_threads:wsgi", "--threads", str(THREADS)),
}
every_runtime = pytest.mark.parametrize("options", RUNTIMES.values(), ids=RUNTIMES)


@define(eq=False)
class Fleet:
    """Two workers; threads hang in slot 0, or in both."""

    master: Running
    control: str
    release: Path

    async def ask(self, path: str = "/") -> str:
        """The slot that answers.  The connection is kept, and idle."""
        return await get(await dial(self.master), path)

    async def hang(self, slots: str, count: int) -> None:
        """Have `count` requests hang in each of these slots; others are answered, and their connections idle."""
        sized: set[str] = set()
        with trio.fail_after(PATIENCE):
            while len(sized) < 2:
                sized.add(await self.ask("/size"))
        for hanging in range(1, count * len(slots) + 1):
            while len(list(self.release.parent.glob("hangs-*"))) < hanging:
                stream = await dial(self.master)
                await stream.send_all(b"GET /hang HTTP/1.1\r\nHost: test\r\n\r\n")
                await eventually(lambda: self._is_over(stream, hanging))  # noqa: B023  # called before the next
        await self.until_full(slots if count == THREADS else "")

    async def until_full(self, slots: str) -> None:
        """Wait until the master knows that the workers in these slots are full, and no others."""
        with trio.fail_after(PATIENCE):
            while "".join(str(one["slot"]) for one in await workers(self.control) if one["full"]) != slots:
                pass

    def _is_over(self, stream: trio.SocketStream, hanging: int) -> bool:
        """Whether the request is answered, or hangs as another one."""
        hung = len(list(self.release.parent.glob("hangs-*"))) == hanging
        return hung or bool(select.select([stream.socket], [], [], 0)[0])


@asynccontextmanager
async def fleet(options: tuple[str, ...], tmp_path: Path, slots: str = "0") -> AsyncIterator[Fleet]:
    release, control = tmp_path / "release", str(tmp_path / "control")
    environ = {"RELEASE": str(release), "HANG": slots}
    # On a crowded machine a healthy worker may not run for 20 ms, and then counts as stuck, which is worse than full.
    # And idle connections are counted here: one that rests outside of its worker is not.
    more = ("--control", control, "--recall-after", "1s", *STAYS)
    async with running(*options, *more, workers=2, environ=environ) as master:
        try:
            yield Fleet(master, control, release)
        finally:
            release.touch()


@every_runtime
async def test_a_worker_whose_threads_all_hang_gets_nothing_while_another_has_one_free(options, tmp_path):
    async with fleet(options, tmp_path) as ours:
        await ours.hang("0", THREADS)
        assert [await ours.ask() for _ in range(20)] == ["1"] * 20
        ours.release.touch()
        with trio.fail_after(PATIENCE):
            while await ours.ask() != "0":
                pass


@pytest.mark.parametrize("policy", [*POLICIES[1:], "stuck_threads:emptiest"])
async def test_every_policy_knows_a_worker_whose_threads_all_hang(policy, tmp_path):
    async with fleet((*RUNTIMES["wsgi"], "--policy", policy), tmp_path) as ours:
        await ours.hang("0", THREADS)
        assert [await ours.ask() for _ in range(20)] == ["1"] * 20


@every_runtime
async def test_a_worker_with_half_of_its_threads_hanging_gets_its_share_and_answers_all(options, tmp_path):
    async with fleet(options, tmp_path) as ours:
        await ours.hang("0", THREADS // 2)
        assert Counter([await ours.ask() for _ in range(20)]).keys() == {"0", "1"}


async def test_where_all_threads_of_all_workers_hang_both_still_get_connections(tmp_path):
    """Endpoints that need no thread are answered, a health check say."""
    async with fleet(RUNTIMES["fastapi"], tmp_path, "01") as ours:
        await ours.hang("01", THREADS)
        assert {await ours.ask("/async") for _ in range(20)} == {"0", "1"}


async def test_an_application_says_that_it_is_full(tmp_path):
    async with fleet(("stuck_threads:says_full", *ASGI), tmp_path) as ours:
        with trio.fail_after(PATIENCE):
            while await ours.ask("/full") != "0":
                pass
        await ours.until_full("0")
        assert [await ours.ask() for _ in range(20)] == ["1"] * 20
