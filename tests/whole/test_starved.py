"""A machine that is short of processors: which processes are taken for sick?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.whole.harness import Running, ask, gone, running
from tests.whole.test_faults import stop_process

BUSY = 4
"""Processes that run without end beside one of the lowest priority, which gets a turn each few seconds."""


@contextmanager
def starved(pid: int) -> Iterator[None]:
    """A process gets next to no time of a processor, on which others run."""
    one = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{one}])\nwhile 1: pass"
    busy = [subprocess.Popen([sys.executable, "-S", "-c", spin]) for _ in range(BUSY)]
    os.sched_setaffinity(pid, [one])
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()


OPTIONS = ("--hang-timeout", "1s", "--heartbeat", "100ms")


def killed(master: Running) -> bool:
    return "-> killed" in master.text


async def test_a_worker_that_waits_for_a_processor_is_given_time_and_lives():
    async with running("handlers:quick", *OPTIONS, workers=1) as master:
        (worker,) = master.workers
        with starved(worker):
            await master.said(r"worker 0 \(pid \d+\) is given more time than 1 s: processor time is short", times=1)
        assert int(await ask(master.port)) == worker
        assert not killed(master)


async def test_a_worker_that_is_stopped_is_killed_though_others_wait_for_a_processor():
    async with running("handlers:quick", *OPTIONS, workers=2) as master:
        stuck, starves = master.workers
        with starved(starves):
            stop_process(stuck)
            await gone(stuck)
            await master.said(rf"pid {stuck}\): serving -> killed, its loop has not reported for too long")
