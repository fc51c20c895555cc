"""The application that all servers serve over HTTP, as ASGI and as WSGI; peer_http.js is the same for Node.

=========  =======================================================================
path       answer
=========  =======================================================================
``/``      14 bytes, at once
``/pid``   the number of the worker's process, at once
``/block`` as ``/``, after the worker has been blocked for 100 ms
``/busy``  as ``/pid``, after the worker has been blocked for 20 ms
=========  =======================================================================

A worker is *blocked* as by a long computation or a C library that holds the interpreter: its loop and all its threads
stand still.  Here that takes no processor time, so that many workers can be blocked at once on two cores.
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
"""Microseconds of ``/busy``: a busy worker accepts nothing, so N requests at once reach all N workers."""

_libc = ctypes.PyDLL(None)
"""Unlike CDLL, PyDLL keeps the interpreter lock during a call."""

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
    """The application as ASGI 3."""
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
    """The application as WSGI."""
    body = answer(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
