"""Applications with four threads; a `/hang` in one of the slots `HANG` keeps one until the file `RELEASE` exists."""

import os
import time
import uuid
from pathlib import Path

import rrmaster

THREADS = 4


def in_thread(path):
    """What an endpoint does in its thread."""
    slot, release = rrmaster.current_worker().slot, Path(os.environ["RELEASE"])
    if path == "/hang" and str(slot) in os.environ["HANG"]:
        (release.parent / f"hangs-{uuid.uuid4()}").touch()
        while not release.exists():
            time.sleep(0.01)
    return str(slot).encode()


async def answer(send, body):
    headers = [(b"content-length", b"1"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def fastapi():
    import anyio.to_thread
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()

    @app.get("/size", response_class=PlainTextResponse)
    async def resize():
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        return str(rrmaster.current_worker().slot)

    @app.get("/async", response_class=PlainTextResponse)
    async def without_thread():
        return str(rrmaster.current_worker().slot)

    @app.get("/{path:path}", response_class=PlainTextResponse)
    def with_thread(path: str):
        return in_thread(f"/{path}").decode()

    return app


async def on_trio(scope, receive, send):
    import trio

    if scope["type"] == "http":
        if scope["path"] == "/size":
            trio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        free = scope["path"] in ("/size", "/async")
        await answer(send, in_thread("/") if free else await trio.to_thread.run_sync(in_thread, scope["path"]))


async def on_asyncio(scope, receive, send):
    """The loop's own executor, which cannot be told its size: so /size takes all of its threads but four."""
    import asyncio
    import threading

    if scope["type"] == "http":
        if scope["path"] == "/size":
            loop = asyncio.get_running_loop()
            for _ in range(min(32, (os.cpu_count() or 1) + 4) - THREADS):
                loop.run_in_executor(None, threading.Event().wait, 1000)
        free = scope["path"] in ("/size", "/async")
        await answer(send, in_thread("/") if free else await asyncio.to_thread(in_thread, scope["path"]))


_limiter = None


async def own_limiter(scope, receive, send):
    """An application that limits itself, and says so to its worker."""
    global _limiter
    import anyio
    import anyio.to_thread

    if scope["type"] == "http":
        if _limiter is None:
            _limiter = anyio.CapacityLimiter(THREADS)
            rrmaster.current_worker().watch_limiter(_limiter)
        if scope["path"] in ("/size", "/async"):
            await answer(send, in_thread("/"))
        else:
            await answer(send, await anyio.to_thread.run_sync(in_thread, scope["path"], limiter=_limiter))


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Length", "1"), ("Content-Type", "text/plain")])
    return [in_thread(environ["PATH_INFO"])]


async def says_full(scope, receive, send):
    """The worker that is asked for /full in slot 0 says that it is."""
    if scope["type"] == "http":
        me = rrmaster.current_worker()
        if scope["path"] == "/full" and me.slot == 0:
            me.set_full(True)
        await answer(send, in_thread("/"))


def emptiest(candidates, peer):
    """A policy: the worker with the fewest connections, then the one in the lowest slot."""
    return min(candidates, key=lambda candidate: (candidate.load, candidate.slot))
