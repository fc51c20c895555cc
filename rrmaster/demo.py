"""Handlers to try rrmaster with: `hello` answers HTTP, `echo` says what it hears.

::

    python -m rrmaster --workers 4 rrmaster.demo:hello
    curl http://127.0.0.1:8000/

`hello` reads just enough HTTP/1.1 for curl, a browser and wrk: an example of a stream handler, and no HTTP server.
"""

from __future__ import annotations

import os
import re

import trio

from . import current_worker

MAX_HEAD = 16 * 1024
"""Bytes of request line and headers; h11's limit."""

IDLE = 60.0
"""Seconds a keep-alive connection may be silent."""

PARTING = 1.0
"""Seconds that an idle connection is kept in a drain: a request may be on its way, and to close before it arrives
would lose it.  It is answered with `Connection: close`."""

_CLOSE = re.compile(rb"\r\nconnection:[ \t]*(close|keep-alive)[ \t]*\r\n", re.IGNORECASE)


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes."""
    async for data in stream:
        await stream.send_all(data)


async def hello(stream: trio.SocketStream) -> None:
    """Answer each request with this worker's process id."""
    body = f"Hello from worker {current_worker().slot} (pid {os.getpid()})\n".encode()
    unread = b""
    while (request := await _request(stream, unread)) is not None:
        head, unread = request
        last = _wants_close(head) or current_worker().draining.is_set()
        await stream.send_all(_answer(body, last))
        if last:
            await _part(stream)
            return


def _answer(body: bytes, last: bool) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + (b"Connection: close\r\n\r\n" if last else b"\r\n") + body


def _wants_close(head: bytes) -> bool:
    said = _CLOSE.search(head)
    if said is not None:
        return said[1].lower() == b"close"
    # A body would have to be read to find the next request behind it.
    return b" HTTP/1.0\r\n" in head or not head.startswith((b"GET ", b"HEAD "))


async def _request(stream: trio.SocketStream, data: bytes) -> tuple[bytes, bytes] | None:
    """The head of the next request, and what came behind it.  None: there will be none."""
    while b"\r\n\r\n" not in data:
        more = await _receive(stream)
        if not more or len(data) > MAX_HEAD:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n", rest


async def _receive(stream: trio.SocketStream) -> bytes:
    """Some bytes; empty when the client has gone, was silent too long, or we are to go and it does not ask."""
    try:
        with trio.move_on_after(IDLE) as patience:
            if current_worker().draining.is_set():
                patience.deadline = trio.current_time() + PARTING
                return await stream.receive_some()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hurry, patience)
                data = await stream.receive_some()
                nursery.cancel_scope.cancel()
            return bytes(data)
    except trio.BrokenResourceError:
        pass  # the client reset the connection, which is its way to leave
    return b""


async def _hurry(patience: trio.CancelScope) -> None:
    await current_worker().draining.wait()
    patience.deadline = min(patience.deadline, trio.current_time() + PARTING)


async def _part(stream: trio.SocketStream) -> None:
    """Close so that the answer arrives: with bytes of the client unread, close() sends a reset that may overtake it."""
    try:
        with trio.move_on_after(PARTING):
            await stream.send_eof()
            while await stream.receive_some():
                pass
    except trio.BrokenResourceError:
        pass  # the client has left already
