"""The two ends of a line; never waits, so trio and asyncio can both use it.

::

    master: ours ═══ SOCK_SEQPACKET pair ═══ the worker's end (inherited)
            key  ─────────────────────────── the same end, kept by the master

The worker inherits one end and the master keeps both.  What was handed over and not taken lies in the kernel's
queue, and whoever reads it first gets it, whole, exactly once: the worker through its end, or the master through
the *key*.  So nothing is lost with a worker that has not taken it, no duplicate of a connection is kept, and a
worker's death shows the master neither end of stream nor reset (the key keeps the line open): its last words are
read in order, and death is told by the process alone.

The key shares the socket's state with the worker, which may be hostile: every call says MSG_DONTWAIT, for a worker
can clear O_NONBLOCK; reports are read without a control buffer, so that no descriptor ever enters the master; and
a recall from a live worker can block on the kernel's lock (see `Line.recall`).

This module knows sockets.  It does not know what the messages mean, nor who else is there.
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

_SIOCOUTQ = 0x5411
"""linux/sockios.h: bytes of memory held by what was sent on this socket and not yet received."""

_SO_PASSRIGHTS = 83
"""asm-generic/socket.h since Linux 6.16: 0 refuses descriptors at the sender, with EPERM."""

# Plain numbers: to combine the flags of an enum runs Python code on every call.
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_DONTWAIT, _PEEK = int(socket.MSG_DONTWAIT), int(socket.MSG_PEEK)
_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)

MAX_WINDOW = 250
"""The largest window: a default socket buffer holds 278 handoffs (measured, Linux 6.18)."""

_CONTROL = 256
"""Bytes of control buffer for a recall: a worker can set SO_PASSCRED on the shared end, and the credentials would
push the descriptor out of a buffer made for one."""

_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})

_FD = struct.Struct("i")


class HungUp(Exception):
    """The line ended: there will be no more, and what was sent before has been read."""


class DescriptorLost(Exception):
    """A handoff came without its descriptor: this process had no free place for it, and the kernel closed it."""


@cache
def weight() -> int:
    """What one message to a worker costs in the kernel, in SIOCOUTQ's bytes (768 on Linux 6.18); measured once."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, b:
        a.send(wire.encode(wire.Nudge()))
        return _queued(a.fileno(), array("i", [0]))


def _pair() -> tuple[socket.socket, socket.socket]:
    """The master's end of a new line, into which no descriptor can be sent, and the worker's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with contextlib.suppress(OSError):  # a kernel that does not know it; what comes is read without a buffer anyway
        ours.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    return ours, theirs


def _inherited(fd: int) -> socket.socket:
    line = socket.socket(fileno=fd)
    line.set_inheritable(False)
    line.setblocking(False)
    return line


def _queued(fd: int, into: array[int]) -> int:
    ioctl(fd, _SIOCOUTQ, into, True)  # into a buffer of our own: bytes that are copied to and fro take twice as long
    return into[0]


@define(eq=False)
class Line:
    """The master's end of a line, and the letterbox key.  It owns both descriptors."""

    ours: socket.socket
    key: socket.socket
    _weight: int
    _count: array[int] = Factory(lambda: array("i", [0]))

    @classmethod
    def open(cls, window: int) -> Line:
        """A new line for a worker with this window.  `key` is what the worker is to inherit."""
        each = weight()
        line = cls(*_pair(), each)
        line.cut(window)
        return line

    def cut(self, window: int) -> None:
        """Cut the send buffer so that the kernel calls our end writable when half the window has been taken (it does so
        at a quarter of the buffer): that is how a master with nobody to give to is woken, without a report per take and
        without a timer."""
        # The kernel doubles the value for its own book-keeping.
        size = 2 * self._weight * max(window // 2, 1) + 64
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def fileno(self) -> int:
        """Readable when the worker has spoken."""
        return self.ours.fileno()

    def hand_over(self, handoff: bytes, fd: int) -> None:
        """Send an encoded `Handoff` with a descriptor.  The caller still owns its copy, and closes it.

        Raises OSError: EAGAIN (full) and ETOOMANYREFS (this user has too many descriptors in flight) are nobody's
        fault; any other errno is the worker's doing.
        """
        self.ours.sendmsg((handoff,), ((_LEVEL, _RIGHTS, _FD.pack(fd)),), _SEND)

    def say(self, message: wire.Nudge | wire.Listening) -> bool:
        """Say something that is no client.  False if it could not be said: the line is full, or broken."""
        try:
            self.ours.send(wire.encode(message), _SEND)
        except OSError:
            return False  # who must hear it says it again; of a broken line death tells, or a breach
        return True

    def nudge(self) -> bool:
        """Ask for a report.  False if it could not be said: the worker is late either way, and its next one will do."""
        return self.say(wire.Nudge())

    def unclaimed(self) -> int:
        """How many messages the worker has not taken: the kernel's count, which no worker can fake."""
        return _queued(self.ours.fileno(), self._count) // self._weight

    def receive(self) -> bytes | None:
        """One message from the worker, empty if it closed its side, None if there is none."""
        try:
            return self.ours.recv(wire.MAX_UP + 1, _DONTWAIT)
        except BlockingIOError:
            return None

    def half_close(self) -> None:
        """No more will be handed over.  The worker gets all that was, then the end of stream."""
        with contextlib.suppress(OSError):  # ENOTCONN: the worker shut it down itself
            self.ours.shutdown(socket.SHUT_WR)

    def recall(self) -> tuple[wire.Handoff, int] | wire.Nudge | wire.Listening | None:
        """Take back the oldest message not taken.  A descriptor becomes the caller's.  None: there is none.

        From a live worker, call it in a thread: a worker stalled inside its own recvmsg holds the kernel's lock,
        MSG_DONTWAIT or not.  Raises DescriptorLost if this process is out of descriptors.
        """
        found = self._read(0)
        if found is None:
            return None
        message, fd = found
        if isinstance(message, wire.Handoff) and fd is not None:
            return message, fd
        return message if isinstance(message, wire.Listening) else wire.Nudge()  # we send nothing else

    def oldest(self) -> wire.Down | None:
        """The oldest message in the letterbox, without its descriptor; it stays there.  In a thread, too."""
        try:
            return wire.decode_down(self.key.recv(wire.DOWN_SIZE, _DONTWAIT | _PEEK))
        except (OSError, wire.ProtocolError):
            return None

    def copy_oldest(self) -> tuple[wire.Handoff, int] | None:
        """A copy of the oldest connection in a *dead* worker's letterbox, which stays there until `drop_oldest`.

        So a full table, a failed handover or our own death destroys nothing.  From a live worker it would make two
        of one connection.  The copy is the caller's.  Raises DescriptorLost: no free descriptor now, try later.
        """
        while (found := self._read(_PEEK)) is not None:
            if isinstance(found[0], wire.Handoff) and found[1] is not None:
                return found[0], found[1]
            self.drop_oldest()
        return None

    def _read(self, flags: int) -> tuple[wire.Down | None, int | None] | None:
        """One message out of the letterbox; None if there is none, or, after a half-close, no more."""
        try:
            return _receive(self.key, flags)
        except HungUp:
            return None

    def drop_oldest(self) -> None:
        """Remove the oldest message of a dead worker's letterbox; its descriptor is closed by the kernel."""
        with contextlib.suppress(BlockingIOError):  # it was empty, and that is what was wanted
            self.key.recv(wire.DOWN_SIZE, _DONTWAIT)

    def close(self) -> None:
        """Close both ends.  What still lies in the letterbox is closed by the kernel."""
        self.ours.close()
        self.key.close()


@define(eq=False)
class Letterbox:
    """The worker's end of a line.  It owns the descriptor."""

    line: socket.socket

    @classmethod
    def inherit(cls, fd: int) -> Letterbox:
        """Adopt the descriptor this process was started with.  Raises OSError if it is not a line."""
        return cls(_inherited(fd))

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self.line.fileno()

    def take(self) -> tuple[wire.Down | None, int | None] | None:
        """One message and its descriptor, which becomes the caller's; None if there is none.

        Raises HungUp at the end of the stream, DescriptorLost.
        """
        return _receive(self.line, 0)

    def oldest(self) -> wire.Down | None:
        """What `take` would find, without its descriptor; it stays there, but the master may take it back meanwhile.
        None: nothing, or the end, or what this version does not know."""
        try:
            return wire.decode_down(self.line.recv(wire.DOWN_SIZE, _DONTWAIT | _PEEK))
        except (OSError, wire.ProtocolError):
            return None

    def say(self, message: wire.Up) -> bool:
        """Send one message to the master.  False: the line is full or gone."""
        try:
            self.line.send(wire.encode(message), _SEND)
        except OSError:
            return False  # a full line is tried again with the next report; of a dead master `take` tells
        return True

    def close(self) -> None:
        """Leave."""
        self.line.close()


@define(eq=False)
class Talk:
    """One end of the talk line, on which the applications' messages travel, on either side.  It owns the descriptor.

    A SEQPACKET pair of its own and without a key: messages never wait behind connections nor connections behind them,
    their order and their bound are the kernel's, and what a dead worker has not read is nobody's.
    """

    line: socket.socket

    @classmethod
    def open(cls) -> tuple[Talk, socket.socket]:
        """The master's end, and the one that the worker is to inherit, which is the caller's to close.

        Raises OSError (EMFILE, ...).
        """
        ours, theirs = _pair()
        return cls(ours), theirs

    @classmethod
    def inherit(cls, fd: int) -> Talk:
        """Adopt the descriptor this process was started with.  Raises OSError if it is none."""
        return cls(_inherited(fd))

    def fileno(self) -> int:
        """Readable when there is a message, writable when there is room for one."""
        return self.line.fileno()

    def say(self, note: bytes) -> bool:
        """Send an encoded message.  False: the line is full, wait until it is writable.  Raises HungUp."""
        try:
            self.line.send(note, _SEND)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise HungUp from None
        return True

    def hear(self) -> bytes | None:
        """One datagram, None if there is none.  Raises HungUp when the other side has gone and all it said is read."""
        while True:
            try:
                datagram = self.line.recv(wire.MAX_NOTE + 64, _DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # it died; what it had said before is still to be read
            except OSError:
                raise HungUp from None
            if not datagram:
                raise HungUp
            return datagram

    def close(self) -> None:
        """Hang up."""
        self.line.close()


def _receive(sock: socket.socket, flags: int) -> tuple[wire.Down | None, int | None] | None:
    """One message down the line, with the first of its descriptors; any others are closed."""
    while True:
        try:
            datagram, ancillary, told, _ = sock.recvmsg(wire.DOWN_SIZE, _CONTROL, _RECEIVE | flags)
            break
        except BlockingIOError:
            return None
        except ConnectionResetError:
            continue  # the other side died; what it had sent before is still to be read, then the end of stream
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            raise HungUp from None
    fds = _descriptors(ancillary)
    if not datagram:
        _close(fds)
        raise HungUp
    message = wire.decode_down(datagram)
    if isinstance(message, wire.Handoff) and not fds:
        raise DescriptorLost(told & socket.MSG_CTRUNC)
    _close(fds[1:])
    return message, (fds[0] if fds else None)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    rights = b"".join(data for level, kind, data in ancillary if level == _LEVEL and kind == _RIGHTS)
    whole = len(rights) - len(rights) % _FD.size
    return [fd for (fd,) in _FD.iter_unpack(rights[:whole])]


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
