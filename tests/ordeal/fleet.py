"""One master with its log, and what can be seen of it from outside."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio
from attrs import define

from rrmaster.control.client import Client, connect_to_master
from rrmaster.protocol.family import lineage
from rrmaster.status.model import Snapshot

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 3
START_S = 120
"""Seconds for the start: on a machine with fifty processes that want a processor it has taken 60."""

T = TypeVar("T")

COMMAND = (
    *(sys.executable, "-m", "rrmaster", "--bind", "127.0.0.1:0", "--hang-timeout", f"{HANG_S}s"),
    *("--probation", "200ms", "--soak", "200ms", "--keep-alive", "30s"),
)


def chosen(luck: random.Random) -> list[str]:
    """A seed's options."""
    runtime = luck.choice(("uvloop", "uvloop", "asyncio", "trio"))
    options = [
        "--runtime",
        runtime,
        "--workers",
        str(luck.randint(2, 5)),
        "--graceful-timeout",
        luck.choice(("5s", "30s")),
    ]
    options += ["--policy", luck.choice(("least-loaded", "least-loaded", "round-robin", "random-two"))]
    options += ["--preload", luck.choice(("auto", "auto", "off")), "--max-requests", luck.choice(("0", "0", "300"))]
    return options


@define(eq=False)
class Master:
    """A running master."""

    process: trio.Process
    place: Path

    @property
    def log(self) -> str:
        """Its log so far."""
        return (self.place / "log").read_text(errors="replace")

    @property
    def port(self) -> int:
        """The port of its address."""
        match = re.search(r" on http://127\.0\.0\.1:(\d+)", self.log)
        assert match, self.log
        return int(match[1])

    async def status(self) -> Snapshot:
        """A snapshot."""
        return await self._asked(lambda client: client.status())

    async def ask(self, do: str, **more: object) -> None:
        """One verb; its refusal is no fault."""
        await self._asked(lambda client: list(client.ask(do, **more)))

    async def _asked(self, work: Callable[[Client], T]) -> T:
        def call() -> T:
            client = Client(*connect_to_master(str(self.place / "control"), None, os.environ, os.getuid()))
            try:
                return work(client)
            finally:
                client.close()

        return await trio.to_thread.run_sync(call)

    def descendants(self) -> list[lineage.Seen]:
        """All that descends from it and lives."""
        return lineage.tree_of(lineage.children_of(self.process.pid))

    def seen(self) -> dict[str, float]:
        """Memory and descriptors: its own, and those of all that descends from it."""
        pid = self.process.pid
        owned = [_uss(seen.pid) for seen in self.descendants()]
        return {
            "master uss MB": _uss(pid),
            "master descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "processes": len(owned),
            "children uss MB": sum(owned),
            "largest uss MB": max(owned, default=0.0),
        }


def _uss(pid: int) -> float:
    """Megabytes of memory that no other process shares."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0  # it has just ended
    return sum(int(kb) for kb in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) / 1000


@asynccontextmanager
async def running(options: list[str]) -> AsyncIterator[Master]:
    """A master whose workers serve; killed with its descendants at the end, if it is still there."""
    with tempfile.TemporaryDirectory(prefix="ordeal-") as name:
        place = Path(name)
        with (place / "log").open("wb") as log:
            process = await trio.lowlevel.open_process(
                [*COMMAND, "--control", str(place / "control"), *options, "tests.ordeal.app:app"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        master = Master(process, place)
        try:
            with trio.fail_after(START_S):
                while "workers serve" not in master.log:
                    await trio.sleep(0.05)
            yield master
        finally:
            if process.returncode is None:
                lineage.kill([*master.descendants(), *lineage.tree_of([process.pid])])
