"""Two pages: one computes for 5 ms, one waits 100 ms for a database.

The database is Redis: `BLPOP` on a list that stays empty is a slow query.  Redis looks at such limits ten times a
second, so its answer comes after 100 ms.  The pool has 10 connections.
"""

import contextlib
import os
import time

import redis.asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def cpu(request):
    """5 ms of a processor, whatever else wants it."""
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        sum(range(1000))
    return PlainTextResponse("computed\n")


async def database(request):
    await request.state.redis.blpop("nothing", timeout=0.02)
    return PlainTextResponse("found\n")


@contextlib.asynccontextmanager
async def lifespan(app):
    pool = redis.asyncio.BlockingConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=10, timeout=60)
    async with redis.asyncio.Redis(connection_pool=pool) as client:
        yield {"redis": client}


app = Starlette(routes=[Route("/cpu", cpu), Route("/database", database)], lifespan=lifespan)
