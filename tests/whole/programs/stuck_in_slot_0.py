"""An application whose `/hang` never ends in slot 0; its `/block` blocks until the FIFO `RELEASE` is opened."""

import asyncio
import os
import threading

import rrmaster

ANSWER = [(b"content-length", b"1")]


async def _for_ever():
    try:
        import sniffio

        if sniffio.current_async_library() == "trio":
            import trio

            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
    except ImportError:
        pass
    await asyncio.Event().wait()


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    slot = rrmaster.current_worker().slot
    if scope["path"] == "/hang" and slot == 0:
        await _for_ever()
    if scope["path"] == "/block":
        open(os.environ["RELEASE"]).close()  # a FIFO
    await send({"type": "http.response.start", "status": 200, "headers": ANSWER})
    await send({"type": "http.response.body", "body": str(slot).encode()})


def wsgi(environ, start_response):
    slot = rrmaster.current_worker().slot
    if environ["PATH_INFO"] == "/hang" and slot == 0:
        threading.Event().wait()
    start_response("200 OK", [("Content-Length", "1")])
    return [str(slot).encode()]


async def stream(reader, writer):
    slot = rrmaster.current_worker().slot
    line = await reader.readline()
    if b"/hang" in line and slot == 0:
        await asyncio.Event().wait()
    writer.write(f"200 \r\n\r\n{slot}".encode())
    await writer.drain()
    await reader.read()
