"""The zombies that a process 1 inherits: they are reaped, and children with a waiting task are left to it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.fakes import run_alone

PREPARE = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
import trio
from rrmaster.processes.process import reap_strangers, start
from rrmaster.rules.backoff import Exit

ADOPT = ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
assert ADOPT == 0

def zombies():
    states = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" (")
        except OSError:
            continue
        state, parent = rest.rpartition(") ")[2].split()[:2]
        if int(parent) == os.getpid() and state == "Z":
            states[int(pid)] = state
    return set(states)

async def until(true):
    with trio.fail_after(10):
        while not true():
            await trio.sleep(0.005)

async def a_child(program):
    with open(os.devnull, "r+b") as null:
        return await start(["/bin/sh", "-c", program], os.environ, (), null.fileno(), null.fileno(), "/")

def adopt(count):
    "So many orphans that die at once.  By a shell: where there is a thread, a bare fork may never return."
    subprocess.run(["/bin/sh", "-c", "(true &) ; " * count], check=True)
"""


def test_strangers_are_waited_for_and_the_exit_status_of_ours_is_kept() -> None:
    run_alone(
        PREPARE
        + """
async def main():
    ours = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_strangers, lambda: ours)
        for status in (7, 0, 3):
            ours = None
            child = await a_child(f"exit {status}")
            ours = {child.pid}
            adopt(20)
            assert await child.wait() == Exit(code=status)
            ours = set()
        await until(lambda: not zombies())
        nursery.cancel_scope.cancel()

trio.run(main)
"""
    )


def test_no_zombie_is_reaped_while_a_child_is_being_started() -> None:
    run_alone(
        PREPARE
        + """
async def main():
    known = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_strangers, lambda: known)
        adopt(3)
        await until(lambda: len(zombies()) == 3)
        child = await a_child("exit 5")
        await until(lambda: len(zombies()) == 4)
        for _ in range(20):  # several looks
            await trio.sleep(0.01)
        assert len(zombies()) == 4
        assert await child.wait() == Exit(code=5)
        known = set()
        await until(lambda: not zombies())
        nursery.cancel_scope.cancel()

trio.run(main)
"""
    )


def test_a_child_that_its_task_has_not_reaped_yet_delays_the_others_shortly() -> None:
    run_alone(
        PREPARE
        + """
async def main():
    child = await a_child("exit 9")
    await until(lambda: child.pid in zombies())
    adopt(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_strangers, lambda: {child.pid})
        await until(lambda: child.pid in zombies())
        assert await child.wait() == Exit(code=9)
        await until(lambda: not zombies())
        nursery.cancel_scope.cancel()

trio.run(main)
"""
    )


def test_as_process_1_it_does_the_same() -> None:
    """In a pid namespace of its own, where that is allowed."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("no pid namespace can be made here")
    program = (
        PREPARE.replace("ADOPT = ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)", "ADOPT = os.getpid() - 1")
        + """
async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_strangers, set)
        adopt(50)
        await until(lambda: not zombies())
        nursery.cancel_scope.cancel()

trio.run(main)
"""
    )
    command = [unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
