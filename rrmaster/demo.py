"""Handlers to try rrmaster with: `hello` answers HTTP, `echo` sends back what it receives.

::

    python -m rrmaster --workers 4 rrmaster.demo:hello
    curl http://127.0.0.1:8000/

`hello` understands just enough HTTP/1.1 for curl, a browser and wrk: it is an example of a stream handler, and no HTTP
server.
"""

from __future__ import annotations

import os
import re

import trio

from . import current_worker

MAX_HEAD = 16 * 1024
"""Bytes of request line and headers; h11's limit."""

IDLE_S = 60.0
"""Seconds for which a keep-alive connection may be silent."""

DRAIN_S = 1.0
"""Seconds that an idle connection is kept in a drain.  A request may be on its way, and would be lost if the connection
were closed before it arrives; it is answered with `Connection: close`."""

_CLOSE = re.compile(rb"\r\nconnection:[ \t]*(close|keep-alive)[ \t]*\r\n", re.IGNORECASE)


async def echo(stream: trio.SocketStream) -> None:
    """Send back what the client sends, until it closes its side."""
    async for data in stream:
        await stream.send_all(data)


async def hello(stream: trio.SocketStream) -> None:
    """Answer each request with this worker's slot and process id."""
    body = f"Hello from worker {current_worker().slot} (pid {os.getpid()})\n".encode()
    unread = b""
    while (request := await _request(stream, unread)) is not None:
        head, unread = request
        last = _wants_close(head) or current_worker().draining.is_set()
        await stream.send_all(_answer(body, last))
        if last:
            await _close_gently(stream)
            return


def _answer(body: bytes, last: bool) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + (b"Connection: close\r\n\r\n" if last else b"\r\n") + body


def _wants_close(head: bytes) -> bool:
    said = _CLOSE.search(head)
    if said is not None:
        return said[1].lower() == b"close"
    # HTTP/1.0 closes by default.  A method with a body, because the next request stands behind the body, unread here.
    return b" HTTP/1.0\r\n" in head or not head.startswith((b"GET ", b"HEAD "))


async def _request(stream: trio.SocketStream, data: bytes) -> tuple[bytes, bytes] | None:
    """The head of the next request, and the bytes behind it.  None if no request follows."""
    while b"\r\n\r\n" not in data:
        more = await _receive(stream)
        if not more or len(data) > MAX_HEAD:
            return None
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n", rest


async def _receive(stream: trio.SocketStream) -> bytes:
    """Some bytes.  Empty if the client has disconnected or is silent for too long, which in a drain is `DRAIN_S`."""
    try:
        with trio.move_on_after(IDLE_S) as patience:
            if current_worker().draining.is_set():
                patience.deadline = trio.current_time() + DRAIN_S
                return await stream.receive_some()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_shorten_in_drain, patience)
                data = await stream.receive_some()
                nursery.cancel_scope.cancel()
            return bytes(data)
    except trio.BrokenResourceError:
        pass  # the client has reset the connection, as it may at any time
    return b""


async def _shorten_in_drain(patience: trio.CancelScope) -> None:
    await current_worker().draining.wait()
    patience.deadline = min(patience.deadline, trio.current_time() + DRAIN_S)


async def _close_gently(stream: trio.SocketStream) -> None:
    """Close so that the answer arrives: close() with bytes unread sends a reset, which may overtake the answer."""
    try:
        with trio.move_on_after(DRAIN_S):
            await stream.send_eof()
            while await stream.receive_some():
                pass
    except trio.BrokenResourceError:
        pass  # the client has reset the connection already
