"""What is served over HTTP: one application, as ASGI and as WSGI, the same for all; peer_http.js does likewise.

=========  =======================================================================
path       answer
=========  =======================================================================
``/``      14 bytes, at once
``/pid``   the number of the worker's process, at once
``/block`` as ``/``, after the worker could do nothing else for 100 ms
``/busy``  as ``/pid``, after the worker could do nothing else for 20 ms
=========  =======================================================================

To *block* is what a long computation or a C library does that holds the interpreter: the loop stands still, and so does
every thread of it.  It takes no processor time, so that many can block at once on two cores.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

HELLO = b"Hello, world.\n"

BLOCK = 100_000
"""Microseconds of ``/block``."""

BUSY = 20_000
"""Microseconds of ``/busy``: who is busy accepts nothing, so as many at once as there are workers meet them all."""

_libc = ctypes.PyDLL(None)
"""Unlike CDLL it does not release the interpreter while it calls."""

Message = MutableMapping[str, Any]


def answer(path: str) -> bytes:
    """The body for a path."""
    if path == "/block":
        _libc.usleep(BLOCK)
    elif path == "/busy":
        _libc.usleep(BUSY)
    return str(os.getpid()).encode() if path in ("/pid", "/busy") else HELLO


async def asgi(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """ASGI 3."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    assert scope["type"] == "http"
    body = answer(scope["path"])
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
    while True:
        what = (await receive())["type"]
        await send({"type": f"{what}.complete"})
        if what == "lifespan.shutdown":
            return


def wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """WSGI."""
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
