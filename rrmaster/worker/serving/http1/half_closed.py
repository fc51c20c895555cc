"""Is a client that has sent its end of stream still there?

It may have closed only its own direction (``shutdown(SHUT_WR)``, as ``nc -N`` and socat do) and wait for its answer, or
it may have left.  The kernel tells the two apart only when bytes are sent: a client that has left answers them with a
reset.  So a connection is kept while its answer is on its way, and closed when nothing has been sent for `SILENT_S`;
then the application is told that its client has left.  On trio `endings_on_trio` does so.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

SILENT_S = 10.0
"""Seconds without a byte for the client after its end of stream.  Longer, and an application that waits for an event
learns late that its client has left; shorter, and slow answers are lost.  It is twice `--keep-alive`'s default."""

LOOK_S = 0.1
"""Seconds between two looks at least: the kernel counts in ticks of up to 10 ms."""

_LAST_DATA_SENT = 44
"""The offset of ``tcpi_last_data_sent`` (milliseconds since the last byte was sent) in Linux's ``struct tcp_info``."""


def abort_when_silent(loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
    """Abort a transport whose client has closed its direction, once nothing has been sent on it for `SILENT_S`."""

    def look() -> None:
        if transport.is_closing():
            return
        rest = SILENT_S - silent_s(transport.get_extra_info("socket"))
        if rest <= 0:
            transport.abort()
        else:
            loop.call_later(max(rest, LOOK_S), look)

    loop.call_later(SILENT_S, look)


def silent_s(sock: Any) -> float:
    """Seconds since the last byte was sent; `SILENT_S` where the kernel does not tell (unix sockets)."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_SENT + 4)
    except OSError:
        return SILENT_S
    return float(struct.unpack_from("=I", info, _LAST_DATA_SENT)[0]) / 1000
