"""The examples whose parts come from Python packages.  The others say in their README when they were run last."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest
import trio

from tests.whole.harness import ROOT

EXAMPLES = ROOT / "examples"
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


def test_every_example_says_in_one_screen_what_it_is_and_how_it_is_run():
    for folder in (folder for folder in EXAMPLES.iterdir() if (folder / "README.md").exists()):
        text = (folder / "README.md").read_text()
        assert "```console" in text, folder
        assert len(text.splitlines()) <= 60, folder
