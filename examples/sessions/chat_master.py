"""The same chat on one machine without Redis: workers send to the master's program, and it broadcasts to all of them.

`python chat_master.py PORT WORKERS` serves; the application in this file is imported by the workers.
"""

import asyncio
import contextlib
import sys

import trio
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

import rrmaster

here = set()
"""The visitors of this worker."""


async def visit(websocket):
    await websocket.accept()
    here.add(websocket)
    try:
        async for text in websocket.iter_text():
            await rrmaster.current_worker().send(text)
    finally:
        here.discard(websocket)


async def pass_on():
    async for text in rrmaster.current_worker().messages():
        await asyncio.gather(*(one.send_text(text) for one in set(here)), return_exceptions=True)


@contextlib.asynccontextmanager
async def lifespan(app):
    task = asyncio.create_task(pass_on())
    yield
    task.cancel()


app = Starlette(routes=[WebSocketRoute("/chat", visit)], lifespan=lifespan)


async def main(port, workers):
    """The master's program: what a worker sends goes to every worker."""
    settings = rrmaster.Settings("chat_master:app", bind=f"127.0.0.1:{port}", workers=workers)
    async with rrmaster.open_master(settings) as master, master.events() as events:
        async for event in events:
            if isinstance(event, rrmaster.WorkerMessage):
                await master.broadcast(event.message)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
