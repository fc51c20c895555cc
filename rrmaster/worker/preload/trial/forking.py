"""What does a process have again that is forked from this one?  A first fork shows it, of a process that ends at once.

Libraries have handlers for forks (`os.register_at_fork`, pthread_atfork): some end their threads before one, others
start them again in the new process.  So the traces that decide are taken after the first fork.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import warnings

from attrs import frozen

PATIENCE_S = 5.0
"""Seconds until a forked process has its threads again: a handler takes milliseconds, or waits for a lock for ever."""

HANGS = "has a handler of os.register_at_fork that does not return in a forked process"
"""The phrase, like those of `safety.findings`."""


def quiet_fork() -> int:
    """Fork, without Python's warning of threads: with ``--preload on`` the master has told the user already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@frozen
class FirstFork:
    """What the first fork has shown."""

    renewed: tuple[str, ...] = ()
    """The names of the threads that the forked process has from its beginning."""
    hangs: bool = False
    """The handlers do not return there."""


def fork_once() -> FirstFork:
    """Fork a process that ends at once."""
    ours, its = os.pipe()
    try:
        pid = quiet_fork()
    except OSError:  # at a limit of processes; the workers' forks may succeed, and each that does not is reported
        os.close(ours)
        os.close(its)
        return FirstFork()
    if pid == 0:
        names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        os.write(its, json.dumps(names).encode())
        os._exit(0)
    os.close(its)
    with open(ours, "rb") as told:
        poll = select.poll()
        poll.register(told, select.POLLIN)
        hangs = not poll.poll(PATIENCE_S * 1000)
        if hangs:
            os.kill(pid, signal.SIGKILL)
        names = json.loads(told.read() or b"[]")
    os.waitpid(pid, 0)
    return FirstFork(tuple(names), hangs)
