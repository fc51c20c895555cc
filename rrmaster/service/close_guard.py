"""What if a `close` waits for a client?  A signal ends the wait.

``close`` of a TCP socket waits as long as SO_LINGER says, also where the socket does not block, if it closes the last
copy and the client has not taken all that was sent.  The option belongs to the open file, so a worker can set it on a
connection that the master hands over, and be the first to close its copy: of 3,000 tries one or two stopped the master
for as long as they liked (Linux 6.18).  A descriptor that lies in a message is closed by the process which receives
the message, so before Linux 6.16 (SO_PASSRIGHTS, see `protocol.channel.pair`) one report with a descriptor was enough.

The kernel's wait ends with any signal that has a handler, and the connection then ends by itself.  So a thread looks
whether the loop is still in the same turn, and sends its thread such a signal.  The handler does nothing, and Python
restarts all other calls that a signal interrupts.  A look costs some 20 us; the loop has two assignments a turn.
"""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from logging import WARNING
from pathlib import Path
from types import FrameType

import trio
from attrs import Factory, define

from ..logs.log import tell

LOOK_S = 0.25
"""Seconds between two looks.  A close waits for two at most."""

SIGNAL = signal.SIGURG
"""Nothing else sends it to a process that has not asked for it."""

_FUTEX = {"x86_64": "202", "aarch64": "98"}.get(platform.machine(), "")
"""The system call in which a thread waits for the interpreter's lock."""


@define(eq=False)
class CloseGuard(trio.abc.Instrument):
    """Watches the turns of a loop, from a thread of its own."""

    interrupted: int = 0
    """Looks that found the loop waiting in a system call."""
    _turns: int = 0
    _at_work: bool = False
    _told: int = 0
    _ended: threading.Event = Factory(threading.Event)

    def after_io_wait(self, timeout: float) -> None:
        """A turn begins."""
        self._turns += 1
        self._at_work = True

    def before_io_wait(self, timeout: float) -> None:
        """The turn is over."""
        self._at_work = False
        if self.interrupted != self._told:
            self._told = self.interrupted
            tell(
                "master.waited",
                "a system call made the master wait, and was interrupted: a worker may have set SO_LINGER on a "
                "connection that it shares with the master",
                level=WARNING,
            )

    def watch(self, loop: threading.Thread) -> None:
        """Look after the loop of this thread until `end`."""
        seen = -1
        while not self._ended.wait(LOOK_S):
            if self._at_work and self._turns == seen:
                self.interrupted += _waits(loop)
                signal.pthread_kill(loop.ident or 0, SIGNAL)
            seen = self._turns

    def end(self) -> None:
        """Look no more."""
        self._ended.set()


@contextmanager
def guarding() -> Iterator[CloseGuard]:
    """Guard the loop of trio that runs in this thread, the main one, in this context."""
    guard, loop = CloseGuard(), threading.current_thread()
    before = signal.signal(SIGNAL, _nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGNAL])  # a mask is inherited
    watching = threading.Thread(target=guard.watch, args=(loop,), name="rrmaster: closes", daemon=True)
    watching.start()
    trio.lowlevel.add_instrument(guard)
    try:
        yield guard
    finally:
        trio.lowlevel.remove_instrument(guard)
        guard.end()
        watching.join()
        signal.signal(SIGNAL, before)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler, so that the signal interrupts."""


def _waits(thread: threading.Thread) -> bool:
    """Whether a thread waits in a system call, and not for the interpreter's lock; False if nothing tells."""
    try:
        call = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().split()[0]
    except OSError:
        return False
    return call not in ("running", _FUTEX)
