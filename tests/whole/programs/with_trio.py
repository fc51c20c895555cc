"""FastAPI on trio: / (process id), /length of an upload, /stream, errors, /slow, /afterwards, /ws (echo)."""

import os
import sys
from contextlib import asynccontextmanager

import trio
from fastapi import FastAPI, Request, WebSocket
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, StreamingResponse

import rrmaster


@asynccontextmanager
async def life(app):
    print("lifespan begins, worker", rrmaster.current_worker().slot)
    yield {"greeting": "good day"}
    print("lifespan ends")


app = FastAPI(lifespan=life)


@app.get("/")
async def who(request: Request):
    seen = {name: request.scope[name] for name in ("client", "server", "scheme", "root_path", "path", "http_version")}
    return seen | {"pid": os.getpid(), "greeting": request.state.greeting, "asyncio": "uvloop" in sys.modules}


@app.post("/length")
async def length(request: Request):
    return sum([len(chunk) async for chunk in request.stream()])


@app.get("/stream")
async def stream():
    async def chunks():
        for number in range(2000):
            yield b"%04d\n" % number * 20
            await trio.lowlevel.checkpoint()

    return StreamingResponse(chunks(), media_type="text/plain")


@app.get("/file")
async def file():
    return FileResponse(__file__)


@app.get("/boom")
async def boom(how: str):
    if how == "exit":
        sys.exit(3)
    if how == "group":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_boom)
    if how == "late":

        async def chunks():
            yield b"begun"
            await _boom()

        return StreamingResponse(chunks())
    return await _boom()


async def _boom():
    raise ZeroDivisionError("the view's own trouble")


@app.get("/sync")
def in_a_thread():
    return {"pid": os.getpid()}


@app.get("/slow")
async def slow(ms: int = 200):
    await trio.sleep(ms / 1000)
    return {"pid": os.getpid()}


@app.get("/afterwards")
async def afterwards():
    async def work():
        await trio.sleep(0.5)
        print("done afterwards")

    return JSONResponse({}, background=BackgroundTask(work))


@app.websocket("/ws")
async def echo(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text(str(os.getpid()))
    async for text in websocket.iter_text():
        await websocket.send_text(text)
