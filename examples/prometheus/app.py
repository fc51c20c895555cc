"""A page that takes 5 to 50 ms."""

import asyncio
import random


async def app(scope, receive, send):
    if scope["type"] == "http":
        await asyncio.sleep(random.uniform(0.005, 0.05))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})
