"""Two services: `web`, which keeps nothing, and `api`, which counts in Redis."""

import os

from redis.asyncio import Redis


async def web(scope, receive, send):
    if scope["type"] == "http":
        await answer(send, b"welcome\n")


async def api(scope, receive, send):
    if scope["type"] == "http":
        redis = scope["state"]["redis"]
        await answer(send, b"%d\n" % await redis.incr("visits"))
    elif scope["type"] == "lifespan":
        await receive()
        async with Redis.from_url(os.environ.get("REDIS_URL", "redis://redis:6379")) as redis:
            scope["state"]["redis"] = redis
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def answer(send, body):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
