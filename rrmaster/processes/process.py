"""How a worker's process is started, signalled and awaited.

A worker is either a fresh interpreter, started by exec so that no descriptor, thread or lock of the master goes with
it, or was forked from a template (see `template`) and became the master's child when its parent ended (see `adopting`).
In both cases it has a process group of its own: Ctrl-C in a terminal reaches only the master, and the children of a
dead worker can be killed with it.
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
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import trio
from attrs import Factory, define

from ..rules.backoff import Exit
from ..waiting import LOOK_AGAIN_S, close, readable

DUMP_SIGNAL = signal.SIGRTMIN + 3
"""A worker answers it by writing the stacks of its threads to stderr, by faulthandler: in C, so a blocked loop answers
too.  A real-time signal, so that no signal an application may want is taken."""

REAP_AGAIN = 0.05
"""Seconds until zombies are looked at again, if the first one belongs to a task here, which needs 1 ms to reap it."""

_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016)
"""Seconds between looks at the orphans of a worker that has ended.  A killed process is a zombie before the first."""

_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37
"""linux/prctl.h"""

OWN_S = 0.5
"""Seconds without a death after which a zombie of the master's own process group belongs to no task: a task that waits
for a child is woken by its death."""


class NotStarted(Exception):
    """A worker that cannot be started.  The message says why: mostly the application's own traceback."""


class NoLongerWanted(NotStarted):
    """A worker whose generation was given up before it had a process: the code is not to blame."""


class Process(Protocol):
    """A worker's process, however it was started."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> Exit:
        """Wait for its end.  Its whole process group is dead when this returns."""

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to it, or to its whole process group; nothing happens if it has ended."""


@define(eq=False)
class Child:
    """A child of the master, watched through a pidfd.

    An end of file on a pipe may come from a grandchild that holds it, and one SIGCHLD may stand for several children;
    a pidfd tells the end of exactly this process, and its number cannot be reused meanwhile.
    """

    pid: int
    _pidfd: int
    """Owned: closed when the process has been reaped."""
    _popen: subprocess.Popen[bytes] | None = None
    """The object that started it, if the master did."""
    _over: bool = False
    _parent: int = Factory(os.getpid)
    _mistaken: bool = False  # the descriptor is no pidfd: the master's own state is wrong
    _how: Exit | None = None

    async def wait(self) -> Exit:
        """Wait for its end, as `Process` says.

        Raises OSError, once, if the master's state is wrong.  A further call goes by the number of the process, which
        no other process can have before this one is reaped here.
        """
        if self._how is not None:
            return self._how
        try:
            await (self._ended() if self._mistaken else readable(self._pidfd))
            self._look()  # before anything is killed
            # A zombie still holds its number, so the signal reaches this worker's orphans and no other process group.
            _signal_group(self.pid, signal.SIGKILL)
            how = self._how = self._reap()
        except OSError:
            self._mistaken = True
            raise
        self._over = True
        if not self._mistaken:
            close(self._pidfd)
        with trio.CancelScope(shield=True):
            await _reap_group(self.pid)
        return how

    async def _ended(self) -> None:
        while not self._look():
            await trio.sleep(LOOK_AGAIN_S)

    def _look(self) -> bool:
        """Whether it has ended, or is no child of this process any longer."""
        with contextlib.suppress(ChildProcessError):
            return os.waitid(*self._by, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        return True

    @property
    def _by(self) -> tuple[int, int]:
        return (os.P_PID, self.pid) if self._mistaken else (os.P_PIDFD, self._pidfd)

    def _reap(self) -> Exit:
        try:
            found = os.waitid(*self._by, os.WEXITED)
        except ChildProcessError:
            found = None  # another part of this program reaps all children; subprocess also reports 0 then
        status = found.si_status if found is not None else 0
        exited = found is None or found.si_code == os.CLD_EXITED
        if self._popen is not None:
            self._popen.returncode = status if exited else -status
        return Exit(code=status) if exited else Exit(signal=status)

    def disown(self) -> None:
        """Give it up: its end is not waited for here."""
        self._over = True
        close(self._pidfd)

    def signal(self, number: int, group: bool = False) -> None:
        # A process that the master's program forks has a copy of this object, and may run on by mistake.
        if self._over or os.getpid() != self._parent:
            return
        if group:
            _signal_group(self.pid, number)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has just ended, or changed its user
            # A worker can leave its process group (setpgid), but not its pidfd.
            if not group or os.getpgid(self.pid) != self.pid:
                self._signal(number)

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except (ProcessLookupError, PermissionError):
            raise
        except OSError:  # it is no pidfd, and `wait` tells that; a child that is not reaped keeps its number
            os.kill(self.pid, number)


Begin = Callable[[Mapping[str, str], Sequence[int], int, int], Awaitable[Child]]
"""Starts a certain process, with an environment, descriptors that it inherits, and its stdout and stderr."""


def _signal_group(leader: int, number: int) -> None:
    """Signal a process group, if there is such a group that the master may signal."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have left it, or all have another user
        os.killpg(leader, number)


async def outlive(process: Process) -> Exit:
    """Wait until it has ended.  If cancelled, kill it and its group first: no process outlives the task."""
    try:
        return await process.wait()
    except trio.Cancelled:
        process.signal(signal.SIGKILL, group=True)
        with trio.CancelScope(shield=True):
            await process.wait()
        raise


def adopted(pidfd: int, pid: int) -> Child:
    """The child behind a pidfd that another process sent; takes ownership of the descriptor.

    Raises ValueError, with the descriptor closed, if it is no child of this process or has another number than `pid`.
    """
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        other = os.pidfd_open(pid)
        try:
            # In a container with the machine's /proc both numbers differ from `pid`, and are equal all the same.
            same = _number(pidfd) == _number(other)
        finally:
            close(other)
        if not same:
            raise ValueError(f"it is not process {pid}")
    except (OSError, StopIteration, ValueError) as error:
        close(pidfd)
        raise ValueError(f"that is no child of the master: {error}") from None
    return Child(pid, pidfd)


def _number(pidfd: int) -> int:
    """The process's number in /proc."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pid:"))


@contextlib.contextmanager
def adopting() -> Iterator[bool]:
    """Become the parent of all orphans among this process's descendants: prctl(2), PR_SET_CHILD_SUBREAPER.

    Yields False if that is not possible.  Leaving the block restores what was before.
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
    """Start a process that inherits these descriptors, which stay the caller's.

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

    # In a thread: fork and exec take milliseconds, in which the dispatcher must go on.
    try:
        child = await trio.to_thread.run_sync(launch)
    except RuntimeError as error:  # no thread can be started: the same limit, met a moment earlier
        raise OSError(errno.EAGAIN, str(error)) from None
    try:
        return Child(child.pid, os.pidfd_open(child.pid), child)
    except OSError:  # no descriptor is left: a process that cannot be watched must not live
        child.kill()  # itself, for it may have left its group already
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()
        raise


async def _reap_group(leader: int) -> None:
    """Reap the processes of a dead leader's group that this process has adopted: they were killed with it.

    Those that take longer to die are left to `reap_strangers`, or to the end of this process.
    """
    for pause in _PAUSES:
        try:
            while os.waitid(os.P_PGID, leader, os.WEXITED | os.WNOHANG):
                pass
        except ChildProcessError:  # there is none, as always where this process does not adopt orphans
            return
        await trio.sleep(pause)


async def reap_strangers(ours: Callable[[], Collection[int] | None]) -> None:
    """Reap the zombies that no task waits for: process 1 of a container, and a subreaper, inherit orphans.

    `ours` returns the children that a task waits for, or None while one is being started and its number is not known.
    Those are left alone, because reaping one here would lose its exit status.  A zombie of this process's own group may
    be a child that something else in this program has started, so it is left for `OWN_S`.  Where no orphans are adopted
    this finds none.  Runs in the main thread, until cancelled.
    """
    died = trio.current_time()
    with trio.open_signal_receiver(signal.SIGCHLD) as deaths:
        while True:
            again = _reap_strangers(ours, patient=trio.current_time() < died + OWN_S)
            with trio.move_on_after(again):
                await anext(deaths)
                died = trio.current_time()


def _reap_strangers(ours: Callable[[], Collection[int] | None], patient: bool) -> float:
    """Reap what may be reaped; returns the seconds until the next look.

    The kernel shows one zombie at a time, so one that must be left alone hides those behind it.
    """
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
    """The command line of a worker of this package; the title is for ``ps``."""
    return [sys.executable, "-m", "rrmaster.worker", *title]


def package_root() -> str:
    """The directory from which `-m rrmaster.worker` finds this very package."""
    return str(Path(__file__).resolve().parents[2])


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, for the master and its workers; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of processors this process may use: affinity mask, and cgroup quota rounded up; at least 1."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(cgroup)
    return max(min(cpus, math.ceil(quota)) if quota else cpus, 1)


def _cgroup_quota(root: Path) -> float | None:
    """The smallest quota on the way from this process's cgroup up to the root (cgroup v2, cpu.max)."""
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
