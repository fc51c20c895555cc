"""The handler that is measured: read a request's head, answer, close.  The peers do the same, byte for byte."""

from __future__ import annotations

import trio

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\nConnection: close\r\n\r\nHello, world.\n"
)
"""98 bytes; also in peer.js and peer.c, and the load generator expects this length."""


async def answer(stream: trio.SocketStream) -> None:
    """Answer one request."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = await stream.receive_some(4096)
        if not more:
            return
        head += more
    await stream.send_all(ANSWER)
