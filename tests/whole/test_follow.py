"""`events` and `logs -f` follow over reloads, say how the master ended, and with --retry go on with the next one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import Factory, define

from tests.whole.harness import BRIEF, ROOT, Running, ask, running

PATIENCE = 60.0
"""Seconds until a wait fails.  A follower is a Python that starts, beside a master that starts its workers."""


@define(eq=False)
class Follower:
    """A verb that follows, and what it has printed."""

    process: trio.Process
    lines: list[str] = Factory(list)
    errors: bytearray = Factory(bytearray)

    async def read(self) -> None:
        unread = b""
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            *whole, unread = (unread + data).split(b"\n")
            self.lines += [line.decode() for line in whole]

    async def read_errors(self) -> None:
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.errors += data

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    async def ended(self) -> int:
        with trio.fail_after(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def following(path: Path, *words: str) -> AsyncIterator[Follower]:
    command = [sys.executable, "-m", "rrmaster", *words, "--control", str(path)]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        )
        follower = Follower(process)
        nursery.start_soon(follower.read)
        nursery.start_soon(follower.read_errors)
        try:
            yield follower
        finally:
            nursery.cancel_scope.shield = True
            if process.returncode is None:
                process.kill()
                await process.wait()


async def until(true: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not true():
            await trio.sleep(0.02)


async def prints_until_seen(master: Running, text: str, *followers: Follower) -> None:
    """Let workers print this until each follower has it: a follower does not say when it begins."""
    with trio.fail_after(PATIENCE):
        while not all(any(f"out {text}" in line for line in follower.lines) for follower in followers):
            await ask(master.port, text.encode())
            await trio.sleep(0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def test_followers_go_on_over_a_reload_and_are_told_that_the_master_has_stopped(path: Path):
    async with (
        running("handlers:prints", *BRIEF, "--control", str(path), workers=2) as master,
        following(path, "logs", "-f", "--json") as as_json,
        following(path, "logs", "-f") as as_text,
        following(path, "events", "--json", "-n", "1000") as events,
    ):
        await prints_until_seen(master, "before", as_json, as_text)
        await until(lambda: any("ready: 2 of 2" in line for line in events.lines))
        master.signal(signal.SIGHUP)
        await master.said("generation 2 serves alone")
        await prints_until_seen(master, "after", as_json, as_text)
        assert await master.stop() == 0
        assert [await follower.ended() for follower in (as_json, as_text, events)] == [0, 0, 0]
        await until(lambda: bool(events.lines) and "ended" in events.lines[-1])
        *printed, last = as_json.objects()
        assert last == printed[-1] | dict.fromkeys(("slot", "pid", "generation", "stream")) | {
            "time": last["time"],
            "level": "info",
            "event": "follow.ended",
            **dict.fromkeys(("text", "ended"), "the master has stopped"),
        }
        assert last["time"] >= printed[-1]["time"]
        assert {entry["generation"] for entry in printed} == {1, 2}
        assert {entry["event"] for entry in printed} == {"worker.output"}
        assert as_text.lines[-1] == "(the master has stopped)"
        *happened, last = events.objects()
        assert (last["event"], last["ended"]) == ("follow.ended", "the master has stopped")
        assert all(entry.keys() >= {"time", "level", "event", "text"} for entry in (*happened, last))
        assert any("generation 2 serves alone" in entry["text"] for entry in happened)
        assert sum(entry.get("state") == "gone" for entry in happened) == 4, "to the last worker"


async def test_the_end_of_a_master_that_was_killed_is_told_too_and_is_no_success(path: Path):
    async with (
        running("handlers:prints", "--control", str(path), workers=1) as master,
        following(path, "logs", "-f") as as_text,
        following(path, "events", "-n", "1000") as events,
    ):
        await prints_until_seen(master, "here", as_text)
        await until(lambda: bool(events.lines))
        master.signal(signal.SIGKILL)
        await master.ended()
        assert [await follower.ended() for follower in (as_text, events)] == [1, 1]
        why = f"{path}: the master has ended"
        await until(lambda: events.errors.endswith(b"\n") and as_text.errors.endswith(b"\n"))
        assert as_text.errors.decode() == events.errors.decode() == f"rrmaster: {why}\n"
        await until(lambda: events.objects()[-1].get("ended") == why)


async def test_with_retry_a_follower_waits_for_the_next_master_and_goes_on(path: Path):
    options = ("handlers:prints", "--control", str(path))
    async with running(*options, workers=1) as master, following(path, "logs", "-f", "--retry", "--json") as follower:
        await prints_until_seen(master, "first", follower)
        assert await master.stop() == 0
        async with running(*options, workers=1) as next_master:
            await prints_until_seen(next_master, "second", follower)
            assert [entry["ended"] for entry in follower.objects() if "ended" in entry] == ["the master has stopped"]
            follower.process.send_signal(signal.SIGINT)
            assert await follower.ended() == 130
