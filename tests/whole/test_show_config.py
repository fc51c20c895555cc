"""What runs beside what is written: `show-config`, with a master that was started as a user starts it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.whole.harness import BRIEF, PROGRAMS, rrmaster, running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def order(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A verb, given in another directory than the master's."""
    return await trio.to_thread.run_sync(lambda: rrmaster(*words, "--control", str(path), cwd=PROGRAMS))


async def changed(path: Path) -> dict[str, tuple[Any, Any, str, str]]:
    done = await order(path, "show-config", "--changed", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["settings"]
    return {row["name"]: (row["runs"], row["says"], row["origin"], row["needs"]) for row in rows}


async def test_what_differs_is_shown_with_what_brings_it_until_that_has_been_done(path: Path, tmp_path: Path):
    file = tmp_path / "shop.toml"
    file.write_text('window = 5\nlog-level = "info"\n')
    environ = {"RRMASTER_BACKLOG": "100"}
    options = ("-c", str(file), "--control", str(path), *BRIEF)
    async with running("handlers:quick", *options, workers=1, environ=environ):
        assert await changed(path) == {}
        file.write_text('window = 6\nlog-level = "debug"\nworkers = 3\nbacklog = 200\n')
        waiting = {"log_level": ("info", "debug", str(file), "restart")}
        assert await changed(path) == {"window": (5, 6, str(file), "reload"), **waiting}, "flags and environment win"
        assert (await order(path, "reload")).returncode == 0
        assert await changed(path) == waiting, "a reload does not bring it, and does not hide it"
        done = await order(path, "show-config")
        rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
        assert rows["*"][:5] == ["*", "--log-level", "restart", "info", "debug"]
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert rows["--backlog"] == ["--backlog", "100", "environment"]
        assert rows["--workers"] == ["--workers", "1", "command", "line"]
        assert done.stdout.splitlines()[-1] == "a restart of the master brings --log-level"


async def test_a_file_that_would_be_refused_is_said_beside_what_runs(path: Path, tmp_path: Path):
    file = tmp_path / "shop.toml"
    file.write_text("window = 5\n")
    async with running("handlers:quick", "-c", str(file), "--control", str(path), workers=1):
        file.write_text("window = 0\nwindwo = 3\n")
        done = await order(path, "show-config")
        assert done.returncode == 1
        assert any(line.split()[:2] == ["--window", "5"] for line in done.stdout.splitlines())
        first, *mistakes = done.stderr.splitlines()
        assert first == "rrmaster: what is written now would be refused:"
        why = ["there is no setting 'windwo'; did you mean window?", "window"]
        assert [mistake.split(": ")[1] for mistake in mistakes] == why


async def test_secrets_are_not_shown(path: Path, tmp_path: Path):
    (tmp_path / "env").write_text("DATABASE_PASSWORD=hunter2\n")
    options = ("--control", str(path), "--env-file", str(tmp_path / "env"))
    program = str(tmp_path / "shop.py")
    Path(program).write_text(PROGRAM)
    async with running(program, *options, workers=1, bind=None, arguments=["--token", "swordfish"]):
        for words in (["show-config"], ["show-config", "--json"]):
            done = await order(path, *words)
            assert done.returncode == 0, done.stderr
            assert "--token" in done.stdout
            assert "***" in done.stdout
            assert "/env" in done.stdout
            for secret in ("swordfish", "hunter2"):
                assert secret not in done.stdout + done.stderr


PROGRAM = """
import trio, rrmaster

async def main():
    async def answer(stream):
        await stream.send_all(b"hello")
    await trio.serve_listeners(answer, await rrmaster.open_tcp_listeners(0, host="127.0.0.1"))

trio.run(main)
"""


async def test_reopen_follows_a_log_file_that_was_moved_away(path: Path, tmp_path: Path):
    log = tmp_path / "shop.log"
    async with running("handlers:quick", "--control", str(path), "--log-file", str(log), ready=False):
        with trio.fail_after(20):
            while not path.exists() or (await order(path, "status", "--ready")).returncode:
                await trio.sleep(0.02)
        log.rename(tmp_path / "shop.log.1")
        done = await order(path, "reopen")
        assert (done.returncode, done.stdout) == (0, f"{log}: opened again\n")
        with trio.fail_after(20):
            while not (log.exists() and "opened again, asked through the control socket" in log.read_text()):
                await trio.sleep(0.02)
