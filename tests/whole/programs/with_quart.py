import os

from quart import Quart, request, websocket

app = Quart(__name__)


@app.get("/")
async def who():
    return {"pid": os.getpid()}


@app.post("/length")
async def length():
    count = 0
    async for chunk in request.body:
        count += len(chunk)
    return str(count)


@app.get("/stream")
async def stream():
    async def chunks():
        for number in range(100):
            yield b"%03d\n" % number

    return chunks()


@app.get("/boom")
async def boom():
    raise ZeroDivisionError("the view's own trouble")


@app.websocket("/ws")
async def echo():
    await websocket.send(str(os.getpid()))
    while True:
        await websocket.send(await websocket.receive())
