import os

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


async def who(request):
    return JSONResponse({"pid": os.getpid()})


async def length(request):
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
    return PlainTextResponse(str(count))


async def stream(request):
    async def chunks():
        for number in range(100):
            yield b"%03d\n" % number

    return StreamingResponse(chunks())


async def boom(request):
    raise ZeroDivisionError("the view's own trouble")


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(str(os.getpid()))
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def make():
    return Starlette(
        routes=[
            Route("/", who),
            Route("/length", length, methods=["POST"]),
            Route("/stream", stream),
            Route("/boom", boom),
            WebSocketRoute("/ws", echo),
        ]
    )
