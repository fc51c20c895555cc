"""What changes at a fork?  What an application does again in each worker, and what a worker's own children lose.

The former is what the application has registered with `on_fork`.  The latter begins with `be_parent`: a process that
the application forks in a worker (`multiprocessing`, `os.fork`, `pty.fork`) inherits whatever makes the worker a
worker, and must not act on it.  A signal to the child would otherwise be written into the worker's loop, through the
wake-up descriptor that both share, and code that the child runs on by mistake would report on the worker's line.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Hook = TypeVar("_Hook", bound=Callable[[], Any])

_hooks: list[Callable[[], Any]] = []


def on_fork(hook: _Hook) -> _Hook:
    """Have `hook` called, without arguments, once in each worker before it serves.

    Workers are forked from a template that has imported the application, and share what the import left in memory.
    What they must not share, such as a connection to a database or a seed, a hook makes anew.  A worker that has
    imported the application by itself (`--preload off`) calls its hooks too, so a hook may also make what each worker
    needs.

    To be called while the application is imported.  The hooks run in the worker's process, in its main thread, outside
    any event loop, in the order of their registration.  An error that a hook raises is a failed start, as if the import
    had raised it.  In a process that is no worker, and in a program that opens its own listeners, no hook is called.

    Returns the hook, so that this can be a decorator.  Compare `post_fork` in gunicorn; and unlike with
    `os.register_at_fork`, children that the worker forks itself do not call the hook.
    """
    _hooks.append(hook)
    return hook


def call_all() -> None:
    """Call the hooks, now that the process is a worker's own.  Raises what a hook raises."""
    for hook in _hooks:
        hook()


_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that a worker handles."""

_at_birth: dict[int, Any] = {}
"""What handled the signals before the worker did; filled in a worker alone."""

_workers_own: dict[int, Any] = {}
"""What handles the signals for the worker."""

_RELAYS = frozenset({"_sighandler_noop", "__sighandler"})
"""The handlers that asyncio and uvloop set; they do nothing unless a loop reads what the wake-up descriptor tells."""

_blocked_before: dict[int, list[Any]] = {}
"""The signals that each forking thread had blocked before its forks; a signal handler may fork within a fork."""

_lines: list[int] = []
"""The descriptors of the worker's line and talk line."""


def be_parent(*lines: int) -> None:
    """Have the children that this worker forks from now on let go of what is the worker's, and of these `lines`.

    To be called once, in the main thread, before the worker handles a signal.
    """
    _at_birth.update((number, signal.getsignal(number)) for number in _SIGNALS)
    _lines.extend(lines)
    # Held back during the fork: a signal to a child that has not let go yet would still be the worker's.
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_let_go)


def note_handlers(numbers: Iterable[int] = _SIGNALS) -> None:
    """The handlers that stand now are the worker's own.  Those that the application sets later are its children's, too.

    Called in the main thread, each time the worker has set them.
    """
    _workers_own.update((number, signal.getsignal(number)) for number in numbers)


def _hold_signals() -> None:
    masks = _blocked_before.setdefault(threading.get_ident(), [])
    masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))


def _release_signals() -> None:
    thread = threading.get_ident()  # the child's one thread has the number of the thread that forked
    masks = _blocked_before[thread]
    mask = masks.pop()
    if not masks:
        del _blocked_before[thread]
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _let_go() -> None:
    """In a child of the worker, right after the fork: handle signals as before the worker, and lose its lines."""
    try:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            # A handler that the application has set is its children's, too, unless it only wakes the loop.
            handler = signal.getsignal(number)
            if handler == _workers_own.get(number, _let_go) or getattr(handler, "__name__", "") in _RELAYS:
                # None: what stood there was not set from Python, and cannot be set again.
                signal.signal(number, _at_birth.get(number) or signal.SIG_DFL)
    except ValueError:
        pass  # forked in a thread of a subinterpreter, where Python lets no code set a handler
    _hang_up()
    _release_signals()


def _hang_up() -> None:
    """Put a line that has ended in the place of each of the worker's: what reads it stops, and no report is sent.

    A closed descriptor would not do: its number is soon another file's.
    """
    try:
        ended, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError:
        return  # no descriptor is free; the worker does not depend on this, it only keeps a faulty child from harm
    with ended, other:
        other.close()
        for line in _lines:
            os.dup2(ended.fileno(), line, inheritable=False)
    _lines.clear()
