"""What does `ps` show of a forked worker?  What it would show of one that was started afresh.

The kernel reads a process's command line from its memory, where it was put at the start; proc_pid_stat(5).  A forked
worker writes its own arguments there, unless the application has set a title while it was imported (setproctitle, or by
any other way): a worker that imports the application for itself would show that, and nothing else.
"""

from __future__ import annotations

import os
import sys


def shown() -> bytes:
    """The command line of this process, as others see it; empty where that cannot be seen."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def show(arguments: tuple[str, ...], before: bytes) -> None:
    """Show these arguments, also in `sys.argv`, as if the process had been started with them.

    `before`: what was shown before the application was imported.
    """
    sys.argv[1:] = arguments
    now = shown()
    if now != before:
        return
    try:
        import ctypes

        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end
        kept = now.split(b"\0")[:3]  # the interpreter, -m, and the module
        words = b"\0".join([*kept, *map(os.fsencode, arguments)])[: end - start - 1]
        ctypes.memmove(start, words.ljust(end - start, b"\0"), end - start)
    except (ImportError, OSError, ValueError, IndexError):
        pass  # an interpreter without ctypes, or no /proc: `ps` shows a template, and all else is as it should be
