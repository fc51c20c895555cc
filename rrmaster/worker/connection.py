"""When is a connection over?  When its socket is closed, whoever closes it: so no server has to say so."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from typing import TypeVar

from .duty import Taken

_Kind = TypeVar("_Kind", bound=socket.socket)


def socket_of(taken: Taken, kind: type[_Kind]) -> _Kind:
    """A connection as a socket of this class, which owns the descriptor from now on."""
    # The family is known: asking the socket would be three system calls.
    if taken.family:
        return kind(taken.family, socket.SOCK_STREAM, 0, fileno=taken.fd)
    return kind(fileno=taken.fd)


class Connection(socket.socket):
    """A connection that says when it is closed, or was given to libuv to close."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it; a file that was made of it keeps it open, and closes it then."""
        super().close()
        if self.fileno() < 0:
            self._notify()

    def detach(self) -> int:
        """Leave the descriptor to somebody else: uvloop's transports do so in the moment in which they close it."""
        fd = super().detach()
        self._notify()
        return fd

    def _notify(self) -> None:
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()


def is_disconnect(error: BaseException, kind: type[Exception], is_clients: Callable[[object], bool]) -> bool:
    """Whether an error, or each of a group, says no more than that the client has left.

    It is of this kind and was raised by a method of the client's own stream.  That of another connection which the
    application has, to its database, is the application's affair, and it is shown.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_disconnect(one, kind, is_clients) for one in error.exceptions)
    owners = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, kind) and any(map(is_clients, owners))
