"""What does a template do?  It imports the application, never serves, and forks the workers that do.

::

    template ── fork ──► middle ── fork ──► child        the middle process ends at once, so the child's parent is the
       └── waits for the middle one ◄─ ends              master (which adopts orphans), and it outlives the template

A template is plain blocking code without a thread or a loop, because neither survives a fork: the child has only the
thread that forked, and shares the epoll of a loop.

A child must not serve before the master knows of it, or a child that the master has given up would serve beside its
replacement.  Its *leash* prevents that: one end of a pipe whose other end the master holds.  The child makes itself
independent (`_become_independent`), sends the master its pidfd, and reads the leash.  A byte lets it go on; the end of
the pipe, because the master has given it up or died, ends it.

Beside the application a template imports what serves it, so that a child only has to make its loop.  What is in its
memory then is frozen (`gc.freeze`): the collector of cycles would write into every object, and a page that is written
to is no longer shared.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ..protocol import template_wire
from ..protocol.channel import Letterbox
from ..protocol.forks.safety import Verdict, phrases
from ..protocol.launch import Launch
from ..protocol.template_wire import Forked, ForkFailed, ForkRequest, Loaded, LoadFailed
from .boot import Prepared, prepare, serve
from .ending.descendants import answer_for_descendants, end_descendants
from .loading import explain
from .preload.goodbye import is_dismissed, remove_temporary
from .preload.traces import memory_use, traces_now
from .preload.trial.forking import quiet_fork
from .preload.trial.judging import judge
from .preload.trial.run import Trial, be_tried
from .preload.watch import ImportWatch
from .serving.runtimes import warm_up

ADOPTED_S = 0.0001
"""Seconds between looks at whether the middle process has ended; it does nothing else, and takes some hundred
microseconds."""

_RIGHTS = 256
"""Bytes of control buffer: more than the descriptors of one order."""


def be_template(line: int, launch: Launch) -> int:
    """Import the application, and fork on order until the master hangs up.

    Returns only in a child that was forked to be a worker, once it has served: the exit status.
    """
    master = socket.socket(fileno=line)
    master.set_inheritable(False)
    answer_for_descendants(None, launch.kill_mode)
    begun, before = time.monotonic(), traces_now()
    explained = os.environ.pop("RRMASTER_EXPLAIN", "")
    watch = ImportWatch(launch, explained=bool(explained))
    try:
        with watch.watched(), _ending_with(master):
            prepared = prepare(launch)
            warm_up(prepared.application, prepared.launch)
    except BaseException as error:
        _send(master, LoadFailed(template_wire.bounded(explain(error)), watch.asked()))
        remove_temporary(watch)
        os._exit(1)
    # An import that ignores SIGCHLD, or reaps in its handler, would take away the children that a template waits for.
    # Each worker has its handler again.  None: it was not set from Python.
    reaper = signal.signal(signal.SIGCHLD, signal.SIG_DFL) or signal.SIG_DFL
    # Collect first: garbage that is frozen would never be freed.
    gc.collect()
    gc.freeze()
    found = judge(before, watch, prepared, begun)
    if isinstance(found, Trial):  # this is a process that was forked to be tried
        master.close()
        signal.signal(signal.SIGCHLD, reaper)
        return be_tried(found, prepared, watch)
    if explained:
        _send(master, watch.explanation(found))
    hindrances = phrases(found, Verdict.HINDRANCE)
    _send(master, Loaded(hindrances))
    _report_memory(master)
    if hindrances and is_dismissed(master):
        remove_temporary(watch)
        _end()
    return _fork_on_order(master, prepared, watch, reaper)


def _fork_on_order(master: socket.socket, prepared: Prepared, watch: ImportWatch, reaper: Any) -> int:
    while True:
        order, fds = _next_order(master)
        if not _fork(master, order, fds):
            for fd in fds:
                os.close(fd)
            _report_memory(master)
            continue
        if order.kind == template_wire.WORKER:
            signal.signal(signal.SIGCHLD, reaper)
            return _serve(master, order, fds, prepared, watch)
        # From here on this process is another template, on another line.
        master.close()
        line, leash = fds
        _wait_for_leash(leash)
        answer_for_descendants(None, prepared.launch.kill_mode)
        master = socket.socket(fileno=line)


def _serve(master: socket.socket, order: ForkRequest, fds: list[int], prepared: Prepared, watch: ImportWatch) -> int:
    """In the child: become a worker.  The descriptors of the order are the child's."""

    def ready() -> Prepared:
        watch.open_again()
        return prepared

    line, talk, out, err, figures, *words, leash = fds
    master.close()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    os.environ.update(order.environ, RRMASTER_TALK=str(talk), RRMASTER_FIGURES=str(figures))
    if words:
        os.environ["RRMASTER_LAST_WORDS"] = str(words[0])
    watch.begin_worker(order.title)
    _wait_for_leash(leash)
    return serve(Letterbox.inherit(line), prepared.launch, ready)


# --- the line


def _send(master: socket.socket, message: template_wire.Message, fds: tuple[int, ...] = ()) -> None:
    """Send a message.  A template whose master has gone has nothing left to do, and ends here."""
    try:
        socket.send_fds(master, [template_wire.encode(message)], fds, socket.MSG_NOSIGNAL)
    except OSError:
        _end()


def _end() -> NoReturn:
    """End what the import has started, and this process: the master has gone.  A child that was just forked ends alone.

    The other template of this code ends as well, and it would hang up by itself; all workers have marks of their own.
    """
    end_descendants(alone=True)
    os._exit(0)


def _report_memory(master: socket.socket) -> None:
    """Tell the master how much memory this process has for itself alone."""
    try:
        master.send(template_wire.encode(memory_use()), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        pass  # the line is full, and the figures after the next order are newer


def _next_order(master: socket.socket) -> tuple[ForkRequest, list[int]]:
    """The next order, and its descriptors, the caller's to close.  The process ends here if the master hangs up."""
    while True:
        try:
            datagram, ancillary, _, _ = master.recvmsg(template_wire.MAX, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            continue  # the master has died; the end of the stream is next
        if not datagram:
            _end()
        rights = b"".join(data for level, kind, data in ancillary if kind == socket.SCM_RIGHTS)
        fds = list(memoryview(rights[: len(rights) // 4 * 4]).cast("i"))
        order = template_wire.decode(datagram)
        if isinstance(order, ForkRequest) and len(fds) == template_wire.FDS[order.kind] + order.notes:
            return order, fds
        for fd in fds:  # the descriptor table had no room for all of them
            os.close(fd)
        if isinstance(order, ForkRequest):
            _send(master, ForkFailed(order.number, os.strerror(errno.EMFILE)))


@contextmanager
def _ending_with(master: socket.socket) -> Iterator[None]:
    """End this process with the master, also while the application is imported and no code reads the line.

    The line is silent until `Loaded`, so its only event is its end.  The kernel reports that with SIGIO, whose default
    is to end the process: no thread is needed, which a fork would not survive.
    """
    flags = fcntl.fcntl(master, fcntl.F_GETFL)
    fcntl.fcntl(master, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(master, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(master, fcntl.F_SETFL, flags)


# --- forking


def _fork(master: socket.socket, order: ForkRequest, fds: list[int]) -> bool:
    """Carry out an order.  Returns True in the child, False in the template."""
    try:
        middle = quiet_fork()
    except OSError as error:
        _send(master, ForkFailed(order.number, str(error.strerror)))
        return False
    if middle:
        # The middle process's exit status is the errno of its own fork, 0 if that succeeded.
        _, status = os.waitpid(middle, 0)
        if status:
            why = os.strerror(os.waitstatus_to_exitcode(status)) if os.WIFEXITED(status) else "it was killed"
            _send(master, ForkFailed(order.number, why))
        return False
    middle = os.getpid()
    # Fork again, so that the child's parent ends: the kernel makes the master the parent, which can then wait for it.
    try:
        child = quiet_fork()
    except OSError as error:
        os._exit(error.errno or 1)
    if child:
        os._exit(0)  # not sys.exit: the exit handlers that the application has registered must not run here
    _become_independent(master, order, middle, fds[-1])
    return True


def _become_independent(master: socket.socket, order: ForkRequest, middle: int, leash: int) -> None:
    """In the child: get a process group of its own, become the master's child, and send the master a pidfd."""
    os.setpgid(0, 0)
    # Before the middle process has ended the master cannot wait for the child.  No event tells of a new parent.  How
    # long that may take is for the master to say, which lets go of the leash when it gives the child up.
    poll = select.poll()
    poll.register(leash, select.POLLIN)
    while os.getppid() == middle:
        if poll.poll(0):
            os._exit(1)
        time.sleep(ADOPTED_S)
    # A pidfd, because the pid may be another process's by the time at which the master reads it.
    pidfd = os.pidfd_open(os.getpid())
    _send(master, Forked(order.number, os.getpid()), (pidfd,))
    os.close(pidfd)


def _wait_for_leash(leash: int) -> None:
    """Wait until the master knows of this process.  If the master has given it up, the process ends here."""
    if not os.read(leash, 1):
        os._exit(0)
    os.close(leash)
