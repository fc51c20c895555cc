"""Where is this worker just now?  The stacks of its threads, and of its tasks if Python code still runs."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable, Iterable

DUMP_SIGNAL = signal.SIGRTMIN + 3
"""Asks a worker for its stacks.  The master sends it: `processes.process` has the same number, which a worker does not
import."""

MAX_TASK_LINES = 2_000
"""Lines of task stacks: those of ten thousand connections are ten thousand times the same."""


def dump_tasks_at(number: int, tasks: Callable[[], Iterable[str]]) -> None:
    """On this signal write the stacks of the threads, and then the lines of `tasks`, to stderr.

    faulthandler writes the former in C, so they come also from a process that is stuck in a C function.
    """
    faulthandler.unregister(number)
    worker = os.getpid()

    def write(*_: object) -> None:
        if os.getpid() == worker:  # a child that the application forks has inherited this, and runs none of the tasks
            _write(2, tasks)

    signal.signal(number, write)
    faulthandler.register(number, file=2, all_threads=True, chain=True)  # then it calls the handler set before it


def _write(fd: int, tasks: Callable[[], Iterable[str]]) -> None:
    """Write the lines.  As a signal handler it runs between any two bytecodes: an error would end a healthy worker."""
    try:
        os.write(fd, "".join(f"{line}\n" for line in tasks()).encode(errors="replace"))
    except Exception as error:
        with contextlib.suppress(OSError):  # no process reads stderr, and there is no other place to report it
            os.write(fd, f"the tasks cannot be shown: {error!r}\n".encode())
