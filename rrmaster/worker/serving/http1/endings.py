"""How does a connection end whose client still sends, or sends no more?

**A client that still sends** its request when it is answered: an application may answer before it has read the body, as
an upload without a password gets 401 at once, and what cannot be parsed is refused at once.  Where the connection ends
with that answer (``Connection: close`` of a proxy or in a drain, or a refusal), a close makes the kernel reset it,
because bytes of the client are unread, and the client finds a broken connection in the place of the answer.  So the
connection lingers (RFC 9112, 9.6): its own direction is closed, and what the client sends is dropped until it has
closed the connection, has been silent for `SILENT_S`, or has sent for `LINGER_S`; after a refusal `REFUSED_BYTES` at
most.  TLS has no half-closed connections here; such a client goes by the answer alone.  uvicorn closes at once.

**A client that has sent its end of stream** may have closed only its own direction (``shutdown(SHUT_WR)``, as ``nc -N``
and socat do) and wait for its answer, or it may have left.  The kernel tells the two apart only when bytes are sent: a
client that has left answers them with a reset.  So a connection is kept while its answer is on its way, and closed when
nothing has been sent for `UNANSWERED_S`; then the application is told that its client has left.

On trio `endings_on_trio` does both.
"""

from __future__ import annotations

import math
import socket
import struct
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import asyncio

SILENT_S = 5.0
"""Seconds without a byte after which a client has sent all that was on the way, as with nginx."""

LINGER_S = 10.0
"""Seconds for which bytes are dropped at most.  nginx does so for 30; a client that has not read its answer by then is
hardly going to, and in a drain its worker waits for it."""

REFUSED_BYTES = 16 << 20
"""Bytes that are dropped at most of what could not be parsed: a head or trailers without end are no body of a client
that means well."""

UNANSWERED_S = 10.0
"""Seconds without a byte for the client after its end of stream.  Longer, and an application that waits for an event
learns late that its client has left; shorter, and slow answers are lost."""

LOOK_S = 0.1
"""Seconds between two looks at least: the kernel counts in ticks of up to 10 ms."""

_LAST_DATA_SENT = 44
"""The offset of ``tcpi_last_data_sent`` (milliseconds since the last byte was sent) in Linux's ``struct tcp_info``."""


class Lingers:
    """A mix-in for uvicorn's protocols of HTTP: an answer reaches a client that still sends its body."""

    transport: asyncio.Transport
    out: Any
    """What uvicorn's cycles write to: the transport, or what stands in for it."""
    loop: asyncio.AbstractEventLoop
    flow: Any
    cycle: Any

    lingers = False
    """Whether the connection is over, and what comes is dropped."""
    _heard_of = False
    """Whether something came since the last look."""
    _most = math.inf
    """Bytes that may still be dropped."""

    def expect_body(self) -> None:
        """A part of the last request's body has not come yet.  Others pay nothing for what `linger` does."""
        if self.cycle.transport is self.out:
            self.cycle.transport = _ClosedLater(self)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, with as much behind it as its client may send."""
        transport, self.transport = self.transport, cast("asyncio.Transport", _LeftOpen(self.transport))
        try:
            super().send_400_response(msg)  # type: ignore[misc]
        finally:
            self.transport = transport
        self._most = REFUSED_BYTES
        self._linger()

    def linger(self) -> None:
        """Close the connection, behind what is written, without a reset for a client that still sends its body."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def _linger(self) -> None:
        if not self.lingers and not self.transport.is_closing():
            self.lingers = True
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.flow.resume_reading()
            self.loop.call_later(SILENT_S, self._look_whether_silent, self.loop.time() + LINGER_S)

    def drop(self, data: bytes) -> None:
        """Something has come, and is dropped."""
        self._heard_of = True
        self._most -= len(data)
        if self._most < 0:
            self.transport.close()

    def _look_whether_silent(self, latest: float) -> None:
        if self._heard_of and self.loop.time() < latest:
            self._heard_of = False
            self.loop.call_later(SILENT_S, self._look_whether_silent, latest)
        else:
            self.transport.close()


class _ClosedLater:
    """Stands in for the transport in uvicorn's cycle of one request, which writes, asks and closes."""

    def __init__(self, client: Lingers) -> None:
        self._client, self.write = client, client.transport.write

    def is_closing(self) -> bool:
        return self._client.lingers or self._client.transport.is_closing()

    def close(self) -> None:
        self._client.linger()


class _LeftOpen:
    """Stands in for the transport while uvicorn refuses a request, and is closed by the caller."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.write = transport.write

    def close(self) -> None:
        """The caller does so."""


def abort_when_silent(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
    """Abort a transport whose client has closed its direction, once nothing has been sent on it for `UNANSWERED_S`."""

    def look() -> None:
        if transport.is_closing():
            return
        rest = UNANSWERED_S - silent_s(transport.get_extra_info("socket"))
        if rest <= 0:
            transport.abort()
        else:
            loop.call_later(max(rest, LOOK_S), look)

    loop.call_later(UNANSWERED_S, look)


def silent_s(sock: Any) -> float:
    """Seconds since the last byte was sent; `UNANSWERED_S` where the kernel does not tell (unix sockets)."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_SENT + 4)
    except OSError:
        return UNANSWERED_S
    return float(struct.unpack_from("=I", info, _LAST_DATA_SENT)[0]) / 1000
