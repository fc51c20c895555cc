"""The examples whose parts come from Python packages.  The others say in their README when they were run last."""

from __future__ import annotations

import calendar
import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.whole.harness import BRIEF, ROOT, running

EXAMPLES = ROOT / "examples"
INDEX_TEXT = (EXAMPLES / "README.md").read_text()
PATIENCE = 60.0
"""Seconds until a wait fails: an example is a Python that starts a master that starts workers."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def listens(port: int) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                return
            except OSError:
                await trio.sleep(0.05)


async def test_what_a_visitor_of_one_worker_says_is_heard_by_those_of_all_workers():
    client = pytest.importorskip("websockets.sync.client")
    port = free_port()
    command = [sys.executable, "chat_master.py", str(port), "2"]
    environ = os.environ | {"PYTHONPATH": os.fspath(ROOT)}
    process = subprocess.Popen(
        command, cwd=EXAMPLES / "sessions", env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await listens(port)
        heard = await trio.to_thread.run_sync(_conversation, client.connect, port)
        assert heard == ["hello from 0"] * 6
    finally:
        process.kill()
        process.wait()


def _conversation(connect, port: int) -> list[str]:  # type: ignore[no-untyped-def]
    with contextlib.ExitStack() as stack:
        url = f"ws://127.0.0.1:{port}/chat"
        visitors = [stack.enter_context(connect(url, open_timeout=PATIENCE)) for _ in range(6)]
        visitors[0].send("hello from 0")
        return [visitor.recv(PATIENCE) for visitor in visitors]


async def test_a_pool_of_processes_ends_with_its_worker_in_a_reload_and_when_that_is_killed(tmp_path: Path):
    control = tmp_path / "control.sock"
    options = ("--control", str(control), *BRIEF)
    environ = {"BELOW": "100", "POOL": "1"}
    async with running("app:app", *options, workers=1, app_dir=EXAMPLES / "computation", environ=environ) as master:
        (before,) = await pool_after_a_computation(master.port)
        master.signal(signal.SIGHUP)
        await master.said("generation 2 serves alone")
        await gone(before)
        (before,) = await pool_after_a_computation(master.port)
        (worker,) = master.workers
        os.kill(worker, signal.SIGKILL)
        await gone(before)
        assert len(await pool_after_a_computation(master.port)) == 1


async def pool_after_a_computation(port: int) -> list[int]:
    assert json.loads(await get(port, "/process")) == 25, "primes below 100"
    found: list[int] = json.loads(await get(port, "/pool"))
    return found


async def get(port: int, path: str) -> bytes:
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path.encode())
            return b"".join([part async for part in stream]).partition(b"\r\n\r\n")[2]


async def gone(pid: int) -> None:
    """Wait until a process has ended.  A zombie has: its parent is to blame if it stays."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    return
            except OSError:
                return
            await trio.sleep(0.05)


FOLDERS = sorted(file.parent.name for file in EXAMPLES.glob("*/README.md"))
INDEX = {cells[1]: cells for cells in re.findall(r"^\| (\[(.*)\]\(.*\)) \| .* \| (.*) \| (.*) \|$", INDEX_TEXT, re.M)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_example_says_in_one_screen_what_it_is_how_it_is_run_and_when_that_was(folder: str):
    text = (EXAMPLES / folder / "README.md").read_text()
    assert "```console" in text
    assert len(text.splitlines()) <= 60
    assert re.search(rf"\b({'|'.join(calendar.month_name[1:])}) 20\d\d\b", text)


def test_each_example_has_a_test_in_the_suite_and_a_script_that_exists():
    assert {file.name for file in EXAMPLES.iterdir() if file.is_dir()} - {"__pycache__"} == set(FOLDERS) == set(INDEX)
    for name, (_, _, suite, by_hand) in INDEX.items():
        assert all((ROOT / test).is_file() for test in re.findall(r"`(.*?)`", suite)), name
        assert all((EXAMPLES / name / script).is_file() for script in re.findall(r"`(.*?)`", by_hand)), name


WRK = """\
Running 1s test @ http://127.0.0.1:8000/cpu
  2 threads and 50 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   430.42ms  231.98ms   1.02s    72.22%
    Req/Sec    40.50     20.11    80.00     66.67%
  Latency Distribution
     50%  384.10ms
     75%  560.00ms
     90%  770.12ms
     99%    1.02s
  81 requests in 1.01s, 10.59KB read
  Socket errors: connect 0, read 1, write 0, timeout 3
  Non-2xx or 3xx responses: 2
Requests/sec:     80.19
Transfer/sec:     10.49KB
"""
AUTOCANNON = {
    "requests": {"average": 80.19},
    "latency": {"p50": 384.1, "p99": 1020},
    "errors": 4,
    "timeouts": 3,
    "non2xx": 2,
}


@pytest.mark.parametrize(("tool", "said"), [("wrk", WRK), ("autocannon", json.dumps(AUTOCANNON))])
def test_the_load_test_reads_what_its_tools_say(tool: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / tool).write_text(f"#!/bin/sh\ncat <<'end'\n{said}\nend\n")
    (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    spec = importlib.util.spec_from_file_location("load_test", EXAMPLES / "load-test" / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert getattr(module, tool)("http://127.0.0.1:8000/cpu") == (80.19, 384.1, 1020, 6)
