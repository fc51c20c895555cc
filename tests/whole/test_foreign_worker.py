"""A worker may be any program: the one in docs/protocol.md, which has nothing of this package, serves a real master."""

from __future__ import annotations

import ast
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

import rrmaster
from rrmaster import WorkerExited
from rrmaster.api.master import Master
from tests.pages import DOCS, blocks
from tests.whole.harness import PATIENCE, ask, connect

(WORKER,) = (block.text for block in blocks((DOCS / "protocol.md").read_text()) if block.file == "worker.py")


def test_it_has_fifty_lines_and_nothing_of_ours() -> None:
    assert len(re.findall(r"^\s*[^#\s]", WORKER, re.MULTILINE)) <= 50
    imports = [node for node in ast.walk(ast.parse(WORKER)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name if isinstance(node, ast.Import) else node.module for node in imports for alias in node.names}
    assert names <= set(sys.stdlib_module_names)


@asynccontextmanager
async def served(directory: Path, **options: object) -> AsyncIterator[Master]:
    """A master with two such workers, in a directory that has nothing else."""
    (directory / "worker.py").write_text(WORKER)
    chosen = {"bind": "127.0.0.1:0", "workers": 2, "probation": 0.1, "soak": 0.1, "heartbeat": 0.2} | options
    settings = rrmaster.Settings("echo:any", **chosen)
    command = [sys.executable, "-I", str(directory / "worker.py")]
    with trio.fail_after(3 * PATIENCE):
        async with rrmaster.open_master(settings, worker_command=command) as master:
            await master.scale(2)
            yield master


def port(master: Master) -> int:
    return int(master.addresses[0].rpartition(":")[2])


async def settled(master: Master) -> None:
    """Wait until nobody has a connection; what the workers report is all there is to go by."""
    with trio.fail_after(PATIENCE):
        while any(worker.load for worker in master.workers.values()):
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_it_serves_is_balanced_probed_and_replaced_by_a_reload(tmp_path: Path) -> None:
    async with served(tmp_path, probe="tcp") as master:
        async with AsyncExitStack() as held:
            for _ in range(20):
                stream = await held.enter_async_context(await connect(port(master)))
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
            loads = [worker.load for worker in master.workers.values()]
            # 10 and 10, unless a busy machine makes one of them late.
            assert (sum(loads), min(loads) >= 7) == (20, True)
        assert all(worker.health is not None and worker.health.taking for worker in master.workers.values())
        await settled(master)
        assert (await master.reload()).generation == 2
        assert await ask(port(master), b"again") == b"again"
        assert (master.status().breaches, master.status().lost) == (0, 0)


async def test_what_it_had_not_taken_when_it_was_killed_is_answered_by_the_other(tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    async with served(tmp_path) as master:
        victim, other = workers = list(master.workers.values())
        for worker in workers:
            worker.kill(signal.SIGSTOP)  # so that they take nothing
        async with trio.open_nursery() as clients:
            for _ in range(12):
                clients.start_soon(ask, port(master), b"?", ends)
            while sum(worker.load for worker in workers) < 12:
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert victim.load > 3
            victim.kill(signal.SIGKILL)
            other.kill(signal.SIGCONT)
        assert ends == {"answered": 12}
        assert not other.is_dead()


async def test_it_finishes_what_it_has_and_exits_with_0_when_there_will_be_no_more(tmp_path: Path) -> None:
    async with served(tmp_path) as master, master.events() as events:
        streams = [await connect(port(master)) for _ in range(2)]
        for stream in streams:
            await stream.send_all(b"one")
            assert await stream.receive_some() == b"one"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(master.disconnect)
            for stream in streams:
                await stream.send_all(b"two")
                assert await stream.receive_some() == b"two"
                await stream.aclose()
        codes = []
        with trio.fail_after(PATIENCE):
            async for event in events:
                if isinstance(event, WorkerExited):
                    codes.append(event.code)
                    if len(codes) == 2:
                        break
        assert codes == [0, 0]


WRONG_COUNTS = {
    "more closed than taken": ("taken - closed, True", "0, True", "closed += not probe", "closed += 2"),
    "more read than sent": ("asides += 1", "asides += 2"),
}


@pytest.mark.parametrize("changes", WRONG_COUNTS.values(), ids=WRONG_COUNTS)
async def test_one_that_does_not_count_is_found_out(changes: tuple[str, ...], tmp_path: Path) -> None:
    """So the claims above hang on what it says, and not on the master's goodwill."""
    wrong = WORKER
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert wrong.count(old) == 1
        wrong = wrong.replace(old, new)
    (tmp_path / "worker.py").write_text(wrong)
    settings = rrmaster.Settings("echo:any", bind="127.0.0.1:0", workers=1, probe="tcp")
    command = [sys.executable, str(tmp_path / "worker.py")]
    with trio.fail_after(PATIENCE):
        async with (
            rrmaster.open_master(settings, worker_command=command, respawn=False) as master,
            master.events() as events,
            trio.open_nursery() as clients,
        ):
            clients.start_soon(ask, port(master), b"?", Counter())
            async for event in events:
                if isinstance(event, WorkerExited):
                    break
            clients.cancel_scope.cancel()
            assert master.status().breaches == 1
