"""How does a message of a template come, with a descriptor or without one?"""

from __future__ import annotations

import array
import os
import socket

from . import template_wire

_CONTROL = 256
"""Bytes of control buffer: room for more descriptors than must come, so that those beyond the first can be closed."""


def receive(line: socket.socket) -> tuple[template_wire.Message, int | None] | None:
    """One message, and the first of its descriptors, which the caller owns; None at the end of the stream.

    Raises OSError (BlockingIOError if no message waits), ValueError for a datagram that is no message.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    datagram, ancillary, _, _ = line.recvmsg(template_wire.MAX, _CONTROL, flags)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    try:
        message = template_wire.decode(datagram) if datagram else None
    except ValueError:
        for fd in fds:
            os.close(fd)
        raise
    for fd in fds[1:] if message is not None else fds:
        os.close(fd)
    return None if message is None else (message, fds[0] if fds else None)
