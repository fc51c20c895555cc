"""One computation, asked for in five ways, and a page that needs none: `/`.

The pool of processes is made in the worker, when it begins to serve, never at import: a template that had started it
could not be forked, and a forked worker would share it.
"""

import asyncio
import contextlib
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from work import primes

BELOW = int(os.environ.get("BELOW", "60000"))
SIZE = int(os.environ.get("POOL", "2"))


async def page(request):
    return PlainTextResponse("hello")


async def in_the_loop(request):
    return JSONResponse(primes(BELOW))


async def in_a_thread(request):
    return JSONResponse(await asyncio.get_running_loop().run_in_executor(request.state.threads, primes, BELOW))


async def in_a_process(request):
    return JSONResponse(await asyncio.get_running_loop().run_in_executor(request.state.processes, primes, BELOW))


async def in_the_queue(request):
    """Hand it to RQ, and ask for the result: another process, perhaps on another machine, computes."""
    job = await asyncio.to_thread(request.state.queue.enqueue, primes, BELOW)
    while (await asyncio.to_thread(job.get_status, refresh=True)).value not in ("finished", "failed"):
        await asyncio.sleep(0.02)
    return JSONResponse(await asyncio.to_thread(job.return_value, refresh=True))


async def pool(request):
    """The process ids of the pool."""
    return JSONResponse(sorted(getattr(request.state.processes, "_processes", None) or {}))


async def lock(request):
    """Whether this process has the interpreter lock: a module in C that needs it can bring it back."""
    return JSONResponse(getattr(sys, "_is_gil_enabled", lambda: True)())


@contextlib.asynccontextmanager
async def lifespan(app):
    """What begins with a worker ends with it: `shutdown` waits for what is in hand.

    Processes are spawned, not forked (Python's default before 3.14): a fork would have the descriptors and the locks of
    a worker that serves.  If the worker is killed, what descends from it is ended by the master (--kill-mode tree).
    """
    state = {"threads": ThreadPoolExecutor(SIZE), "queue": None}
    state["processes"] = ProcessPoolExecutor(SIZE, mp_context=multiprocessing.get_context("spawn"))
    if "REDIS_URL" in os.environ:
        import redis
        import rq

        state["queue"] = rq.Queue(connection=redis.Redis.from_url(os.environ["REDIS_URL"]))
    yield state
    state["processes"].shutdown()
    state["threads"].shutdown()


WAYS = {"loop": in_the_loop, "thread": in_a_thread, "process": in_a_process, "queue": in_the_queue}
app = Starlette(
    routes=[
        *(Route("/", page), Route("/pool", pool), Route("/lock", lock)),
        *(Route(f"/{name}", way) for name, way in WAYS.items()),
    ],
    lifespan=lifespan,
)
