"""A master is not started again by the code that its own workers import."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.whole.harness import PATIENCE

HANDLER = "async def handler(stream): await stream.send_all(b'hi')\n"

CALLS = {
    "run": "import rrmaster\nrrmaster.run('unguarded:handler', bind='127.0.0.1:{port}', workers=2)\n",
    "open_master": """import rrmaster, trio
async def main():
    async with rrmaster.open_master(rrmaster.Settings("unguarded:handler", bind="127.0.0.1:{port}", workers=2)):
        await trio.sleep_forever()
trio.run(main)
""",
    "serve in nurseries": """import functools, rrmaster, trio
async def main():
    serve = functools.partial(rrmaster.serve, "unguarded:handler", bind="127.0.0.1:{port}", workers=2)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
trio.run(main)
""",
}

WAYS = (
    (("unguarded.py",), 1),
    (("-m", "unguarded"), 1),
    (("-m", "rrmaster", "-b", "127.0.0.1:0", "unguarded:handler"), 3),
    (("-m", "rrmaster", "-b", "127.0.0.1:0", "--preload", "off", "unguarded:handler"), 3),
)
"""How it is started, and the exit status: Python's own for an error, or that of `rrmaster`."""

GUARD = 'starts a master while a worker imports it, too; guard the call with `if __name__ == "__main__":`'


async def ended(directory: Path, *argv: str) -> tuple[int, str]:
    """The status of a Python that ends by itself, and what it says."""
    with trio.fail_after(PATIENCE):
        over = await trio.run_process(
            [sys.executable, *argv],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(directory)},
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return over.returncode, over.stdout.decode()


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_without_a_guard_says_so_in_one_line_and_starts_no_second_master(call: str, tmp_path: Path):
    (tmp_path / "unguarded.py").write_text(HANDLER + CALLS[call].format(port=0))
    line = HANDLER.count("\n") + CALLS[call].count("\n")
    told = re.compile(
        rf"^(.*: )?{re.escape(str(tmp_path))}/unguarded.py, line {line}, {re.escape(GUARD)}$", re.MULTILINE
    )
    for argv, status in WAYS[: None if call == "run" else 1]:
        found, text = await ended(tmp_path, *argv)
        assert found == status, text
        assert len(told.findall(text)) == 1, text


async def test_a_program_that_starts_a_master_is_told_to_run_alone(tmp_path: Path):
    (tmp_path / "unguarded.py").write_text(HANDLER + CALLS["run"].format(port=0))
    status, text = await ended(tmp_path, "-m", "rrmaster", "unguarded.py")
    assert status == 3
    assert "starts a master in a worker of another master; run unguarded.py with python" in text.splitlines()[-1]


async def test_a_child_that_multiprocessing_spawns_starts_no_master(tmp_path: Path):
    begin = "import multiprocessing\nif __name__ == '__main__':\n"
    begin += "    child = multiprocessing.get_context('spawn').Process(target=print)\n"
    begin += "    child.start(); child.join(); print('child', child.exitcode)\nelse:\n    "
    (tmp_path / "unguarded.py").write_text(HANDLER + begin + CALLS["run"].format(port=0).replace("\n", "; ", 1))
    status, text = await ended(tmp_path, "unguarded.py")
    assert (status, text.splitlines()[-1]) == (0, "child 1")
    assert "starts a master while a child process imports it, too; guard the call" in text
