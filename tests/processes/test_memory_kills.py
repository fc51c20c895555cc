"""A worker that the kernel killed for memory is told from one that was killed by another process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from rrmaster.processes.memory_kills import LOOK_S, RECENT_S, KillsForMemory, count_of_kills
from rrmaster.processes.orphans import Orphans
from rrmaster.processes.worker_process import WorkerProcess
from rrmaster.rules.backoff import Exit

KILLED = Exit(signal=signal.SIGKILL)
EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"


@pytest.mark.parametrize(
    ("groups", "files", "count"),
    [
        ("0::/a/b\n", {"cgroup/a/b/memory.events": EVENTS, "proc/vmstat": "oom_kill 9\n"}, 2),
        ("0::/a/b\n", {"cgroup/memory.events": EVENTS}, 2),
        ("4:memory:/a\n0::/\n", {"cgroup/memory/a/memory.oom_control": CONTROL}, 5),
        ("4:cpu,memory:/docker/x\n", {"cgroup/memory/memory.oom_control": CONTROL}, 5),
        ("4:memory:/a\n", {"cgroup/memory/a/memory.oom_control": "under_oom 0\n", "proc/vmstat": "oom_kill 9\n"}, 9),
        ("0::/\n", {"proc/vmstat": "pgfault 12\noom_kill 9\n"}, 9),
        ("0::/\n", {}, 0),
        (None, {"proc/vmstat": "oom_kill nonsense\n"}, 0),
    ],
)
def test_the_count_is_that_of_the_own_group_or_else_of_the_machine(
    tmp_path: Path, groups: str | None, files: dict[str, str], count: int
) -> None:
    if groups is not None:
        files = files | {"proc/self/cgroup": groups}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_of_kills(tmp_path / "cgroup", tmp_path / "proc")() == count


def test_here_the_count_can_be_read() -> None:
    assert count_of_kills()() >= 0


class Dead:
    """A process that has just been killed."""

    pid = 4711

    async def wait(self) -> Exit:
        return KILLED

    def signal(self, number: int, group: bool = False) -> None:
        """It is too late for that."""


async def end_of(memory: KillsForMemory, prepare: Callable[[WorkerProcess], None] = lambda worker: None) -> Exit:
    worker = WorkerProcess(Dead(), 1, Orphans(wanted=lambda: False), memory)
    prepare(worker)
    return await worker.wait()


async def test_each_kill_explains_one_end(autojump_clock: trio.testing.MockClock) -> None:
    kills = 7
    memory = KillsForMemory(lambda: kills)
    assert not (await end_of(memory)).out_of_memory, "those were before"
    kills += 2
    ends = [(await end_of(memory)).out_of_memory for _ in range(3)]
    assert ends == [True, True, False]


async def test_a_kill_that_came_long_before_explains_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A child of the application was killed for memory; the worker is killed by a person, later."""
    kills = 0
    memory = KillsForMemory(lambda: kills)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.run)
        kills = 1
        await trio.sleep(RECENT_S / 2)
        assert memory.take(), "a process with much memory needs that long to end"
        kills = 2
        await trio.sleep(RECENT_S + 2 * LOOK_S)
        assert not memory.take()
        nursery.cancel_scope.cancel()


async def test_what_the_master_killed_itself_was_not_the_kernel(autojump_clock: trio.testing.MockClock) -> None:
    kills = 0
    memory = KillsForMemory(lambda: kills)
    kills = 1
    assert await end_of(memory, lambda worker: worker.signal(signal.SIGKILL)) == KILLED
    assert (await end_of(memory)).out_of_memory, "that kill was another process's"
