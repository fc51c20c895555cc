"""A request that is stuck is cancelled in place, or costs its worker where that is impossible."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from tests.whole.browser import browsing
from tests.whole.harness import PATIENCE, rrmaster, running

TASKS = {
    "uvloop": ("with_fastapi:app", "--runtime", "uvloop"),
    "asyncio": ("with_fastapi:app", "--runtime", "asyncio"),
    "trio": ("with_trio:app", "--runtime", "trio"),
}

THREADS = {
    "wsgi": ("with_flask:app", "/slow?ms=60000"),
    "a thread of anyio": ("with_fastapi:app", "/blocks"),
}

LIMIT = ("--request-timeout", "1s")


@pytest.mark.parametrize("runtime", TASKS)
async def test_a_task_that_is_stuck_is_cancelled_and_its_worker_lives(runtime: str) -> None:
    async with running(*TASKS[runtime], *LIMIT, workers=1) as master:
        before = dict(master.workers)
        async with browsing(master.port) as stuck, browsing(master.port) as other:
            assert (await stuck.get("/slow?ms=60000")).status == 500
            await master.said(r"GET '/slow' has been in progress for \d\.\d s \(--request-timeout 1s\): cancelled")
            assert (await other.get("/slow?ms=200")).status == 200
        assert master.workers == before


@pytest.mark.parametrize("where", THREADS)
async def test_a_thread_that_is_stuck_costs_its_worker(where: str) -> None:
    """The worker says so, shows where the thread is, is replaced at once, and ends with the graceful timeout."""
    application, path = THREADS[where]
    async with running(application, *LIMIT, "--graceful-timeout", "2s", workers=1) as master:
        (old,) = master.workers
        async with browsing(master.port) as stuck:
            await stuck.ask(path)
            await master.said(r"in a thread, which cannot be cancelled: this worker is replaced")
            await master.said(rf'File ".*", line \d+ in {"slow" if where == "wsgi" else "blocks"}')
            await master.until(lambda: bool(master.workers) and old not in master.workers, "replaced")
            async with browsing(master.port) as other:
                assert (await other.get("/")).json["pid"] != old
            await master.said(rf"worker 0 \(pid {old}\): .* -> gone")


@pytest.mark.parametrize("how", ["wsgi", "trio", "uvloop"])
async def test_status_tells_the_age_of_the_oldest_request(how: str, tmp_path: Path) -> None:
    command, control = TASKS.get(how, ("with_flask:app",)), str(tmp_path / "control")
    options = ("--control", control, "--graceful-timeout", "1s")
    async with running(*command, *options, workers=1) as master, browsing(master.port) as slow:
        assert await _oldest(control) == 0
        await slow.ask("/slow?ms=60000")
        with trio.fail_after(PATIENCE):
            while await _oldest(control) < 500:
                await trio.sleep(0.1)


async def _oldest(control: str) -> int:
    """Milliseconds, as the only worker has reported; before its first report 0."""
    done = await trio.to_thread.run_sync(lambda: rrmaster("status", "--json", "--control", control))
    (worker,) = json.loads(done.stdout)["workers"]
    return int(worker["oldest_ms"] or 0)
