"""How are new clients kept out of a listener that is about to be closed?

The close resets what came between the last accept and itself.  So the SYNs of new clients are dropped first, by a
filter on the socket: a client then tries again after a second, and is refused, or served by a successor there.
What stands in the backlog is accepted, and handshakes that have begun go on, for the filter lets all else through.

(A backlog of 0 drops SYNs too, but not while the backlog is empty, and it drops the last step of handshakes as well.)
"""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26

_FLAGS = 13
"""The byte of a TCP header with the flags; a filter's packet begins with this header."""

_SYN, _SYN_OR_ACK = 0x02, 0x12

_STEPS = (
    (0x30, 0, 0, _FLAGS),  # load the flags (BPF_LD | BPF_B | BPF_ABS)
    (0x54, 0, 0, _SYN_OR_ACK),  # keep these two (BPF_ALU | BPF_AND)
    (0x15, 1, 0, _SYN),  # a SYN alone: skip one step (BPF_JMP | BPF_JEQ)
    (0x06, 0, 0, 0xFFFFFFFF),  # let the packet through (BPF_RET)
    (0x06, 0, 0, 0),  # drop it
)

_PROGRAM = b"".join(struct.pack("=HBBI", *step) for step in _STEPS)


def drop_syns(sock: socket.socket) -> bool:
    """Let no new client in.  Whether the kernel does that here: not for unix sockets, nor in every sandbox.

    Connections that are accepted from now on inherit the filter, which costs each of their packets some nanoseconds.
    """
    if sock.family == socket.AF_UNIX:
        return False
    program = ctypes.create_string_buffer(_PROGRAM, len(_PROGRAM))
    try:
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_STEPS), ctypes.addressof(program))
        )
    except OSError:
        return False
    return True
