"""ASGI without a framework, and streams on asyncio."""

import asyncio
import os
import sys
import time

import rrmaster


async def lists_modules(scope, receive, send):
    """Answer with the async libraries that this worker has loaded."""
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    found = sorted(
        {"trio", "asyncio", "uvloop", "uvicorn", "rrmaster.master", "rrmaster.config.settings"} & set(sys.modules)
    )
    await answer(send, " ".join([*found, type(asyncio.get_running_loop()).__module__]).encode())


async def fails_to_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database does not answer"})


async def asks_nothing(scope, receive, send):
    """Answer, on any async library; accept a websocket."""
    if scope["type"] == "http":
        await answer(send, b"well")
    elif scope["type"] == "websocket":
        await send({"type": "websocket.accept"})


async def answer(send, body):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def told(reader, writer):
    """Answer each line with the pid; in a drain end after the next answer."""
    me = rrmaster.current_worker()
    async for line in reader:
        if line == b"boom\n":
            raise ZeroDivisionError("the handler's own trouble")
        loaded = " ".join(sorted({"trio", "asyncio", "uvicorn"} & set(sys.modules)))
        writer.write(b"%d %d %s\n" % (os.getpid(), me.draining.is_set(), loaded.encode()))
        await writer.drain()
        if me.draining.is_set():
            return


def asgi_2(scope):
    """The first of its calls."""


class Asgi2:
    def __init__(self, scope):
        """As in ASGI 2."""

    async def __call__(self, receive, send):
        """The second of its calls."""


async def endless(scope, receive, send):
    """Stream without an end, and never ask whether the client is still there."""
    import anyio

    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await anyio.sleep(0.01)
    finally:
        print("the stream has ended", flush=True)


async def plain(scope, receive, send):
    if scope["type"] == "http":
        await answer(send, b"hello")


async def mutters(scope, receive, send):
    """Print what has no newline."""
    if scope["type"] == "http":
        print("half a line", end="", flush=True)
        await answer(send, b"hello")


async def hangs(scope, receive, send):
    """Begin an answer, and block the whole worker until it is killed."""
    import anyio

    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"more", "more_body": True})
    await anyio.sleep(0.05)  # uvloop writes in its next turn
    time.sleep(3600)


async def pours(scope, receive, send):
    """Send more than any buffer holds: at once, in parts without an end, or over a websocket."""
    import anyio

    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "bytes": bytes(65_536)})
    if scope["type"] != "http":
        return
    whole = scope["path"] == "/whole"
    body = bytes(32 << 20 if whole else 65_536)
    headers = [(b"content-length", b"%d" % len(body))] if whole else []
    if scope["path"] == "/":
        headers, body, whole = [], b"%d" % os.getpid(), True
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        await send({"type": "http.response.body", "body": body, "more_body": not whole})
        while not whole:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await anyio.sleep(0)  # uvicorn drops what is sent to a client that has left, at once
    finally:
        print("a pour has ended", scope["path"], flush=True)
