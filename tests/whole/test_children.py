"""Children of the application: what a worker holds is not theirs, so what is done to them is not done to it."""

from __future__ import annotations

import pytest
import trio

from tests.whole.harness import PATIENCE, running

WAYS = {"pool": "[1, 4, 9]", "process": "-15", "fork": "-15", "pty": "-15", "command": "-15"}
"""How a request forks children and ends them by SIGTERM, and what it then answers."""

RUNTIMES = [("uvloop", "asgi"), ("asyncio", "asgi"), ("trio", "asgi"), ("uvloop", "wsgi")]


@pytest.mark.parametrize(("runtime", "attribute"), RUNTIMES)
async def test_a_signal_to_a_child_of_the_application_ends_the_child_and_does_not_reach_the_worker(
    runtime: str, attribute: str
):
    async with running(f"forks_children:{attribute}", "--runtime", runtime, workers=1) as master:
        (pid,) = master.workers
        for _ in range(3):
            for way, said in WAYS.items():
                assert f"{said} {pid}" in await get(master.port, f"/{way}")
        assert list(master.workers) == [pid], "it lives"
        assert "SIGTERM" not in master.text, "nor has it asked for a replacement"
        assert await master.stop() == 0


@pytest.mark.parametrize("reaps", ["", "yes"])
async def test_an_import_that_ignores_or_reaps_children_is_forked_and_its_workers_do_as_it_says(reaps: str):
    async with running("ignores_children:app", workers=2, environ={"REAPS": reaps}) as master:
        await master.said("has imported ignores_children:app")
        assert "kept True" in await get(master.port, "/")
        assert await master.stop() == 0


async def get(port: int, path: str) -> str:
    """The whole answer, to the end of the connection."""
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            return b"".join([bytes(data) async for data in stream]).decode()
