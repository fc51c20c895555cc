"""What does the pool know of a connection that rests, and of a worker's lane?"""

from __future__ import annotations

import socket
import struct

_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)


class Rest:
    """A connection that rests."""

    __slots__ = ("bucket", "identity", "lane", "listener", "memo", "sock")

    def __init__(self, sock: socket.SocketType, identity: bytes, lane: Lane, about: tuple[int, bytes, int]) -> None:
        self.sock, self.identity, self.lane = sock, identity, lane
        self.listener, self.memo, self.bucket = about


class Lane:
    """What one worker sends connections through."""

    __slots__ = ("held", "number", "sock", "taken")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.number = sock, number
        self.taken = 0
        """Connections that have come through it."""
        self.held: dict[int, None] = {}
        """The descriptors of what it has parked, the oldest first."""

    def took(self, count: int) -> None:
        """Connections have come through it."""
        self.taken += count


def descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """All descriptors that came along."""
    rights = b"".join(data for level, kind, data in ancillary if level == _LEVEL and kind == _RIGHTS)
    return list(struct.unpack(f"{len(rights) // 4}i", rights[: len(rights) // 4 * 4]))
