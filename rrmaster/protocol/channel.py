"""The worker's end of a line, and both ends of the talk line; nothing here waits, so trio and asyncio can both use it.

The line carries connections (see `line` for the master's end and the picture), the talk line the applications'
messages.  Both are AF_UNIX SOCK_SEQPACKET socket pairs: a message is a datagram, and the order is kept.

This module knows sockets.  It does not know what the messages mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from attrs import define

from . import wire
from .family.children import keep_from_children

_SO_PASSRIGHTS = 83
"""asm-generic/socket.h since Linux 6.16: with 0 the kernel refuses descriptors at the sender, with EPERM."""

# Plain numbers: to combine the flags of an enum runs Python code on every call.
SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
DONTWAIT, PEEK = int(socket.MSG_DONTWAIT), int(socket.MSG_PEEK)
_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)

_CONTROL = 256
"""Bytes of control buffer, where one descriptor needs 24.  A worker can set SO_PASSCRED on the shared end, and the
credentials would push the descriptor out of a buffer made for one."""

_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
"""The sender must wait: the buffer is full, or the kernel is short of memory."""

_FD = struct.Struct("i")


class HungUp(Exception):
    """The line has ended: no more will come, and all that was sent before has been read."""


class DescriptorLost(Exception):
    """A handoff came without its descriptor: this process had no free place for it, and the kernel closed it."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The master's end of a new line, into which no descriptor can be sent, and the worker's.  Raises OSError.

    Both are closed on exec; the process that starts the worker has it inherit its end.
    """
    master_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    master_end.setblocking(False)
    worker_end.setblocking(False)
    # A second safeguard, which also stops a worker from parking descriptors in the master's queue.  An older kernel
    # does not know the option; there the master reads without a control buffer, and the kernel closes what came.
    # That close may wait for a client: see `service.close_guard`.
    with contextlib.suppress(OSError):
        master_end.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    return master_end, worker_end


def _inherited(fd: int) -> socket.socket:
    line = socket.socket(fileno=fd)
    # It was inheritable, or this process would not have it.  The application's own children must not get it.
    line.set_inheritable(False)
    line.setblocking(False)
    return line


@define(eq=False)
class Letterbox:
    """The worker's end of a line, in the worker's process.  It owns the descriptor."""

    line: socket.socket

    @classmethod
    def inherit(cls, fd: int) -> Letterbox:
        """Adopt the descriptor this process was started with.  Raises OSError if it is not a line."""
        return cls(_inherited(fd))

    def fileno(self) -> int:
        """The descriptor to wait on: readable when a message waits."""
        return self.line.fileno()

    def take(self) -> tuple[wire.Down | None, int | None] | None:
        """One message and its descriptor, which the caller then owns; None if no message waits.

        Raises HungUp at the end of the stream, DescriptorLost if this process is out of descriptors.
        """
        return receive_down(self.line, 0)

    def has_ended(self) -> bool:
        """Whether the next `take` would raise HungUp.  To ask takes no descriptor."""
        try:
            return not self.line.recv(1, DONTWAIT | PEEK)
        except OSError as error:
            return error.errno in (errno.ECONNRESET, errno.ENOTCONN)

    def oldest(self) -> wire.Down | None:
        """The message that `take` would find, without its descriptor; it stays there, and the master may recall it.

        None: there is no message, or the stream has ended, or this version does not know the kind of message.
        """
        try:
            return wire.decode_down(self.line.recv(wire.MAX_DOWN, DONTWAIT | PEEK))
        except (OSError, wire.ProtocolError):
            return None

    def send(self, message: wire.Up) -> bool:
        """Send one message to the master.  False: the line is full or gone, and nothing was sent."""
        try:
            self.line.send(wire.encode(message), SEND)
        except OSError:
            return False  # the caller sends it again with the next report; `take` tells when the master has died
        return True

    def close(self) -> None:
        """Close this end.  The master's copy, the key, stays open."""
        self.line.close()


@define(eq=False)
class TalkLine:
    """One end of the talk line, on which the applications' messages travel, in either process.  It owns the descriptor.

    The talk line is a SEQPACKET pair of its own and has no key.  So messages never wait behind connections, nor
    connections behind messages; the kernel keeps their order and bounds their number; and what a dead worker has not
    read is lost with it.
    """

    line: socket.socket

    @classmethod
    def open(cls) -> tuple[TalkLine, socket.socket]:
        """The master's end, and the end that the worker inherits, which the caller closes.

        Raises OSError (EMFILE, ...).
        """
        master_end, worker_end = pair()
        keep_from_children(master_end, worker_end)
        return cls(master_end), worker_end

    @classmethod
    def inherit(cls, fd: int) -> TalkLine:
        """Adopt the descriptor this process was started with.  Raises OSError if it is not a talk line."""
        return cls(_inherited(fd))

    def fileno(self) -> int:
        """The descriptor to wait on: readable when a message waits, writable when there is room for one."""
        return self.line.fileno()

    def send(self, note: bytes) -> bool:
        """Send an encoded message.  False: the line is full, wait until it is writable.  Raises HungUp."""
        try:
            self.line.send(note, SEND)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise HungUp from None
        return True

    def receive(self) -> bytes | None:
        """One datagram, None if no message waits.  Raises HungUp when the other side has gone and all is read."""
        while True:
            try:
                # Without a control buffer, as on the line: no descriptor enters this process.
                datagram = self.line.recv(wire.MAX_NOTE + 64, DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                continue  # the other side died; what it had sent before is still to be read
            except OSError:
                raise HungUp from None
            if not datagram:
                raise HungUp
            return datagram

    def close(self) -> None:
        """Close this end; the other side reads what is left, then the end."""
        self.line.close()


def receive_down(sock: socket.socket, flags: int) -> tuple[wire.Down | None, int | None] | None:
    """One message down the line, with the first of its descriptors, which the caller owns; any others are closed.

    None if no message waits.  Raises HungUp, DescriptorLost, ProtocolError.  It serves the worker's take and the
    master's recall.
    """
    while True:
        try:
            datagram, ancillary, msg_flags, _ = sock.recvmsg(wire.MAX_DOWN, _CONTROL, _RECEIVE | flags)
            break
        except BlockingIOError:
            return None
        except ConnectionResetError:
            continue  # the other side died; what it had sent before is still to be read, then the end of stream
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            raise HungUp from None
    # From here on the descriptors are this process's: each path below returns them or closes them.
    fds = _descriptors(ancillary)
    if not datagram:
        _close(fds)
        raise HungUp
    message = wire.decode_down(datagram)
    if isinstance(message, wire.Handoff) and not fds:
        # MSG_CTRUNC in `msg_flags`: the descriptor table was full, and the kernel has closed what it could not install.
        raise DescriptorLost(msg_flags & socket.MSG_CTRUNC)
    _close(fds[1:])
    return message, (fds[0] if fds else None)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """All descriptors that came along.  There may be credentials beside them, and several descriptors in one."""
    rights = b"".join(data for level, kind, data in ancillary if level == _LEVEL and kind == _RIGHTS)
    whole = len(rights) - len(rights) % _FD.size  # a truncated control message may end within a number
    return [fd for (fd,) in _FD.iter_unpack(rights[:whole])]


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
