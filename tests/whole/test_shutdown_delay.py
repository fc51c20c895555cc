"""`--shutdown-delay`: at SIGTERM a fleet is not ready, and serves on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from tests.whole.harness import PATIENCE, ask, rrmaster, running

APP = "handlers:quick"


async def ready(control: Path) -> tuple[int, str]:
    done = await trio.to_thread.run_sync(lambda: rrmaster("status", "--ready", "--control", str(control)))
    return done.returncode, done.stdout


@pytest.mark.parametrize("way", ["TERM", "stop"])
async def test_clients_are_served_after_the_fleet_has_said_that_it_is_not_ready(tmp_path: Path, way: str) -> None:
    control = tmp_path / "control.sock"
    async with running(APP, "--control", str(control), "--shutdown-delay", "3s", workers=2) as master:
        assert await ready(control) == (0, "ready\n")
        if way == "TERM":
            master.signal(signal.SIGTERM)
        else:
            stop = await trio.to_thread.run_sync(lambda: rrmaster("stop", "--no-wait", "--control", str(control)))
            assert stop.returncode == 0
        await master.said("not ready; serves on for 3 s")
        assert await ready(control) == (1, "not ready: the master is stopping\n")
        for _ in range(20):
            assert await ask(master.port)
        assert "draining" not in master.text
        assert await master.ended() == 0
        assert "stopped: 20 connections accepted" in master.text


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGQUIT])
async def test_a_person_at_the_terminal_does_not_wait_for_load_balancers(first: int) -> None:
    async with running(APP, "--shutdown-delay", "1h", workers=1) as master:
        master.signal(first)
        assert await master.ended() == 0


async def test_a_second_signal_ends_the_delay() -> None:
    async with running(APP, "--shutdown-delay", "1h", workers=1) as master:
        master.signal(signal.SIGTERM)
        await master.said("not ready; serves on")
        master.signal(signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            await master.process.wait()


async def test_a_worker_that_dies_in_the_delay_is_replaced() -> None:
    async with running(APP, "--shutdown-delay", "1h", workers=1) as master:
        [victim] = master.workers
        master.signal(signal.SIGTERM)
        await master.said("not ready; serves on")
        os.kill(victim, signal.SIGKILL)
        await master.until(lambda: bool(master.workers) and victim not in master.workers, "a replacement serves")
        assert await ask(master.port)
        master.signal(signal.SIGQUIT)
        assert await master.ended() == 0
