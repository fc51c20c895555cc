"""A master with a user of its own: its workers can do it no harm, and it cannot become root again."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.whole.harness import BRIEF, PROGRAMS, ROOT, Running, ask, gone, rrmaster, status

WORKERS, MASTER = 54_321, 54_322
"""Users without names."""


@functools.cache
def interpreter() -> str | None:
    """An interpreter of this version that other users may execute; None if there is none."""
    code = f"import sys, trio, rrmaster; assert sys.version_info[:2] == {sys.version_info[:2]}"
    for found in (sys.executable, "/usr/bin/python3", shutil.which("python3")):
        command = [found or "", "-c", code]
        try:
            done = subprocess.run(command, user=WORKERS, group=WORKERS, cwd="/", env=environ(), capture_output=True)
        except OSError:
            continue
        if done.returncode == 0:
            return found
    return None


def _packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([str(ROOT), *_packages()])}


pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two users"),
    pytest.mark.skipif(
        os.geteuid() == 0 and interpreter() is None, reason="no interpreter here may be executed by other users"
    ),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the master's user, which others may look into; not below pytest's own, which are root's alone."""
    with tempfile.TemporaryDirectory(prefix="two-users-") as name:
        os.chown(name, MASTER, MASTER)
        os.chmod(name, 0o755)
        yield Path(name)


@asynccontextmanager
async def serving(place: Path, *options: str) -> AsyncIterator[Running]:
    found = interpreter()
    assert found is not None
    command = [found, "-m", "rrmaster", "-w", "2", "-b", "127.0.0.1:0", "--app-dir", str(PROGRAMS), *BRIEF]
    command += ["--user", str(WORKERS), "--master-user", str(MASTER), "--control", str(place / "control")]
    command += ["--pid", str(place / "pid"), "--log-file", str(place / "log")]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [*command, *options, "two_users:handler"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd="/",
            env=environ() | {"PLACE": str(place)},
        )
        master = Running(process)
        nursery.start_soon(_follow, master, place / "log")
        nursery.start_soon(master.read)
        try:
            await master.said(r"ready: \d+ of \d+ workers serve")
            yield master
            assert await master.stop() == 0
        finally:
            if process.returncode is None:
                process.kill()
            nursery.cancel_scope.cancel()


async def _follow(master: Running, log: Path) -> None:
    """Take over what is logged into the file; stderr has warnings alone."""
    seen = 0
    while True:
        lines = log.read_text().splitlines() if log.exists() else []
        if lines[seen:]:
            master.hear(lines[seen:])
            seen = len(lines)
        await trio.sleep(0.05)


REFUSED = {
    "signal": "PermissionError",
    "ptrace": "refused",
    "memory": "PermissionError",
    "environment": "PermissionError",
    "descriptors": "PermissionError",
    "steal": "refused",
}


@pytest.mark.parametrize("preload", ["auto", "off"])
async def test_a_worker_can_do_its_master_no_harm(place: Path, preload: str) -> None:
    async with serving(place, "--preload", preload) as master:
        who = json.loads(await ask(master.port))
        assert (who["uid"], who["HOME"]) == (WORKERS, "/")
        said = json.loads(await ask(master.port, b"attack"))
        assert said.pop("master") == REFUSED
        assert said.pop("starter") == REFUSED
        assert said.pop("stdout") == "done"
        assert set(said.values()) == {"PermissionError"}, said
        await master.said("by its name")


async def test_such_a_master_kills_replaces_and_reloads_its_workers_and_ends_what_they_leave(place: Path) -> None:
    async with serving(place, "--hang-timeout", "1s", "--heartbeat", "50ms") as master:
        left = json.loads(await ask(master.port, b"leave"))
        hung, killed = sorted(master.workers)
        os.kill(hung, signal.SIGSTOP)
        await master.said(rf"\(pid {hung}\): killed -> gone")
        os.kill(killed, signal.SIGKILL)
        await master.until(lambda: not {hung, killed} & set(master.workers) and len(master.workers) == 2)
        (template,) = (await status(place / "control")).templates
        assert template.pid is not None
        os.kill(template.pid, signal.SIGKILL)
        await master.said("is lost")
        master.signal(signal.SIGHUP)
        await master.said("committed: generation 2 serves alone")
        done = await trio.to_thread.run_sync(lambda: rrmaster("retire", "0", "--control", str(place / "control")))
        assert done.returncode == 0, done.stderr
        assert json.loads(await ask(master.port))["uid"] == WORKERS
    await gone(left)


async def test_a_master_that_is_taken_over_cannot_become_root_again(place: Path) -> None:
    async with serving(place, "--policy", "two_users:policy") as master:
        await ask(master.port)
        found = json.loads((await master.said("taken over: (.*)"))[1])
        assert found.pop("su") == ""
        assert set(found.values()) <= {"PermissionError", "refused"}, found


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--master-user", "nobody"), "--master-user needs --user"),
        (("--user", "nobody", "--master-user", "nobody"), "two users are needed"),
        (("--user", "nobody", "--master-user", "0"), "two users are needed"),
        (("--user", "nobody", "--master-user", "no-such-user"), "--master-user: there is no user 'no-such-user'"),
    ],
)
def test_users_that_are_not_two_are_refused(options: tuple[str, ...], says: str) -> None:
    done = rrmaster("-b", "127.0.0.1:0", "--app-dir", str(PROGRAMS), *options, "two_users:handler")
    assert done.returncode == 2
    assert says in done.stderr
