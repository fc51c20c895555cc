"""Two services with one basket for each visitor: `web` shows it, and `api` puts things into it.

Redis has the baskets, so any container of either service will do.
"""

import os
import secrets
from http.cookies import SimpleCookie

from redis.asyncio import Redis


async def web(scope, receive, send):
    """GET /: what is in the visitor's basket, one thing a line."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        visitor = visitor_of(scope)
        things = await scope["state"]["redis"].lrange(f"basket:{visitor}", 0, -1) if visitor else []
        await answer(send, b"".join(thing + b"\n" for thing in things), visitor)


async def api(scope, receive, send):
    """POST /api: put the body into the visitor's basket; says how many things are in it."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        thing, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            thing, more = thing + message.get("body", b""), message.get("more_body", False)
        visitor, redis = visitor_of(scope), scope["state"]["redis"]
        basket = f"basket:{visitor}"
        count = await redis.rpush(basket, thing) if visitor and thing else await redis.llen(basket)
        await answer(send, b"%d\n" % count, visitor)


def visitor_of(scope) -> str:
    cookies = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
    found = SimpleCookie(cookies).get("visitor")
    return found.value if found else ""


async def lifespan(scope, receive, send):
    """What a worker opens when it begins, and closes when it ends."""
    await receive()
    async with Redis.from_url(os.environ.get("REDIS_URL", "redis://redis:6379")) as redis:
        scope["state"]["redis"] = redis
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def answer(send, body, visitor):
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    if not visitor:
        headers.append((b"set-cookie", b"visitor=%s; HttpOnly; SameSite=Lax" % secrets.token_hex(16).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
