"""FastAPI.  All framework programs here serve / (process id), /length of an upload, /stream, /boom, /ws (echo)."""

import asyncio
import os
import time
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, WebSocket
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse

import rrmaster


@asynccontextmanager
async def life(app):
    print("lifespan begins, worker", rrmaster.current_worker().slot if rrmaster.is_worker() else "none")
    yield {"greeting": "good day"}
    print("lifespan ends")


app = FastAPI(lifespan=life)


@app.get("/")
async def who(request: Request):
    return {
        "pid": os.getpid(),
        "client": request.scope["client"],
        "server": request.scope["server"],
        "scheme": request.scope["scheme"],
        "root": request.scope["root_path"],
        "greeting": request.state.greeting,
    }


@app.post("/length")
async def length(request: Request):
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
    return count


@app.get("/stream")
async def stream():
    async def chunks():
        for number in range(100):
            yield b"%03d\n" % number
            await asyncio.sleep(0)

    return StreamingResponse(chunks(), media_type="text/plain")


@app.get("/boom")
async def boom():
    raise ZeroDivisionError("the view's own trouble")


@app.get("/slow")
async def slow(ms: int = 200):
    await asyncio.sleep(ms / 1000)
    return {"pid": os.getpid()}


@app.get("/sync")
def in_a_thread():
    return {"pid": os.getpid()}


@app.get("/blocks")
def blocks(s: float = 60):
    time.sleep(s)
    return {"pid": os.getpid()}


@app.get("/afterwards")
async def afterwards(ms: int = 200):
    async def work():
        await asyncio.sleep(ms / 1000)
        print("done afterwards")

    return JSONResponse({"pid": os.getpid()}, background=BackgroundTask(work))


@app.websocket("/ws")
async def echo(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text(str(os.getpid()))
    async for text in websocket.iter_text():
        await websocket.send_text(text)
