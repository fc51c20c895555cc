"""A master under systemd and in a container: its notifications, and the orphans that it reaps."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.whole.harness import PATIENCE, PROGRAMS, ROOT, ask, running


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The notification socket of systemd, and its name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours:
        ours.bind(str(tmp_path / "notify"))
        yield ours, str(tmp_path / "notify")


async def hear(ours: socket.socket) -> str:
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_readable(ours)
    return ours.recv(4096).decode()


async def hear_of(ours: socket.socket, wanted: str) -> list[str]:
    """Receive messages up to the one with this line."""
    heard: list[str] = []
    while not heard or wanted not in heard[-1].splitlines():
        heard.append(await hear(ours))
    return heard


async def test_systemd_hears_when_it_is_ready_that_it_lives_and_that_it_stops(systemd):
    ours, name = systemd
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "200000"}
    async with running("handlers:facts", workers=2, environ=environ) as master:
        heard = await hear_of(ours, "READY=1")
        assert all(message == "WATCHDOG=1" for message in heard[:-1])
        for _ in range(3):
            await hear_of(ours, "WATCHDOG=1")
        assert b"NOTIFY_SOCKET" not in await ask(master.port)
        master.signal(signal.SIGTERM)
        await hear_of(ours, "STOPPING=1")
        assert await master.ended() == 0


async def test_a_reload_is_told_from_its_beginning_to_its_end(systemd):
    ours, name = systemd
    options = ("--probation", "100ms", "--soak", "100ms")
    async with running("handlers:quick", *options, workers=1, environ={"NOTIFY_SOCKET": name}) as master:
        await hear_of(ours, "READY=1")
        master.signal(signal.SIGHUP)
        *_, reloading = await hear_of(ours, "RELOADING=1")
        assert re.search(r"^MONOTONIC_USEC=\d+$", reloading, re.MULTILINE)
        await hear_of(ours, "READY=1")
        assert await master.stop() == 0


async def test_pid_file_umask_and_directory_are_as_asked(tmp_path: Path):
    (tmp_path / "work").mkdir()
    options = ("--pid", "pid", "--umask", "027", "--chdir", str(tmp_path / "work"))
    async with running("handlers:surroundings", *options, workers=1) as master:
        pid_file = tmp_path / "work" / "pid"
        assert pid_file.read_text() == f"{master.pid}\n"
        assert stat.S_IMODE(pid_file.stat().st_mode) == 0o640
        assert literal_eval((await ask(master.port)).decode()) == (0o027, str(tmp_path / "work"))
        assert await master.stop() == 0
        assert not pid_file.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_it_is_another_user_before_any_worker_is():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        path = Path(directory) / "control.sock"
        options = ("--user", "65534", "--group", "65533", "--control", str(path))
        # Workers need not start: the interpreter may lie where only root can read.
        async with running("handlers:quick", *options, workers=1, ready=False) as master:
            await master.said("serves handlers:quick")
            status = Path(f"/proc/{master.pid}/status").read_text()
            assert re.findall(r"^[UG]id:\t(.*)$", status, re.MULTILINE) == [
                "\t".join(["65534"] * 4),
                "\t".join(["65533"] * 4),
            ]
            assert re.findall(r"^Groups:\t(.*)$", status, re.MULTILINE)[0].split() == ["65533"]


def test_as_process_1_of_a_container_it_reaps_orphans_and_logs_nothing(tmp_path: Path):
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip("no pid namespace can be made here")
    trio.run(_bury, unshare, "off", 1, 0)
    trio.run(_bury, unshare, "on", 2, 1)  # the template; and a spare one, some time later


async def _bury(unshare: str, preload: str, family: int, spare: int) -> None:
    command = [unshare, "--pid", "--fork", "--kill-child", sys.executable, "-m", "rrmaster", "--workers", "1"]
    command += ["--bind", "127.0.0.1:0", "--app-dir", str(PROGRAMS), "--preload", preload]
    command += ["orphans:leaves"]
    process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=ROOT)
    try:
        assert process.stderr is not None
        text = b""
        with trio.fail_after(PATIENCE):
            while b"ready: " not in text:
                text += await process.stderr.receive_some()
            port = int(re.search(rb" on \S*?:(\d+)", text)[1])  # type: ignore[index]
            (master,) = children(process.pid)
            (worker,) = (c for c in children(master) if b"--slot" in Path(f"/proc/{c}/cmdline").read_bytes())
            for _ in range(5):
                await ask(port)
            with trio.fail_after(PATIENCE):
                while not family <= len(children(master)) <= family + spare or worker not in children(master):
                    await trio.sleep(0.01)
    finally:
        process.kill()
        await process.wait()
    assert b"sleep" not in text


def children(pid: int) -> list[int]:
    """The children of a process, with zombies."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")  # each thread has those that it started
    return [int(child) for file in lists for child in file.read_text().split()]
