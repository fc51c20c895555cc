"""What is measured: how each server is started, where it listens, and how it is ended.

Each is a process group of its own, started from here and ended by its number.  Each chooses its own port.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from .machine import HOME

BUILD = HOME / "build"

START = 30.0
"""Seconds a server may take until all its workers listen."""

STOP = 10.0
"""Seconds it may take to end before it is killed."""


class Missing(Exception):
    """What it takes is not on this machine."""


@frozen
class Server:
    """One that runs."""

    name: str
    pid: int
    """Of the process that accepts."""
    port: int


@frozen
class Contender:
    """One that can be started."""

    name: str
    command: Callable[[int], Sequence[str]]
    """Its command line for so many workers.  Raises Missing."""
    port: Callable[[subprocess.Popen[bytes]], int]
    """Waits until it serves."""
    tree: Path = HOME.parent


def compiled(name: str) -> Path:
    """The program made of `name`.c, compiled when it is older.  Raises Missing."""
    source, program = HOME / f"{name}.c", BUILD / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    if shutil.which("cc") is None:
        raise Missing("no C compiler (cc)")
    BUILD.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", program, source, "-lm"], check=True)
    return program


def contenders(beside: Sequence[Path] = ()) -> list[Contender]:
    """rrmaster, any other checkouts of it, and the peers."""
    trees = [("rrmaster", HOME.parent), *((f"rrmaster ({path.name})", path.resolve()) for path in beside)]
    ours = [Contender(name, _rrmaster, port_of_rrmaster, tree) for name, tree in trees]
    return [*ours, Contender("node", _node, port_printed), Contender("c", c_master, port_printed)]


def _rrmaster(workers: int) -> Sequence[str]:
    options = ["-w", str(workers), "-b", "127.0.0.1:0", "--app-dir", str(HOME.parent)]
    return [sys.executable, "-m", "rrmaster", *options, "bench.handlers:answer"]


def _node(workers: int) -> Sequence[str]:
    if shutil.which("node") is None:
        raise Missing("no node")
    return ["node", str(HOME / "peer.js"), str(workers)]


def c_master(workers: int) -> Sequence[str]:
    return [str(compiled("peer")), str(workers)]


@contextlib.contextmanager
def started(contender: Contender, workers: int) -> Iterator[Server]:
    """Run it for the time of the block.  Raises Missing, RuntimeError if it does not serve in time."""
    process = subprocess.Popen(
        contender.command(workers),
        cwd=contender.tree,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        process_group=0,
    )
    try:
        yield Server(contender.name, process.pid, contender.port(process))
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to go (the peers go when their stdin ends), then see that it and its group are gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with contextlib.suppress(ProcessLookupError):  # none of its group is left, as it should be
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()


def port_of_rrmaster(process: subprocess.Popen[bytes]) -> int:
    said = _read_until(process, rb"ready: \d+ of \d+ workers serve")
    found = re.search(rb" on 127\.0\.0\.1:(\d+) with ", said)
    if found is None:
        raise RuntimeError(f"it does not say where it listens:\n{said.decode()}")
    return int(found[1])


def port_printed(process: subprocess.Popen[bytes]) -> int:
    return int(_read_until(process, rb"^\d+\n"))


def _read_until(process: subprocess.Popen[bytes], pattern: bytes) -> bytes:
    """What it has said when the pattern is in it.  What it says later fits into the pipe."""
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + START
    while not re.search(pattern, said):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise RuntimeError(f"it does not serve after {START:g} s:\n{said.decode()}")
        more = os.read(process.stdout.fileno(), 4096)
        if not more:
            raise RuntimeError(f"it ended with status {process.wait()}:\n{said.decode()}")
        said += more
    return said
