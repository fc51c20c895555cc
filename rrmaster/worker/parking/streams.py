"""How does a stream handler on trio give its connection back between a request and the next one?

Only the handler knows its protocol, and when it is between two requests: it says so by `CurrentWorker.park`.  A
`trio.SocketStream` reads nothing ahead, so what the client has sent since is in the kernel, and comes along.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

from attrs import Factory, define

from ...protocol.channel import SEND
from ...protocol.family.children import keep_from_children
from ...protocol.parking.lane import PARK, record
from ..duty import Duty, Taken
from .memo import Memo

_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)

WAKES = 1
"""Bytes that wake a resting connection: what a blank line means is for its protocol to say."""


@define(eq=False)
class StreamLot:
    """The worker's end of its lane, where handlers park."""

    duty: Duty
    seconds: float
    """For how long a connection may rest: `--keep-alive`."""
    _lane: socket.socket | None = None
    _taken: dict[int, Taken] = Factory(dict)
    """The handlers' connections, by descriptor."""

    def take_lane(self, fd: int) -> None:
        """The master has sent a lane, which is this object's now."""
        if self._lane is not None:
            self._lane.close()
        self._lane = socket.socket(fileno=fd)
        keep_from_children(self._lane)

    def came(self, taken: Taken) -> None:
        """A handler begins with this connection."""
        if not taken.probe:
            self._taken[taken.fd] = taken

    def has_parked(self, stream: Any) -> bool:
        """Whether the connection of this stream was parked before.  One with TLS, which has no socket, never is."""
        sock = getattr(stream, "socket", None)
        taken = self._taken.get(sock.fileno()) if sock is not None else None
        return taken is not None and taken.memo is not None

    def left(self, taken: Taken) -> None:
        """It has ended; another connection may have the descriptor by now."""
        if self._taken.get(taken.fd) is taken:
            del self._taken[taken.fd]

    def park(self, fd: int) -> bool:
        """Send this connection to the idle pool.  False: it stays, because no pool takes it now."""
        taken = self._taken.get(fd)
        if taken is None or self._lane is None:
            return False
        now = time.monotonic()
        memo = taken.memo or Memo(now)
        _, header = self.duty.clients.get(fd, (None, memo.header))
        told = Memo(memo.accepted, memo.requests + 1, header)
        message = PARK.pack(1) + record(now + self.seconds, taken.listener, WAKES, told.encode())
        try:
            # The end of a lane is seen here, too: nothing can be sent through it.
            self._lane.sendmsg((message,), ((_LEVEL, _RIGHTS, struct.pack("i", fd)),), SEND)
        except OSError:
            return False
        self.duty.gave_away(taken)
        del self._taken[fd]
        return True
