"""What may be parked, and how is it made as it was when it was accepted?

A worker runs an application's code, and may send anything through its lane.  Only a connected stream socket of a family
that is served is taken, by the idle pool and by the master, who each read lanes: the master those of a pool that has
ended.  A socket's options and O_NONBLOCK belong to the open file, of which a worker may still have a
copy: so what could harm the next holder is undone here, and again before a socket is closed.
"""

from __future__ import annotations

import os
import socket
import struct
from errno import ENOTCONN
from socket import SocketType

FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)

NO_LINGER = struct.pack("ii", 0, 0)
"""A value for SO_LINGER: a close waits for nothing."""

_SO_COOKIE = 57
"""asm-generic/socket.h: a number that no other socket of this boot has, and all descriptors of one socket share."""


class Refused(Exception):
    """What came is no connection of a client."""


class Left(Exception):
    """Its client has gone already."""


def admit(fd: int, wakes: int) -> tuple[SocketType, bytes]:
    """A connection that came as this descriptor, and its identity.  The socket owns the descriptor.

    `wakes` is how many bytes make it readable; whatever else a worker has left on it stays until `restore` or `let_go`.
    Raises Refused, Left; then the descriptor is closed.
    """
    try:
        sock = SocketType(-1, -1, 0, fd)  # it asks the kernel for family and type, and not for the protocol
    except OSError:
        os.close(fd)
        raise Refused from None
    try:
        if sock.family not in FAMILIES or sock.type != socket.SOCK_STREAM:
            raise Refused
        sock.getpeername()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wakes)
        return sock, sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)
    except OSError as error:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # asked here: a socket that listens has no peer
            _close(sock)  # and no more: others may have it, and a shutdown would end it for them
            raise Refused from None
        let_go(sock)
        raise (Left if error.errno == ENOTCONN else Refused) from None
    except Refused:
        _close(sock)
        raise


def restore(sock: SocketType, wakes: int) -> None:
    """Undo what a holder may have changed.  Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)  # or a close could last as long as a worker likes
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wakes)
    sock.setblocking(True)  # as accept(2) made it


def let_go(sock: SocketType) -> None:
    """Close a connection for good, also if a worker has kept a copy of it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # its client has reset it
    _close(sock)


def discard(fd: int) -> None:
    """Close a descriptor that a worker has sent and not described, whatever it is."""
    try:
        sock = SocketType(-1, -1, 0, fd)
    except OSError:
        os.close(fd)
    else:
        _close(sock)


def _close(sock: SocketType) -> None:
    """Close it at once, whatever lingers."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    except OSError:
        pass  # a kind of socket that knows no such thing
    sock.close()
