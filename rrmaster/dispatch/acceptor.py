"""A listener as the hot path sees it: accept bare descriptors, and know how many wait."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from attrs import define

from ..protocol import wire
from .listeners import Listener
from .load import Peer, Policy

_TCP_INFO_QUEUED = struct.Struct("=24xI")
"""tcpi_unacked of a listening socket: how many wait in its backlog."""


@define(eq=False)
class Acceptor:
    """A listener, and the workers that serve it."""

    number: int
    listener: Listener
    policy: Policy
    accept: Callable[[], tuple[int, Peer]]
    """Returns a bare descriptor.  `socket.accept` would make an object of it that lives for 10 us: a fifth of all
    that a connection costs here."""
    handoff: bytes
    """The message that goes with each of its connections."""
    served_since: float = float("inf")
    """When the first of those who serve it now, or served it last, began."""
    closing: bool = False
    """What waits is still accepted, then it is closed."""
    quota: int = -1
    """How many may still be accepted; -1: any number."""

    @classmethod
    def of(cls, number: int, listener: Listener, policy: Policy) -> Acceptor:
        """The acceptor of a listener; it stays the listener's owner who closes it."""
        handoff = wire.Handoff(number, family=int(listener.socket.family))
        return cls(number, listener, policy, listener.socket._accept, wire.encode(handoff))  # type: ignore[attr-defined]

    def fileno(self) -> int:
        """Readable when somebody waits."""
        return self.listener.socket.fileno()

    def queued(self) -> int | None:
        """How many wait in the backlog; None where the kernel does not say (unix sockets)."""
        if self.listener.socket.family == socket.AF_UNIX:
            return None
        info = self.listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_QUEUED.size)
        return int(_TCP_INFO_QUEUED.unpack(info)[0])
