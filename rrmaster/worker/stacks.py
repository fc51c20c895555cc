"""Where is this worker just now: the stacks of its threads, and of its tasks if the loop can still tell."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from collections.abc import Callable, Iterable

DUMP_SIGNAL = signal.SIGRTMIN + 3
"""Asks for the stacks; as in `process`, which a worker does not import."""

MAX_TASK_LINES = 2_000
"""Lines of task stacks: ten thousand connections are ten thousand times the same."""


def dump_tasks_at(number: int, tasks: Callable[[], Iterable[str]]) -> None:
    """After the stacks of the threads, which faulthandler writes, write these lines, if Python code still runs."""
    faulthandler.unregister(number)
    signal.signal(number, lambda *_: _write(2, tasks))
    faulthandler.register(number, file=2, all_threads=True, chain=True)  # then it calls the handler set before it


def _write(fd: int, tasks: Callable[[], Iterable[str]]) -> None:
    """In a signal handler, so between any two bytecodes: what it raised would end the worker that was only asked."""
    try:
        os.write(fd, "".join(f"{line}\n" for line in tasks()).encode(errors="replace"))
    except Exception as error:
        with contextlib.suppress(OSError):  # nobody reads it, and there is nobody else to tell
            os.write(fd, f"the tasks cannot be shown: {error!r}\n".encode())
