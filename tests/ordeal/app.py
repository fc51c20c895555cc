"""The application: quick answers, slow ones, long ones, and the requests that hurt a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

Message = MutableMapping[str, Any]
PART = b"x" * 16_384
PARTS = 16


async def app(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[..., Awaitable[None]]) -> None:
    """Answer with the worker's process id, after what the path asks for."""
    if scope["type"] != "http":
        raise RuntimeError("no lifespan, no websockets")
    await _do(scope["path"], receive)
    await _answer(send, PARTS if scope["path"] == "/long" else 0)


async def _do(path: str, receive: Callable[[], Awaitable[Message]]) -> None:
    match path:
        case "/slow":
            await anyio.sleep(0.3)
        case "/body":
            while (await receive()).get("more_body"):
                pass
        case "/block":
            time.sleep(1.0)
        case "/hang":
            time.sleep(10_000)
        case "/stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "/die":
            os._exit(7)
        case "/crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "/leave":  # a child that stays behind, in a session of its own
            subprocess.Popen(["sleep", "1000"], start_new_session=True)


async def _answer(send: Callable[..., Awaitable[None]], parts: int) -> None:
    body = b"%d" % os.getpid()
    headers = [(b"content-length", b"%d" % (len(body) + len(PART) * parts))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(parts):
        await send({"type": "http.response.body", "body": PART, "more_body": True})
    await send({"type": "http.response.body", "body": body})
