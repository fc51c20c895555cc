"""What is sent on one connection of trio, and does its client read it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from attrs import Factory, define

from .reading import bytes_read, drop_unread

PIECE = 262_144
"""Bytes that are sent at once.  Only the end of a piece shows that a client on a unix socket reads."""


@define(eq=False)
class Outgoing:
    """Sends, one task at a time.  The connection owns the stream."""

    stream: Any
    broken: Callable[[], None]
    """Called when the client is gone."""
    waiting_since: float | None = None
    """Since when something is being sent; None: nothing is."""
    _sent: int = 0
    _lock: trio.Lock = Factory(trio.Lock)

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            # Shielded: a cancelled application must not leave half a frame on the connection.
            async with self._lock:
                with trio.CancelScope(shield=True):
                    await self._send(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken()

    async def _send(self, data: bytes) -> None:
        self.waiting_since = trio.current_time()
        try:
            if len(data) <= PIECE:
                await self.stream.send_all(data)
                self._sent += len(data)
                return
            for start in range(0, len(data), PIECE):
                piece = memoryview(data)[start : start + PIECE]
                await self.stream.send_all(piece)
                self._sent += len(piece)
        finally:
            self.waiting_since = None

    def has_read(self) -> int:
        """The bytes that the client has read."""
        return bytes_read(self._transport().socket, self._sent)

    def cut(self) -> None:
        """Reset the connection under what is being sent, which then is broken."""
        sock = self._transport().socket
        drop_unread(sock)
        sock.close()

    def _transport(self) -> trio.SocketStream:
        stream = self.stream
        return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream  # type: ignore[no-any-return]
