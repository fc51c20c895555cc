"""Requests that never end, and whose clients have left, take as much of a worker as open connections."""

from __future__ import annotations

import json
import os

import pytest
import trio

from tests.whole.harness import PATIENCE, connect, dial, rrmaster, running

RUNTIMES = {
    "uvloop": ("stuck_in_slot_0:app", "--runtime", "uvloop"),
    "asyncio": ("stuck_in_slot_0:app", "--runtime", "asyncio", "--interface", "asgi"),
    "trio": ("stuck_in_slot_0:app", "--runtime", "trio", "--interface", "asgi"),
    "wsgi": ("stuck_in_slot_0:wsgi", "--threads", "4"),
    "stream": ("stuck_in_slot_0:stream", "--interface", "stream", "--runtime", "asyncio"),
}


async def get(stream: trio.SocketStream, path: str) -> str:
    """The slot of the worker that answers.  The connection is kept."""
    await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    answer = b""
    with trio.fail_after(PATIENCE):
        while not answer.partition(b"\r\n\r\n")[2]:
            data = bytes(await stream.receive_some())
            assert data, answer
            answer += data
    return answer[-1:].decode()


async def workers(control: str) -> list[dict[str, int]]:
    """What `status` says of the workers, by slot."""
    found = await trio.to_thread.run_sync(lambda: rrmaster("status", "--json", "--control", control))
    return sorted(json.loads(found.stdout)["workers"], key=lambda worker: worker["slot"])


@pytest.mark.parametrize("options", RUNTIMES.values(), ids=RUNTIMES)
async def test_a_worker_full_of_requests_without_clients_gets_nothing_while_another_is_idle(options, tmp_path):
    control = str(tmp_path / "control")
    async with running(options[0], *options[1:], "--control", control, workers=2) as master:
        hanging = await master.burst(12)
        for stream in hanging:
            await stream.send_all(b"GET /hang HTTP/1.1\r\nHost: test\r\n\r\n")
        with trio.fail_after(PATIENCE):
            while (await workers(control))[0]["busy"] < 4:
                pass
        for stream in hanging:
            await stream.aclose()
        with trio.fail_after(PATIENCE):
            while (await workers(control))[1]["open"]:
                pass
        assert (await workers(control))[0]["busy"] >= 4
        idle = await dial(master)
        assert await get(idle, "/") == "1", "the healthy worker has one idle connection"
        slots = []
        for _ in range(3):
            stream = await connect(master.port)
            slots.append(await get(stream, "/"))
            await stream.aclose()
        assert slots == ["1"] * 3


async def test_the_lag_of_a_blocked_worker_shows_while_it_is_blocked_and_for_a_while_after(tmp_path):
    control = str(tmp_path / "control")
    release = tmp_path / "release"
    os.mkfifo(release)
    environ = {"RELEASE": str(release)}
    async with running("stuck_in_slot_0:app", "--control", control, workers=1, environ=environ) as master:
        stream = await dial(master)
        await stream.send_all(b"GET /block HTTP/1.1\r\nHost: test\r\n\r\n")
        with trio.fail_after(PATIENCE):
            while (await workers(control))[0]["lag_us"] < 1_000_000:
                pass
        release.write_text("")
        with trio.fail_after(PATIENCE):
            assert await stream.receive_some()
            while not (found := (await workers(control))[0])["requests"]:
                pass
        assert found["lag_us"] > 900_000
