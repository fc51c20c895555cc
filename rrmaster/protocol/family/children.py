"""What does a process that a program forks not keep of the master or worker in that program?

A child that the application forks in a worker, or the program that a master runs in (`multiprocessing`, `os.fork`,
`pty.fork`), inherits whatever makes its parent a worker or a master, and must not act on it.  A signal to the child
would otherwise be written into the parent's loop, through the wake-up descriptor that both share.  Code that the child
runs on by mistake would report on the worker's line.  A copy of a listener keeps a port taken when its master has
ended, and clients wait there for nothing; a copy of the master's end of a line keeps workers from seeing that the
master has died.

So the child lets go right after the fork.  It handles signals as they were handled before, and each descriptor that
must not be its own becomes the end of a line that has ended.  A closed descriptor would not do: its number is soon
another file's, and the object that has it may be used or closed later.

What is started by exec inherits nothing, since all descriptors are closed on exec.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol
from weakref import WeakSet


class HasDescriptor(Protocol):
    """A socket of the standard library or of trio."""

    def fileno(self) -> int:
        """The descriptor, -1 once it is closed."""


_at_birth: dict[int, Any] = {}
"""What handled each signal before the master or worker did."""

_our_own: dict[int, Any] = {}
"""What handles each signal for the master or worker."""

_RELAYS = frozenset({"_sighandler_noop", "__sighandler"})
"""The handlers that asyncio and uvloop set; they do nothing unless a loop reads what the wake-up descriptor tells."""

_blocked_before: dict[int, list[Any]] = {}
"""The signals that each forking thread had blocked before its forks; a signal handler may fork within a fork."""

_sockets: WeakSet[HasDescriptor] = WeakSet()
_descriptors: set[int] = set()


def keep_from_children(*sockets: HasDescriptor) -> None:
    """Have the children of this process let go of these sockets, as long as they are open here."""
    _sockets.update(sockets)
    _watch_forks()


def keep_descriptors_from_children(*fds: int) -> None:
    """The same for descriptors that stay open to the end of this process."""
    _descriptors.update(fds)
    _watch_forks()


@contextmanager
def kept_from_children(fd: int) -> Iterator[None]:
    """The same for one descriptor, for the time of the block."""
    keep_descriptors_from_children(fd)
    try:
        yield
    finally:
        _descriptors.discard(fd)


def remember_handlers(numbers: Iterable[int]) -> None:
    """The handlers that stand now are for children, too.  Called in the main thread, before these signals are handled.

    From now on they are held back during a fork: a signal to a child that has not let go yet would reach its parent.
    """
    _at_birth.update((number, signal.getsignal(number)) for number in numbers)
    _watch_forks()


def note_handlers(numbers: Iterable[int]) -> None:
    """The handlers that stand now are this process's own.  Those that the program sets later are its children's, too.

    Called in the main thread, each time the master or worker has set them.
    """
    _our_own.update((number, signal.getsignal(number)) for number in numbers)


@cache
def _watch_forks() -> None:
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_let_go)


def _hold_signals() -> None:
    masks = _blocked_before.setdefault(threading.get_ident(), [])
    masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, _at_birth))


def _release_signals() -> None:
    thread = threading.get_ident()  # the child's one thread has the number of the thread that forked
    masks = _blocked_before[thread]
    mask = masks.pop()
    if not masks:
        del _blocked_before[thread]
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _let_go() -> None:
    """In a child, right after the fork: handle signals as before, and lose what is the parent's own."""
    try:
        if _at_birth:
            signal.set_wakeup_fd(-1)
        for number, before in _at_birth.items():
            # A handler that the program has set is its children's, too, unless it only wakes the loop.
            handler = signal.getsignal(number)
            if handler == _our_own.get(number, _let_go) or getattr(handler, "__name__", "") in _RELAYS:
                # None: what stood there was not set from Python, and cannot be set again.
                signal.signal(number, before or signal.SIG_DFL)
    except ValueError:
        pass  # forked in a thread of a subinterpreter, where Python lets no code set a handler
    _at_birth.clear()
    _hang_up()
    _release_signals()


def _hang_up() -> None:
    """Put a line that has ended in the place of each descriptor: what reads it stops, and nothing is sent."""
    ours = {sock.fileno() for sock in _sockets} | _descriptors
    ours.discard(-1)  # a socket that is closed
    _sockets.clear()
    _descriptors.clear()
    try:
        ended, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        return  # no descriptor is free; the parent does not depend on this, it only keeps a faulty child from harm
    with ended, other:
        other.close()
        for fd in ours:
            os.dup2(ended.fileno(), fd, inheritable=False)
