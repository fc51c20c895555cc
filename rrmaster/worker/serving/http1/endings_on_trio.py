"""How does a connection of HTTP/1.1 on trio end whose client still sends, or sends no more?

Both are as on asyncio and uvloop: see `endings`, which has the reasons.
"""

from __future__ import annotations

import math
from typing import Any

import h11
import trio

from .endings import LINGER_S, LOOK_S, REFUSED_BYTES, SILENT_S, UNANSWERED_S, silent_s

_ANSWERED = (h11.DONE, h11.MUST_CLOSE, h11.CLOSED)

RECEIVE = 65_536
"""Bytes that are dropped at once."""


async def until_nothing_is_sent(stream: Any) -> None:
    """Wait until nothing has been sent to a client for the time after which it has left."""
    rest = UNANSWERED_S
    while rest > 0:
        await trio.sleep(max(rest, LOOK_S))
        rest = UNANSWERED_S - silent_s(_socket_of(stream))


async def linger(stream: Any, connection: Any) -> None:
    """If the request is answered and its body has not come yet, or it cannot be parsed: drop what the client sends.

    The caller then closes.
    """
    if connection.their_state not in (h11.SEND_BODY, h11.ERROR) or connection.our_state not in _ANSWERED:
        return
    most = REFUSED_BYTES if connection.their_state is h11.ERROR else math.inf
    try:
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
        with trio.move_on_after(LINGER_S):
            data = b"\n"
            while data and most > 0:
                most, data = most - len(data), b""
                with trio.move_on_after(SILENT_S):
                    data = await stream.receive_some(RECEIVE)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
        pass  # the client is gone


def _socket_of(stream: Any) -> Any:
    return (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
