"""What a forked process does not have of its parent is seen before the fork."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

import pytest

from rrmaster.worker.preload.lost import lost_by_a_fork

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""The runner has threads, and the child does nothing but answer."""

LIBRARY = ctypes.CDLL(None, use_errno=True)


def told_after(act: Callable[[], object]) -> str:
    """What is told in a process that has done this, and in one that it forks."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        act()
        os.write(its, f"{','.join(lost_by_a_fork())};".encode())
        if (grandchild := os.fork()) == 0:
            os.write(its, ",".join(lost_by_a_fork()).encode())
        else:
            os.waitpid(grandchild, 0)
        os._exit(0)
    os.close(its)
    with open(ours) as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


def set_a_timer() -> None:
    number = ctypes.c_void_p()
    assert LIBRARY.timer_create(1, None, ctypes.byref(number)) == 0


def lock_memory() -> None:
    page = ctypes.create_string_buffer(4096)
    assert LIBRARY.mlock(page, 1) == 0


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda: None, ";"),
        (set_a_timer, "set a timer (timer_create);"),
        (lock_memory, "locked memory (mlock);"),
        (
            lambda: LIBRARY.prctl(1, int(signal.SIGUSR1), 0, 0, 0),
            "asked for a signal at the death of its parent (PR_SET_PDEATHSIG);",
        ),
    ],
)
def test_what_a_forked_process_does_not_have_is_seen(act: Callable[[], object], told: str) -> None:
    assert told_after(act) == told
