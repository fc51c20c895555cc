"""How a worker's process is started, signalled and awaited: three verbs, pid, wait and signal.

A worker is a fresh interpreter (exec, never a bare fork of the master: no descriptor, thread or lock of ours goes with
it) or was forked from a template (see `template`), and became our child as its parent ended: `adopting`.  In either
case it has a process group of its own, so that Ctrl-C in a terminal reaches only the master and so that a dead worker's
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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import trio
from attrs import define

from ..rules.backoff import Exit

DUMP_SIGNAL = signal.SIGRTMIN + 3
"""A worker answers it by writing the stacks of its threads to stderr (faulthandler, in C: a blocked loop does too).
A real-time signal, so that none of those an application may want is taken."""

REAP_AGAIN = 0.05
"""Seconds until the dead are looked at again, when the first of them was one of ours; who waits for it needs 1 ms."""

_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds between looks at the orphans of a worker that has ended.  A killed process needs less than the first."""

_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37
"""linux/prctl.h"""

OWN_S = 0.5
"""Seconds without a death after which the dead of our own process group are nobody's: who waits for a child is woken
by its death."""


class NotStarted(Exception):
    """A worker that cannot be started.  The message says why: mostly the application's own traceback."""


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

    pid: int
    _pidfd: int
    """Ours to close."""
    _popen: subprocess.Popen[bytes] | None = None
    """What started it, if we did."""
    _over: bool = False

    async def wait(self) -> Exit:
        await trio.lowlevel.wait_readable(self._pidfd)
        self._over = True
        # While it is a zombie its number is nobody else's: this reaches its orphans, and only them.
        with contextlib.suppress(ProcessLookupError, PermissionError):  # none left, or all of another user
            os.killpg(self.pid, signal.SIGKILL)
        how = self._reap()
        os.close(self._pidfd)
        with trio.CancelScope(shield=True):
            await _reap_group(self.pid)
        return how

    def _reap(self) -> Exit:
        try:
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            found = None  # somebody in this program waits for whoever ends; subprocess says 0 then, too
        status = found.si_status if found is not None else 0
        exited = found is None or found.si_code == os.CLD_EXITED
        if self._popen is not None:
            self._popen.returncode = status if exited else -status
        return Exit(code=status) if exited else Exit(signal=status)

    def disown(self) -> None:
        """It is nobody's, and will not be waited for here."""
        self._over = True
        os.close(self._pidfd)

    def signal(self, number: int, group: bool = False) -> None:
        if self._over:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended, or become another user
            if group:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(self._pidfd, number)


async def outlive(process: Process) -> Exit:
    """Wait until it has ended.  Cancelled, it is killed with its group first: nothing outlives the master's own end."""
    try:
        return await process.wait()
    except trio.Cancelled:
        process.signal(signal.SIGKILL, group=True)
        with trio.CancelScope(shield=True):
            await process.wait()
        raise


def adopted(pidfd: int, pid: int) -> Child:
    """The process behind a pidfd, which is ours from now on, if it is a child of ours and has this number.

    Raises ValueError if it is not, and the descriptor is closed.
    """
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        other = os.pidfd_open(pid)
        try:
            # In a container with the machine's /proc they have other numbers there, but the same.
            same = _number(pidfd) == _number(other)
        finally:
            os.close(other)
        if not same:
            raise ValueError(f"it is not process {pid}")
    except (OSError, StopIteration, ValueError) as error:
        os.close(pidfd)
        raise ValueError(f"that is no child of ours: {error}") from None
    return Child(pid, pidfd)


def _number(pidfd: int) -> int:
    """What /proc calls the process."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


@contextlib.contextmanager
def adopting() -> Iterator[bool]:
    """Be the parent of all orphans among our descendants, as prctl(2) has it with PR_SET_CHILD_SUBREAPER.

    False if that cannot be.  Afterwards it is as it was before.
    """
    try:
        import ctypes

        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (ImportError, OSError, AttributeError):  # an interpreter without ctypes, or a C library without that
        yield False
        return
    before = ctypes.c_int()
    prctl(_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    try:
        yield prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    finally:
        prctl(_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


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
        return Child(child.pid, os.pidfd_open(child.pid), child)
    except OSError:  # no descriptor left: it cannot be watched, so it cannot be
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise


async def _reap_group(leader: int) -> None:
    """Wait for those of a dead leader's group that have become ours (see `adopting`): they were killed with it.

    Who takes longer to die is left to `reap_strangers`, or to our own end.
    """
    for pause in _PAUSES:
        try:
            while os.waitid(os.P_PGID, leader, os.WEXITED | os.WNOHANG):
                pass
        except ChildProcessError:  # there is none, as always where nobody is adopted
            return
        await trio.sleep(pause)


async def reap_strangers(ours: Callable[[], Collection[int] | None]) -> None:
    """Wait for the dead whom nobody here knows: as process 1 of a container, or as a subreaper, we inherit orphans.

    `ours` says for which children somebody here waits; None: one is being started, and its number is not known yet.
    They are looked at first and left alone: whoever is waited for here has lost his exit status.  Who is in our own
    process group may be a child that something in this program has started, and has `OWN_S` to be waited for.  Where
    nobody is adopted this finds nobody.  In the main thread, until cancelled.
    """
    died = trio.current_time()
    with trio.open_signal_receiver(signal.SIGCHLD) as deaths:
        while True:
            again = _reap_strangers(ours, patient=trio.current_time() < died + OWN_S)
            with trio.move_on_after(again):
                await anext(deaths)
                died = trio.current_time()


def _reap_strangers(ours: Callable[[], Collection[int] | None], patient: bool) -> float:
    """Seconds until to look again, if whoever is, or may be, ours stands before whoever else is dead: the kernel shows
    one at a time."""
    with contextlib.suppress(ChildProcessError):  # there is no child at all
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            known = ours()
            if known is None or found.si_pid in known:
                return REAP_AGAIN
            if patient and os.getpgid(found.si_pid) == os.getpgrp():
                return OWN_S
            os.waitpid(found.si_pid, os.WNOHANG)
    return math.inf


def worker_command(title: Sequence[str]) -> list[str]:
    """The interpreter that runs this package's worker; the title is for `ps`."""
    return [sys.executable, "-m", "rrmaster.worker", *title]


def package_root() -> str:
    """The directory from which `-m rrmaster.worker` finds this very package."""
    return str(Path(__file__).resolve().parents[2])


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
