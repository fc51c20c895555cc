"""Which sockets does a forked worker make again?  Those for datagrams that are as new.

Clients of statsd open one at their import, and send from it later.  Forked workers would share it, and its port once
the first datagram was sent.  As long as it is neither bound nor connected and has no option of its own, another one is
the same: a worker puts a new one in its place, on the same descriptor.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterable

from attrs import frozen

from ..sharing import target, targets

_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_BROADCAST),
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, socket.SO_REUSEPORT),
    (socket.SOL_SOCKET, socket.SO_SNDBUF),
    (socket.SOL_SOCKET, socket.SO_RCVBUF),
    (socket.SOL_SOCKET, socket.SO_PRIORITY),
    (socket.SOL_SOCKET, socket.SO_MARK),
    (socket.SOL_SOCKET, socket.SO_BINDTODEVICE),
    (socket.IPPROTO_IP, socket.IP_TTL),
    (socket.IPPROTO_IP, socket.IP_TOS),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP),
    (socket.IPPROTO_IP, socket.IP_MULTICAST_IF),
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS),
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP),
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF),
)
"""The options that a client sets."""


@frozen
class Datagrams:
    """A socket for datagrams that is as new."""

    number: int
    """Its descriptor."""
    family: int
    target: str
    """The target of its link in /proc/self/fd, by which it is known after the fork."""


def all_as_new() -> tuple[Datagrams, ...]:
    """All such sockets of this process."""
    found = map(as_new, targets())
    return tuple(each for each in found if each is not None)


def as_new(number: int) -> Datagrams | None:
    """What is known of a socket, given by its descriptor; None if another one would not be the same."""
    try:
        # A number that is no socket would not be closed again by an error of socket.socket().
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return None
        with socket.socket(fileno=os.dup(number)) as found:
            if found.type != socket.SOCK_DGRAM or found.family not in (socket.AF_INET, socket.AF_INET6):
                return None
            with socket.socket(found.family, socket.SOCK_DGRAM) as new:
                is_new = _told_of(found) == _told_of(new)
            return Datagrams(number, found.family, target(number)) if is_new else None
    except OSError:
        return None  # closed by now


def _told_of(found: socket.socket) -> object:
    return found.getsockname(), _peer(found), [_option(found, *option) for option in _OPTIONS]


def _peer(found: socket.socket) -> object:
    try:
        return found.getpeername()
    except OSError:
        return None  # it is not connected


def _option(found: socket.socket, level: int, option: int) -> bytes:
    try:
        return found.getsockopt(level, option, 16)
    except OSError:
        return b""  # the other family's


def make_again(sockets: Iterable[Datagrams]) -> None:
    """In a forked worker: put a new socket in the place of each.  Raises OSError."""
    for old in sockets:
        if target(old.number) != old.target:
            continue  # a handler of `os.register_at_fork` has closed it, and the number may be another file's
        flags = fcntl.fcntl(old.number, fcntl.F_GETFL)
        with socket.socket(old.family, socket.SOCK_DGRAM) as new:
            fcntl.fcntl(new, fcntl.F_SETFL, flags)
            os.dup2(new.fileno(), old.number, os.get_inheritable(old.number))
