"""In the place of the image's `shop` in pod.py: a page that takes 20 ms, and one that never ends."""

import asyncio


async def web(scope, receive, send):
    if scope["type"] == "http":
        await asyncio.sleep(3600 if scope["path"] == "/stuck" else 0.02)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
        await send({"type": "http.response.body", "body": b"welcome"})
