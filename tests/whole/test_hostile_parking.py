"""A worker that sends rubbish to the idle pool harms neither it, nor the master, nor the other workers' clients."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import trio

from tests.whole.harness import PATIENCE, Running, running, status
from tests.whole.test_parking import SOON, Client, all_at_once, resting

CLIENTS = 8


async def test_a_hostile_worker_costs_no_other_client_a_request_and_leaves_nothing_behind(tmp_path: Path):
    control = tmp_path / "control"
    # What the hostile worker has parked of its own rests for the keep-alive time.  There are places for all of
    # it: where they are short, a worker loses what it has parked, and that may be a client's who has asked it last.
    options = (*SOON, "--keep-alive", "5s", "--max-parked", "1000", "--control", str(control))
    async with running("hostile:app", *options, workers=3) as master:
        await master.said("rest in the idle pool")
        clients = [Client(master, seed) for seed in range(CLIENTS)]
        await all_at_once(clients, 3)
        before = await resting(control, CLIENTS)
        assert before.pid is not None
        await master.settled(control)  # its spare template has descriptors, too
        kept = descriptors(before.pid), sum(master.descriptors().values())
        weight = resident(before.pid), resident(master.pid)
        await begin(clients, master)
        with trio.fail_after(PATIENCE):
            while not re.search("hostile: |Traceback", master.text):
                await all_at_once(clients, 1)
        await all_at_once(clients, 3)
        await all_rest(control)
        seen = await status(control)
        assert (after := seen.pool) is not None
        assert set(sum((client.ends for client in clients), Counter())) == {"answered"}
        assert (after.pid, after.restarts, after.cut, after.lost, after.evicted) == (before.pid, 0, 0, 0, 0)
        assert after.refused > 1000
        assert (seen.accepted, seen.lost, seen.breaches) == (CLIENTS, 0, 0)
        await eventually(lambda: descriptors(before.pid) <= kept[0])
        await eventually(lambda: sum(master.descriptors().values()) <= kept[1])
        assert resident(before.pid) - weight[0] < 4 << 20
        assert resident(master.pid) - weight[1] < 4 << 20
        assert await master.stop() == 0


async def begin(clients: list[Client], master: Running) -> None:
    """Ask until the worker of slot 0 has been asked to begin."""
    hostile = next(pid for pid, slot in master.workers.items() if slot == 0)
    with trio.fail_after(PATIENCE):
        while True:
            for client in clients:
                assert client.stream is not None
                await client.stream.send_all(b"GET /begin HTTP/1.1\r\nHost: test\r\n\r\n")
                if int((await client._answer(client.stream)).split()[0]) == hostile:
                    return


async def all_rest(control: Path) -> None:
    """Wait until each connection rests in the pool, or with the hostile worker, whose lane has ended."""
    with trio.fail_after(PATIENCE):
        while True:
            seen = await status(control)
            if seen.pool is not None and seen.pool.held + sum(worker.open for worker in seen.workers) == CLIENTS:
                return
            await trio.sleep(0.02)


async def eventually(true: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while not true():
            await trio.sleep(0.02)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as figures:
        return int(figures.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
