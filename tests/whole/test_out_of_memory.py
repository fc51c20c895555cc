"""The log says when the kernel, and no other process, has killed a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.whole.harness import running
from tests.whole.test_children import get

LIMIT = 200_000_000
"""Bytes for master, template and worker: they have enough, and a worker that takes more is the largest of them."""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory, where one can be made."""
    name = f"rrmaster-test-{os.getpid()}"
    for root, limit, swap in (
        ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    ):
        folder = Path(root, name)
        try:
            if not Path(root, "cgroup.procs").exists():
                continue
            folder.mkdir()
            (folder / limit).write_text(str(LIMIT))
            if (folder / swap).exists():
                (folder / swap).write_text("0" if "max" in limit else str(LIMIT))
        except OSError:
            if folder.exists():
                folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group with a limit of memory can be made here")


async def test_a_worker_that_the_kernel_kills_for_memory_has_crashed_and_the_log_says_why(group: Path) -> None:
    inside = ("/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh")
    async with running("eats_memory:wsgi", workers=1, under=inside) as master:
        os.kill(next(iter(master.workers)), signal.SIGKILL)
        await master.said("serving -> gone, was ended by SIGKILL")
        await master.said("-> serving", times=2)
        assert "out of memory" not in master.text
        await get(master.port, "/eat")
        await master.said("serving -> gone, was ended by the kernel's SIGKILL: out of memory")
        await master.said("-> serving", times=3)
        assert await master.stop() == 0
