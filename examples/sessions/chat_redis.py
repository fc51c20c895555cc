"""A chat over WebSockets: what one visitor says reaches all, in whichever worker, replica or machine they are."""

import asyncio
import contextlib
import os

import redis.asyncio
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

here = set()
"""The visitors of this worker."""


async def visit(websocket):
    await websocket.accept()
    here.add(websocket)
    try:
        async for text in websocket.iter_text():
            await websocket.app.state.redis.publish("chat", text)
    finally:
        here.discard(websocket)


async def pass_on(client, listening):
    """Everything that is said anywhere, to the visitors of this worker."""
    async with client.pubsub() as channel:
        await channel.subscribe("chat")
        async for message in channel.listen():
            if message["type"] == "subscribe":
                listening.set()
            else:
                await asyncio.gather(*(one.send_text(message["data"]) for one in set(here)), return_exceptions=True)


@contextlib.asynccontextmanager
async def lifespan(app):
    """The worker is ready when Redis has its subscription: from then on no message is missed."""
    app.state.redis = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    listening = asyncio.Event()
    task = asyncio.create_task(pass_on(app.state.redis, listening))
    await listening.wait()
    yield
    task.cancel()
    await app.state.redis.aclose()


app = Starlette(routes=[WebSocketRoute("/chat", visit)], lifespan=lifespan)
