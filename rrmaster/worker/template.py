"""What does a template do?  It imports the application, never serves, and forks whoever does.

::

    template ── fork ──► middle ── fork ──► newborn        the middle one ends at once, so the newborn is the master's
       └── waits for the middle one ◄─ ends                child (the master adopts orphans), and outlives the template

It is plain blocking code without a thread or a loop, for those do not survive a fork.  A newborn does what makes it
new (`_begin_anew`), shows itself to the master, and does nothing more before the master has let go of its leash.

What it imports beside the application is what serves it, so that a newborn only makes its loop.  What lies in its
memory then is frozen: the collector of cycles would write into it, and a page that is written to is shared no more.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..protocol import template_wire
from ..protocol.channel import Letterbox
from ..protocol.fork_safety import OpenDescriptor, Traces, hindrances
from ..protocol.launch import Launch
from ..protocol.template_wire import Forked, ForkFailed, ForkRequest, Loaded, LoadFailed, MemoryUse
from .boot import Prepared, prepare, serve
from .loading import explain
from .serving.runtimes import warm_up

ADOPTED_S = 1.0
"""Seconds until the middle process has ended; it does nothing else, and takes some hundred microseconds."""

_RIGHTS = 256
"""Bytes of control buffer: more than the descriptors of one order."""


def be_template(line: int, launch: Launch) -> int:
    """Import, and fork on order until the master hangs up.  Returns in whoever was forked to be a worker, once it has
    served: the exit status."""
    master = socket.socket(fileno=line)
    master.set_inheritable(False)
    before = _traces()
    try:
        with _own_environment() as asked, _ending_with(master):
            prepared = prepare(launch)
            warm_up(prepared.application, prepared.launch)
    except BaseException as error:
        _say(master, LoadFailed(template_wire.bounded(explain(error)), tuple(asked)))
        os._exit(1)
    gc.collect()
    gc.freeze()
    _fork_in_vain()
    _say(master, Loaded(_hindrances(before, tuple(asked))))
    _weigh(master)
    return _fork_on_order(master, prepared)


def _fork_on_order(master: socket.socket, prepared: Prepared) -> int:
    while True:
        order, fds = _next(master)
        if not _fork(master, order, fds):
            for fd in fds:
                os.close(fd)
            _weigh(master)
            continue
        if order.kind == template_wire.WORKER:
            return _serve(master, order, fds, prepared)
        # From here on this is another template, on another line.
        master.close()
        line, leash = fds
        _wait_for(leash)
        master = socket.socket(fileno=line)


def _serve(master: socket.socket, order: ForkRequest, fds: list[int], prepared: Prepared) -> int:
    """In the newborn: become a worker.  The descriptors of the order are ours."""
    line, talk, out, err, leash = fds
    master.close()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.environ.update(order.environ, RRMASTER_TALK=str(talk))
    _wear(order.title)
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:  # random itself sees to it at a fork
        numpy_random.seed()
    _wait_for(leash)
    return serve(Letterbox.inherit(line), prepared.launch, lambda: prepared)


# --- the line


def _say(master: socket.socket, message: template_wire.Message, fds: tuple[int, ...] = ()) -> None:
    """Say something.  If nobody hears it any more, there is nothing left to be done here."""
    try:
        socket.send_fds(master, [template_wire.encode(message)], fds, socket.MSG_NOSIGNAL)
    except OSError:
        os._exit(0)


def _next(master: socket.socket) -> tuple[ForkRequest, list[int]]:
    """The next order, and its descriptors, ours to close.  The process ends here if there will be none."""
    while True:
        try:
            datagram, ancillary, _, _ = master.recvmsg(template_wire.MAX, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            continue  # the master has died; the end of stream is next
        if not datagram:
            os._exit(0)
        rights = b"".join(data for level, kind, data in ancillary if kind == socket.SCM_RIGHTS)
        fds = list(memoryview(rights[: len(rights) // 4 * 4]).cast("i"))
        order = template_wire.decode(datagram)
        if isinstance(order, ForkRequest) and len(fds) == template_wire.FDS[order.kind]:
            return order, fds
        for fd in fds:  # no free place for all of them
            os.close(fd)
        if isinstance(order, ForkRequest):
            _say(master, ForkFailed(order.number, os.strerror(errno.EMFILE)))


@contextmanager
def _ending_with(master: socket.socket) -> Iterator[None]:
    """While the application is imported nobody looks at the line, and nothing comes but its end, for which SIGIO ends
    the process: that needs no thread."""
    flags = fcntl.fcntl(master, fcntl.F_GETFL)
    fcntl.fcntl(master, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(master, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(master, fcntl.F_SETFL, flags)


# --- forking


def _fork(master: socket.socket, order: ForkRequest, fds: list[int]) -> bool:
    """Carry out an order.  True in the newborn."""
    try:
        middle = _fork_quietly()
    except OSError as error:
        _say(master, ForkFailed(order.number, str(error.strerror)))
        return False
    if middle:
        _, status = os.waitpid(middle, 0)
        if status:
            why = os.strerror(os.waitstatus_to_exitcode(status)) if os.WIFEXITED(status) else "it was killed"
            _say(master, ForkFailed(order.number, why))
        return False
    middle = os.getpid()
    try:
        newborn = _fork_quietly()
    except OSError as error:
        os._exit(error.errno or 1)
    if newborn:
        os._exit(0)
    _begin_anew(master, order, middle)
    return True


def _fork_quietly() -> int:
    """Fork.  Python warns where there are threads; whoever said ``--preload on`` has been told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _begin_anew(master: socket.socket, order: ForkRequest, middle: int) -> None:
    """In the newborn: a process group of its own, the master's child, and known to it."""
    os.setpgid(0, 0)
    deadline = time.monotonic() + ADOPTED_S
    while os.getppid() == middle:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.0001)
    pidfd = os.pidfd_open(os.getpid())
    _say(master, Forked(order.number, os.getpid()), (pidfd,))
    os.close(pidfd)


def _fork_in_vain() -> None:
    """Let everything that has handlers for a fork do what it does then: some threads end for it."""
    pid = _fork_quietly()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _wait_for(leash: int) -> None:
    """Until the master knows of this process.  If it does not want it any more, that is the end."""
    if not os.read(leash, 1):
        os._exit(0)
    os.close(leash)


def _wear(title: tuple[str, ...]) -> None:
    """Show this in `ps`, and in ``sys.argv``, as if the process had been started so.

    The kernel reads a process's command line from its memory, where it was put at the start; proc_pid_stat(5).
    """
    sys.argv[1:] = title
    try:
        import ctypes

        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        start, end = int(fields[45]), int(fields[46])
        with open("/proc/self/cmdline", "rb") as file:
            kept = file.read().split(b"\0")[:3]  # the interpreter, -m, and the module
        words = b"\0".join([*kept, *map(os.fsencode, title)])[: end - start - 1]
        ctypes.memmove(start, words.ljust(end - start, b"\0"), end - start)
    except (ImportError, OSError, ValueError, IndexError):
        pass  # an interpreter without ctypes, or no /proc: `ps` shows a template, and all else is as it should be


# --- what the import has done


def _hindrances(before: Traces | None, asked: tuple[str, ...]) -> tuple[str, ...]:
    after = _traces(asked)
    if before is None or after is None:
        return ("could not be watched (there is no /proc)",)
    return hindrances(before, after)


@contextmanager
def _own_environment() -> Iterator[list[str]]:
    """Note who asks for environment that each worker has for itself; there is none of it here."""
    asked: list[str] = []

    class Noting(dict[bytes, bytes]):
        def __missing__(self, key: bytes) -> bytes:
            name = os.fsdecode(key)
            if name in template_wire.OWN_TO_EACH and name not in asked:
                asked.append(name)
            raise KeyError(key)

    environ, environb = os.environ, os.environb
    plain = environ._data  # type: ignore[attr-defined]  # what both are a view of
    environ._data = environb._data = Noting(plain)  # type: ignore[attr-defined]
    try:
        yield asked
    finally:
        plain.clear()
        plain.update(environ._data)  # type: ignore[attr-defined]
        environ._data = environb._data = plain  # type: ignore[attr-defined]


def _traces(asked: tuple[str, ...] = ()) -> Traces | None:
    """What there is now that matters to a fork; None: that cannot be seen."""
    if not os.path.isdir("/proc/self/task"):
        return None
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    tasks = [int(tid) for tid in os.listdir("/proc/self/task")]
    others = sorted(tid for tid in tasks if tid != os.getpid())
    return Traces(
        threads=tuple(named.get(tid) or _read(f"/proc/self/task/{tid}/comm") for tid in others),
        held=frozenset(_held()),
        children=sum(len(_read(f"/proc/self/task/{tid}/children").split()) for tid in tasks),
        timer=any(signal.getitimer(which)[0] for which in (0, 1, 2)),
        looping=_looping(),
        asked=asked,
    )


def _held() -> Iterator[OpenDescriptor]:
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
        except OSError:
            continue  # it was that of the listing
        yield OpenDescriptor(int(name), target, flags & os.O_ACCMODE != os.O_RDONLY)


def _looping() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""  # a thread that has just ended, or a kernel that does not tell


def _weigh(master: socket.socket) -> None:
    """Say how much memory is this process's own."""
    found: dict[str, int] = {}
    for line in _read("/proc/self/smaps_rollup").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024
    weighed = _weighed(found)
    try:
        master.send(template_wire.encode(weighed), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the line is full: the next one will do


def _weighed(found: Mapping[str, int]) -> MemoryUse:
    own = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return MemoryUse(own, found.get("Pss", 0), found.get("Rss", 0))
