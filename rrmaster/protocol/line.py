"""The master's end of a line, and the letterbox key: what the master sends to a worker, counts and takes back.

::

    master: sock ═══ SOCK_SEQPACKET pair ═══ the worker's end (inherited)
            key  ─────────────────────────── the same end, kept by the master

A connection that was handed over and not taken lies in the kernel's queue.  The first process that reads it gets it,
whole and exactly once: the worker through its end, or the master through the *key*.  So no connection is lost with a
worker that has not taken it, and the master keeps no duplicate of a connection.  The key also keeps the line open when
the worker dies: the master sees neither end of stream nor reset, reads the worker's last reports in order, and learns
of the death from the process (pidfd) alone.

The key shares the socket's state with the worker, which may be hostile.  Three rules follow.  Every call passes
MSG_DONTWAIT, because a worker can clear O_NONBLOCK.  Reports are read without a control buffer, so that no descriptor
enters the master.  A recall from a live worker can block on the kernel's lock and runs in a thread (see `Line.recall`).

Only the master's process loads this module; the worker's end is in `channel`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from array import array
from fcntl import ioctl
from functools import cache

from attrs import Factory, define

from . import wire
from .channel import DONTWAIT, PEEK, SEND, HungUp, pair, receive_down
from .family.children import keep_from_children

_SIOCOUTQ = 0x5411
"""linux/sockios.h: bytes of kernel memory held by messages that were sent on this socket and not yet received."""

_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)

MAX_WINDOW = 250
"""The largest window, in messages: a default socket buffer holds 278 handoffs (measured, Linux 6.18)."""

_FD = struct.Struct("i")


@cache
def message_cost() -> int:
    """What one message to a worker costs in the kernel, in SIOCOUTQ's bytes (768 on Linux 6.18); measured once."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, b:
        a.send(wire.encode(wire.Nudge()))
        return _queued(a.fileno(), array("i", [0]))


def _queued(fd: int, into: array[int]) -> int:
    # The kernel writes into a buffer that is reused: with `bytes`, ioctl copies in and out and takes twice as long.
    ioctl(fd, _SIOCOUTQ, into, True)
    return into[0]


@define(eq=False)
class Line:
    """The master's end of a line, and the letterbox key.  It owns both descriptors.

    It exists from before the worker's process starts until the letterbox of the dead worker is empty.  All methods are
    called in the master's loop and never wait, except where a docstring says "in a thread".
    """

    sock: socket.socket
    """The master's own end."""
    key: socket.socket
    """The worker's end.  The worker inherits a copy of it; this copy stays open in the master."""
    _message_cost: int
    _count: array[int] = Factory(lambda: array("i", [0]))

    @classmethod
    def open(cls, window: int) -> Line:
        """A new line for a worker with this window, in messages.  The worker must inherit `key`.  Raises OSError."""
        each = message_cost()
        line = cls(*pair(), each)
        keep_from_children(line.sock, line.key)
        line.set_window(window)
        return line

    def set_window(self, window: int) -> None:
        """Size the send buffer so that the kernel reports this end writable when half the window has been taken.

        The kernel does so when a quarter of the buffer is in use.  This wakes a master that found no worker with room,
        without a report for every take and without a timer.
        """
        # The kernel doubles the value for its own book-keeping.
        size = 2 * self._message_cost * max(window // 2, 1) + 64
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def fileno(self) -> int:
        """The descriptor to wait on: readable when a message of the worker waits."""
        return self.sock.fileno()

    def hand_over(self, handoff: bytes, fd: int) -> None:
        """Send an encoded `Handoff` with a descriptor.  The caller still owns its copy, and closes it.

        Raises OSError.  EAGAIN (the line is full) and ETOOMANYREFS (this user has too many descriptors in flight) are
        normal; any other errno is the worker's doing.
        """
        # The hot path: constants are plain numbers, and nothing is called but sendmsg and pack.
        self.sock.sendmsg((handoff,), ((_LEVEL, _RIGHTS, _FD.pack(fd)),), SEND)

    def send(self, message: wire.Nudge | wire.Listening) -> bool:
        """Send a message that carries no connection.  False: the line is full or broken, and nothing was sent."""
        try:
            self.sock.send(wire.encode(message), SEND)
        except OSError:
            return False  # the caller sends it again; a broken line shows as the worker's death or as a breach
        return True

    def nudge(self) -> bool:
        """Ask for a report.  False if the line is full: the worker is late in any case, and its next report will do."""
        return self.send(wire.Nudge())

    def unclaimed(self) -> int | None:
        """The number of messages that the worker has not taken: the kernel's count, which no worker can fake.

        None if the kernel does not tell just now.  Raises OSError for a descriptor that is none.
        """
        try:
            return _queued(self.sock.fileno(), self._count) // self._message_cost
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EFAULT, errno.ENOTSOCK):  # `rules.kernel_errors`: the master's state
                raise
            return None  # the next look asks again

    def receive(self) -> bytes | None:
        """One message from the worker; empty if the worker closed its side, None if no message waits."""
        # `recv` and not `recvmsg`: without a control buffer the kernel closes any descriptor that a worker sends along.
        # One byte more than the largest message, so that a longer one is recognised.
        try:
            return self.sock.recv(wire.MAX_UP + 1, DONTWAIT)
        except BlockingIOError:
            return None

    def half_close(self) -> None:
        """Announce that no more will be handed over.  The worker receives what was sent, then the end of stream."""
        with contextlib.suppress(OSError):  # ENOTCONN: the worker shut it down itself
            self.sock.shutdown(socket.SHUT_WR)

    def recall(self) -> tuple[wire.Handoff, int] | wire.Nudge | wire.Listening | wire.Lane | None:
        """Take back the oldest message that was not taken; None if there is none.  The caller owns the descriptor.

        From a live worker, call it in a thread: a worker stalled inside its own recvmsg holds the kernel's lock, which
        MSG_DONTWAIT does not avoid.  Raises DescriptorLost if this process is out of descriptors.
        """
        found = self._read(0)
        if found is None:
            return None
        message, fd = found
        if isinstance(message, wire.Handoff) and fd is not None:
            return message, fd
        if fd is not None:
            os.close(fd)  # a lane's: its worker is given another one
        return message if isinstance(message, wire.Listening | wire.Lane) else wire.Nudge()  # there is nothing else

    def oldest(self) -> wire.Down | None:
        """The oldest message in the letterbox, without its descriptor; it stays there.  Call it in a thread, too."""
        # Again `recv`: to look at a message with a control buffer would duplicate its descriptor.
        try:
            return wire.decode_down(self.key.recv(wire.MAX_DOWN, DONTWAIT | PEEK))
        except (OSError, wire.ProtocolError):
            return None

    def copy_oldest(self) -> tuple[wire.Handoff, int] | None:
        """A copy of the oldest connection in a *dead* worker's letterbox, which stays there until `drop_oldest`.

        So neither a full descriptor table nor a failed handover nor the death of the master destroys the connection.
        From a live worker it would make two of one connection.  The caller owns the copy.  Raises DescriptorLost if no
        descriptor is free now; try again later.
        """
        # MSG_PEEK with a control buffer duplicates the descriptor, as documented in unix(7).
        while (found := self._read(PEEK)) is not None:
            if isinstance(found[0], wire.Handoff) and found[1] is not None:
                return found[0], found[1]
            self.drop_oldest()
        return None

    def _read(self, flags: int) -> tuple[wire.Down | None, int | None] | None:
        """One message out of the letterbox; None if it is empty, or if it is empty for good after a half-close."""
        try:
            return receive_down(self.key, flags)
        except HungUp:
            return None

    def drop_oldest(self) -> None:
        """Remove the oldest message of a dead worker's letterbox; the kernel closes its descriptor."""
        with contextlib.suppress(BlockingIOError):  # the letterbox is empty already
            self.key.recv(wire.DOWN_SIZE, DONTWAIT)

    def close(self) -> None:
        """Close both ends.  The kernel closes the connections that still lie in the letterbox."""
        self.sock.close()
        self.key.close()
