"""When is a connection over?  When its socket is closed, whoever closes it: so no server has to say so."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TypeVar

from . import Taken

_Kind = TypeVar("_Kind", bound=socket.socket)


def socket_of(taken: Taken, kind: type[_Kind]) -> _Kind:
    """A connection as a socket of this class, which owns the descriptor from now on."""
    # The family is known: asking the socket would be three system calls.
    if taken.family:
        return kind(taken.family, socket.SOCK_STREAM, 0, fileno=taken.fd)
    return kind(fileno=taken.fd)


class Connection(socket.socket):
    """A connection that says when it is closed, or was given to libuv to close."""

    over: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it; a file that was made of it keeps it open, and closes it then."""
        super().close()
        if self.fileno() < 0:
            self._say()

    def detach(self) -> int:
        """Leave the descriptor to somebody else: uvloop's transports do so in the moment in which they close it."""
        fd = super().detach()
        self._say()
        return fd

    def _say(self) -> None:
        over, self.over = self.over, None
        if over is not None:
            over()
