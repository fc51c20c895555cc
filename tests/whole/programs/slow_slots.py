"""A worker of this application is ready 0.2 s after the one in the slot before it.  It answers with its slot."""

import asyncio

import rrmaster


async def app(scope, receive, send):
    slot = rrmaster.current_worker().slot
    if scope["type"] == "lifespan":
        await receive()
        await asyncio.sleep(0.2 * slot)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": str(slot).encode()})
