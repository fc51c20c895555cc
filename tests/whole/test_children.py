"""Children of the application: what a worker holds is not theirs, so what is done to them is not done to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.whole.harness import PATIENCE, PROGRAMS, running

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


@pytest.mark.parametrize("runtime", ["uvloop", "asyncio", "trio"])
async def test_a_child_that_is_asked_for_stacks_shows_none_of_the_workers_tasks_and_lives(runtime: str):
    async with running("forks_children:asgi", "--runtime", runtime, workers=1) as master:
        assert "-15" in await get(master.port, "/stacks")
        await master.said("in by_stacks")  # the child's own stack
        assert " task" not in master.text
        assert await master.stop() == 0


Ask = Callable[[str], Awaitable[str]]


@asynccontextmanager
async def program(argument: str) -> AsyncIterator[tuple[int, Ask]]:
    """A program with a master in it: its number, and what it says when it has read a line."""
    argv = [sys.executable, "master_that_forks.py", argument]
    pipe = subprocess.PIPE
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(argv, stdin=pipe, stdout=pipe, cwd=PROGRAMS)
        assert process.stdin is not None
        assert process.stdout is not None
        said = bytearray()

        async def ask(line: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send_all(line.encode())
            while b"\n" not in said:
                said.extend(await process.stdout.receive_some() or b"(ended)\n")
            answer, _, rest = bytes(said).partition(b"\n")
            said[:] = rest
            return answer.decode()

        async with process.stdin, process.stdout:
            try:
                yield process.pid, ask
            finally:
                process.kill()
                await process.wait()


@pytest.mark.parametrize("end", ["the block ends", "the master is killed"])
async def test_a_child_of_a_program_with_a_master_keeps_no_port_and_no_worker_when_that_has_ended(end: str):
    async with program("block") as (pid, ask):
        port, child, *workers = map(int, (await ask("")).split())
        try:
            assert await served(port)
            if end == "the block ends":
                assert await ask("\n") == "ended"
                assert not await served(port)
            else:
                os.kill(pid, signal.SIGKILL)
                for worker in workers:
                    await gone(worker)
                assert not await served(port)
            os.kill(child, 0)  # it lives, and had everything before
        finally:
            os.kill(child, signal.SIGKILL)


async def test_a_signal_to_a_child_beside_a_master_ends_the_child_and_its_pid_file_is_free_after_it(tmp_path: Path):
    file = tmp_path / "pid"
    async with program(str(file)) as (pid, ask):
        while not file.exists() or not file.read_text():
            await trio.sleep(0.01)
        assert await ask("\n") == "[1, 4, 9]"
        assert [await ask(""), await ask("")] == ["-15", "-1"]
        child = int(await ask(""))
        try:
            with open(file) as held:
                os.kill(pid, signal.SIGTERM)
                assert await ask("") == "status 0"
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it raises if the child has kept the lock
        finally:
            os.kill(child, signal.SIGKILL)


async def served(port: int) -> bool:
    """Whether a client is answered; not if it is refused, and an error if it waits for nothing."""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            return await stream.receive_some() == b"served"
    except OSError:
        return False


async def gone(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            await trio.sleep(0.01)


async def get(port: int, path: str) -> str:
    """The whole answer, to the end of the connection."""
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            return b"".join([bytes(data) async for data in stream]).decode()
