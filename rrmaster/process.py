"""How a worker's process is started, signalled and awaited: three verbs, pid, wait and signal.

A worker is a fresh interpreter (exec, never a bare fork of the master: no descriptor, thread or lock of ours goes with
it) in a process group of its own, so that Ctrl-C in a terminal reaches only the master and so that a dead worker's
children can be ended with it.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import trio
from attrs import define, field

from .restarts import Exit

DUMP_SIGNAL = signal.SIGRTMIN + 3
"""A worker answers it by writing the stacks of its threads to stderr (faulthandler, in C: a blocked loop does too).
A real-time signal, so that none of those an application may want is taken."""

REAP_AGAIN = 0.05
"""Seconds until the dead are looked at again, when the first of them was one of ours; who waits for it needs 1 ms."""


class Process(Protocol):
    """A worker's process, however it was started."""

    pid: int

    async def wait(self) -> Exit:
        """Wait for its end.  Its process group is dead when this returns."""

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to it, or to its whole process group; nothing happens if it is gone."""


@define(eq=False)
class Child:
    """A child process of ours, watched through a pidfd: EOF and SIGCHLD may lie, a pidfd does not."""

    _popen: subprocess.Popen[bytes]
    _pidfd: int
    _over: bool = False
    pid: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.pid = self._popen.pid

    async def wait(self) -> Exit:
        await trio.lowlevel.wait_readable(self._pidfd)
        self._over = True
        # While it is a zombie its number is nobody else's: this reaches its orphans, and only them.
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none left, or all of another user
            os.killpg(self.pid, signal.SIGKILL)
        status = self._popen.wait()
        os.close(self._pidfd)
        return Exit(code=status) if status >= 0 else Exit(signal=-status)

    def signal(self, number: int, group: bool = False) -> None:
        if self._over:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended, or become another user
            if group:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(self._pidfd, number)


async def start(
    argv: Sequence[str], environ: Mapping[str, str], inherit: Sequence[int], stdout: int, stderr: int, cwd: str
) -> Child:
    """Start a process that inherits these descriptors.  They stay the caller's, as do all others.

    Raises OSError (EAGAIN at a process limit, ENOMEM, ENOENT, ...).
    """

    def launch() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(inherit),
            process_group=0,
        )

    # In a thread: exec of a fresh interpreter takes milliseconds, which the dispatcher has a use for.
    try:
        child = await trio.to_thread.run_sync(launch)
    except RuntimeError as error:  # no thread to be had: the same limit, met a moment earlier
        raise OSError(errno.EAGAIN, str(error)) from None
    try:
        return Child(child, os.pidfd_open(child.pid))
    except OSError:  # no descriptor left: it cannot be watched, so it cannot be
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise


async def reap_strangers(ours: Callable[[], Collection[int] | None]) -> None:
    """Wait for the dead whom nobody here knows: as process 1 of a container, or as a subreaper, we inherit orphans.

    `ours` says for which children somebody here waits; None: one is being started, and its number is not known yet.
    They are looked at first and left alone: whoever is waited for here has lost his exit status.  Where nobody is
    adopted this finds nobody.  In the main thread, until cancelled.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as deaths:
        while True:
            if _reap_strangers(ours):
                await trio.sleep(REAP_AGAIN)
            else:
                await anext(deaths)


def _reap_strangers(ours: Callable[[], Collection[int] | None]) -> bool:
    """Whether one who is, or may be, ours stands before whoever else is dead: the kernel shows one at a time."""
    with contextlib.suppress(ChildProcessError):  # there is no child at all
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            known = ours()
            if known is None or found.si_pid in known:
                return True
            os.waitpid(found.si_pid, os.WNOHANG)
    return False


def worker_command(title: Sequence[str]) -> list[str]:
    """The interpreter that runs this package's worker; the title is for `ps`."""
    return [sys.executable, "-m", "rrmaster.worker", *title]


def package_root() -> str:
    """The directory from which `-m rrmaster.worker` finds this very package."""
    return str(Path(__file__).resolve().parent.parent)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, for us and the workers; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors this process may use: its affinity mask, and its control group's quota rounded up; at least 1."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(cgroup)
    return max(min(cpus, math.ceil(quota)) if quota else cpus, 1)


def _cgroup_quota(root: Path) -> float | None:
    """The smallest quota on the way from our control group up to the root (cgroup v2, cpu.max)."""
    try:
        entry = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    group = root / entry.removeprefix("0::").lstrip("/")
    quotas = [_quota(folder / "cpu.max") for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return min((quota for quota in quotas if quota), default=None)


def _quota(file: Path) -> float | None:
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None
