"""What both of uvicorn's protocols, that of HTTP and that of websockets, do as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...api import header_of
from ...deadlines.of_uvicorn import Watched
from ...load.requests import Requests

if TYPE_CHECKING:
    import asyncio

    from uvicorn.server import ServerState

CLOSE = (b"connection", b"close")
"""The default header of a worker that drains."""

FRAGMENTS = 1024
"""Fragments of a message that are kept one by one."""

BROKEN = 1006
"""The code of a websocket that ends without a Close (RFC 6455, 7.1.5)."""


class Counted:
    """A mix-in for both protocols: a request whose client has left is known as one without a connection."""

    requests: Requests

    def connection_lost(self, exc: Exception | None) -> None:
        # `scope` is that of a websocket; of HTTP it may be the next request's, which has not begun.
        cycle = getattr(self, "cycle", None)
        self.requests.lose_connection(cycle.scope if cycle is not None else getattr(self, "scope", None))
        super().connection_lost(exc)  # type: ignore[misc]


class WithProxyHeader:
    """A mix-in for both protocols: the addresses are those that the PROXY header has given."""

    client: tuple[str, int] | None
    server: tuple[str, int | None] | None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        header = header_of(transport.get_extra_info("socket"))
        if header is not None and header.source is not None:
            self.client, self.server = header.source, header.destination


class Fragments:
    """A mix-in for uvicorn's websockets: fragments of a message are joined as they come.

    uvicorn keeps each as an object, and the limit of a message counts their bytes alone: 16 MB of fragments of one byte
    became 123 MB, and empty ones had no limit.
    """

    frames: list[bytes]
    _loose = 0
    """Fragments at the end of `frames` that are not joined yet."""

    def handle_cont(self, event: Any) -> None:
        """A further fragment has come."""
        if len(self.frames) == 1:  # the first is there
            self._loose = 0
        super().handle_cont(event)  # type: ignore[misc]
        self._loose += 1
        if self._loose == FRAGMENTS and self.frames:
            self.frames[-FRAGMENTS:] = [b"".join(self.frames[-FRAGMENTS:])]
            self._loose = 0


class WebSocket(Fragments, Watched):
    """A mix-in for uvicorn's websockets.

    In a drain a handshake still says ``Connection: Upgrade`` alone.  A websocket that breaks ends with `BROKEN`; with
    uvicorn it is 1005, which is a Close without a code.
    """

    queue: asyncio.Queue[dict[str, Any]]

    def __init__(self, config: Any, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state)  # type: ignore[call-arg]
        self.default_headers = [header for header in server_state.default_headers if header != CLOSE]

    def connection_lost(self, exc: Exception | None) -> None:
        self.queue.put_nowait({"type": "websocket.disconnect", "code": BROKEN})  # behind the client's Close, if it came
        super().connection_lost(exc)  # type: ignore[misc]
