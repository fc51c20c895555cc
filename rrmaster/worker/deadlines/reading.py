"""Does a client read what is sent to it?  The kernel knows.

What a client does not read fills its own receive buffer, then this machine's send buffer, and then waits in the worker:
only then is there a question.  For TCP the answer is exact: the bytes that the client has acknowledged, which it does
only as far as it has room.  A client on a unix socket is a proxy of this machine; there the answer is what has left
the worker.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

_ACKED_AT = 120
"""Where `tcpi_bytes_acked` stands in `struct tcp_info` (linux/tcp.h), since Linux 4.1."""

_ACKED = struct.Struct("Q")

_RESET = struct.pack("ii", 1, 0)


def bytes_read(sock: Any, otherwise: int) -> int:
    """The bytes that a client has acknowledged so far; `otherwise`, if the kernel does not say."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AT + _ACKED.size)
        return int(_ACKED.unpack_from(info, _ACKED_AT)[0])
    except (OSError, struct.error):
        return otherwise  # a unix socket, or one that is being closed


def drop_unread(sock: Any) -> None:
    """Have the kernel drop, at the close, what the client has not read: it would keep megabytes for minutes."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # it is closed already
