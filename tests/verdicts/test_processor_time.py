"""How long processes ran and waited, read from the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rrmaster.verdicts import processor_time
from rrmaster.verdicts.processor_time import Look, Used, children_of, look, look_here, waited_here

SPIN = "while 1: pass"
DEADLINE = 20.0
"""Seconds until a wait fails."""

ONE = min(os.sched_getaffinity(0))


@contextmanager
def process(code: str) -> Iterator[int]:
    """A process on one processor."""
    command = [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{ONE}])\n{code}"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
    try:
        yield child.pid
    finally:
        os.killpg(child.pid, signal.SIGKILL)  # with its children
        child.communicate()


def used_until(pid: int, enough) -> Used:
    first, give_up = look([pid]), time.monotonic() + DEADLINE
    while not enough(used := look([pid]).since(first)):
        assert time.monotonic() < give_up, used
    return used


def test_one_of_two_that_share_a_processor_waits_while_the_other_runs():
    with process(SPIN) as one, process(SPIN) as other:
        assert look([one]).runnable
        used_until(one, lambda used: used.ran > 0.1 and used.waited > 0.1)
        used_until(other, lambda used: used.ran > 0.1 and used.waited > 0.1)


def test_a_process_that_sleeps_waits_for_no_processor():
    with process("import sys; sys.stdin.read()") as pid:
        give_up = time.monotonic() + DEADLINE
        while look([pid]).runnable:  # it starts
            assert time.monotonic() < give_up
        assert look([pid]).since(look([pid])) == Used(0.0, 0.0)


def test_a_thread_that_waits_beside_this_one_does_not_count_as_this_one():
    ended = threading.Event()
    other = threading.Thread(target=ended.wait)
    other.start()
    try:
        assert set(look_here().threads) == {threading.get_native_id()} < set(look([os.getpid()]).threads)
    finally:
        ended.set()
        other.join()


def test_children_count_as_their_parent():
    with process(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])") as pid:
        used_until(pid, lambda used: used.ran > 0.2)
        assert pid in children_of(os.getpid())


def test_a_thread_that_was_born_between_two_looks_counts_whole():
    assert Look({1: Used(5, 5), 2: Used(1, 2)}).since(Look({1: Used(5, 4)})) == Used(1, 3)


def test_processes_that_are_gone_have_had_nothing():
    with process(SPIN) as pid:
        first = look([pid])
    assert look([pid]).since(first) == Used(0.0, look([pid]).since(first).waited)
    assert look([pid]).threads == {}


@pytest.mark.parametrize("pressure", ["some avg10=0 avg60=0 avg300=0 total={}\n", ""])
def test_without_schedstat_the_pressure_of_the_machine_stands_for_the_wait(
    pressure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, totals = processor_time._read, iter([1_000_000, 3_500_000])

    def read(path: str) -> str:
        if path.endswith("schedstat"):
            return ""
        return pressure.format(next(totals)) if path == "/proc/pressure/cpu" else real(path)

    monkeypatch.setattr(processor_time, "_read", read)
    first, later = look_here(), look_here()
    assert not later.waits_known
    assert later.since(first).waited == (2.5 if pressure else 0.0)
    assert later.since(Look()).ran > 0, "from /proc/PID/stat"
    assert waited_here() == 0.0
