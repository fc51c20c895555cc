"""When is a connection over?  When its socket is closed, by any code: so no server has to report it.

A stream handler's access log, one line for each connection, is written here, too.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from .access.line import PARKED, Exchange
from .access.log import AccessLog
from .api import client_address
from .duty import Taken

_Kind = TypeVar("_Kind", bound=socket.socket)


def socket_of(taken: Taken, kind: type[_Kind]) -> _Kind:
    """A connection as a socket of this class, which owns the descriptor from now on."""
    # The family came with the handoff: asking the socket for it would be three system calls for each connection.
    if taken.family:
        return kind(taken.family, socket.SOCK_STREAM, 0, fileno=taken.fd)
    return kind(fileno=taken.fd)


class Connection(socket.socket):
    """A socket that calls `on_close`, once, when it is closed or its descriptor is given to libuv to close."""

    on_close: Callable[[], None] | None = None

    def watch(self, on_close: Callable[[], None]) -> None:
        """Set what is called when the socket is closed."""
        self.on_close = on_close

    def close(self) -> None:
        """Close the socket.  A file made of it (`makefile`) keeps the descriptor open, and closes it later."""
        if not getattr(self, "_io_refs", 0):
            self._notify()  # counted before it is closed: see `protocol.pages.figures`
        super().close()

    def detach(self) -> int:
        """Give the descriptor away.  uvloop's transports do so at the moment at which they close it."""
        fd = super().detach()
        self._notify()
        return fd

    def _notify(self) -> None:
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()


def is_disconnect(error: BaseException, kind: type[Exception], is_clients: Callable[[object], bool]) -> bool:
    """Whether an error, or each of a group, means no more than that the client has disconnected.

    Such an error is of this kind, and a method of the client's own stream raised it: `is_clients` recognises the
    stream.  An error of another connection of the application, such as its database's, is the application's fault.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_disconnect(one, kind, is_clients) for one in error.exceptions)
    owners = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    return isinstance(error, kind) and any(map(is_clients, owners))


def with_access_log(
    handler: Callable[..., Awaitable[object]],
    log: AccessLog | None,
    was_parked: Callable[[Any], bool] = lambda stream: False,
) -> Callable[..., Awaitable[object]]:
    """The stream handler, with a line for each connection when the handler has ended, if there is an access log."""
    if log is None:
        return handler

    async def logged(*streams: Any) -> object:
        try:
            client = client_address(streams[-1])
        except OSError:  # the client has reset it already; the handler finds out by itself
            client = None
        exchange = Exchange({"client": client, **({PARKED: True} if was_parked(streams[-1]) else {})})
        try:
            return await handler(*streams)
        finally:
            log.write(exchange.end())

    return logged
