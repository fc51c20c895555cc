"""With a control group for each worker nothing that it starts outlives it, however it and its master end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from tests.groups import entering, until_empty, within
from tests.whole.harness import BRIEF, running
from tests.whole.test_children import get
from tests.whole.test_orphans import ENDS, WAYS, a_kill_of_the_master, end, left, lives, start

CASES = [
    ("asyncio", "asgi", "master", "off"),
    ("uvloop", "wsgi", "master", "auto"),
    ("trio", "stream", "reload", "auto"),
]


@pytest.mark.parametrize(("runtime", "attribute", "how", "preload"), CASES)
async def test_nothing_that_a_worker_starts_outlives_it(
    runtime: str, attribute: str, how: str, preload: str, group: Path
) -> None:
    options = ("--runtime", runtime, "--hang-timeout", "1s", "--graceful-timeout", "1s", *BRIEF, "--preload", preload)
    async with running(f"leaves_children:{attribute}", *options, workers=1, under=entering(group)) as master:
        (worker,) = master.workers
        children = await start(master, *WAYS)
        try:
            await ENDS[how](master, worker)
            assert await left(children, lambda found: found["lives"] == 0) == {"ended": len(WAYS)}
        finally:
            end(children)


async def test_each_ends_with_its_own_worker_and_no_other(group: Path) -> None:
    """Also those without any mark, of which nothing else tells whose they are."""
    options = ("--policy", "round-robin")
    async with running("leaves_children:asgi", *options, workers=2, under=entering(group)) as master:
        dead, other = workers = set(master.workers)
        owners: dict[str, int] = {}
        try:
            while set(owners.values()) != workers:
                worker, child = (await get(master.port, "/and-worker-clean-twice")).split()[-2:]
                owners[child] = int(worker)
            os.kill(dead, signal.SIGKILL)
            ends = {child: int(child) for child, owner in owners.items() if owner == dead}
            assert await left(ends, lambda found: found["lives"] == 0) == {"ended": len(ends)}
            assert all(lives(int(child)) for child, owner in owners.items() if owner == other)
            assert await master.stop() == 0
            assert await left({c: int(c) for c in owners}, lambda found: found["lives"] == 0) == {"ended": len(owners)}
            assert within(group) == []
        finally:
            end({child: int(child) for child in owners})


async def test_what_is_left_when_all_are_killed_ends_at_the_next_start(group: Path) -> None:
    async with running("leaves_children:asgi", workers=2, under=entering(group)) as master:
        children = await start(master, *WAYS)
        (place,) = within(group)
        workers = list(master.workers)
        for pid in [master.pid, *workers]:
            os.kill(pid, signal.SIGKILL)
        await master.ended()
    async with running("leaves_children:asgi", workers=1, under=entering(group)) as after:
        try:
            assert await left(children, lambda found: found["lives"] == 0) == {"ended": len(WAYS)}
            assert place not in within(group)
            assert await after.stop() == 0
            assert within(group) == []
            assert await trio.to_thread.run_sync(until_empty, group)
        finally:
            end(children)


async def test_a_start_leaves_alone_what_another_master_has_and_what_workers_without_one_still_finish(
    group: Path,
) -> None:
    options = ("--graceful-timeout", "30s")
    async with (
        running("leaves_children:asgi", workers=1, under=entering(group)) as lives_on,
        running("leaves_children:stream", *options, workers=1, under=entering(group)) as killed,
    ):
        children = await start(lives_on, "twice", "clean-twice")
        held = await killed.burst(1)
        finishing = {"finishing": int((await get(killed.port, "/session")).split()[-1])}
        (worker,) = killed.workers
        await a_kill_of_the_master(killed, 0)
        await killed.ended()
        try:
            async with running("leaves_children:asgi", workers=1, under=entering(group)) as after:
                assert lives(worker)
                assert await left(finishing | children, lambda found: True) == {"lives": 3}
                assert await after.stop() == 0
            await held[0].send_all(b"GET group\n")  # it finishes what it holds
            assert (await held[0].receive_some()) != b""
        finally:
            end(children | finishing)
