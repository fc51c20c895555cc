"""Which clients of a listening socket have connected, and cannot be accepted yet?

The kernel tells it through sock_diag(7), as it tells `ss --tcp state syn-recv`: with a filter for the port, in half a
millisecond, and without privileges.  These are the clients that TCP_DEFER_ACCEPT holds back, and those whose handshake
is not complete.  Sockets of other addresses with the same port are among them.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

_SOCK_DIAG = 4
"""NETLINK_SOCK_DIAG."""

_BY_FAMILY, _REQUEST_AND_DUMP = 20, 0x301
"""SOCK_DIAG_BY_FAMILY, and NLM_F_REQUEST | NLM_F_DUMP."""

_SYN_RECV = 1 << 3

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""

_ERROR, _DONE = 2, 3

_REQUEST = struct.Struct("=BBBxI")
"""The beginning of struct inet_diag_req_v2: family, protocol, extensions, states.  An inet_diag_sockid follows."""

_PORTS = struct.Struct("!HH")
_ANY_SOCKET = bytes(36) + b"\xff" * 8
"""The rest of the inet_diag_sockid: any addresses, any interface, INET_DIAG_NOCOOKIE."""

_ID = slice(4, 40)
"""Ports and addresses in struct inet_diag_msg: one client's, for as long as it is half open."""

_PATIENCE = 1.0
"""Seconds; the kernel answers within the call."""


def half_open(sock: socket.socket) -> set[bytes] | None:
    """The half-open clients of a listening socket, each as a key that means nothing else; None if the kernel does not
    tell."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return set()
    try:
        port = sock.getsockname()[1]
    except OSError:
        return set()  # it has just been closed
    return half_open_at(port, (socket.AF_INET, sock.family))


def half_open_at(port: int, families: Iterable[int] = (socket.AF_INET,)) -> set[bytes] | None:
    """The same for all sockets that listen at this port.  A socket for IPv6 may have clients of both families."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as diag:
            diag.settimeout(_PATIENCE)
            return set[bytes]().union(*(_of_family(diag, family, port) for family in set(families)))
    except (OSError, struct.error):
        return None  # a sandbox forbids it, or the kernel was built without


def _of_family(diag: socket.socket, family: int, port: int) -> set[bytes]:
    asked = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _SYN_RECV) + _PORTS.pack(port, 0) + _ANY_SOCKET
    diag.send(_HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, _REQUEST_AND_DUMP, 0, 0) + asked)
    found: set[bytes] = set()
    while True:
        datagram = diag.recv(1 << 16)
        at = 0
        while at < len(datagram):
            length, kind, *_ = _HEADER.unpack_from(datagram, at)
            if kind == _DONE:
                return found
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", datagram, at + _HEADER.size)[0], "sock_diag")
            found.add(datagram[at + _HEADER.size : at + length][_ID])
            at += (length + 3) & ~3
