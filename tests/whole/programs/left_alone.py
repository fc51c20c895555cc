"""ASGI without a framework, on trio, whose clients leave: it prints how each call ends."""

import itertools
import sys

import trio


async def app(scope, receive, send):
    assert scope["type"] != "lifespan"
    await (websocket if scope["type"] == "websocket" else PATHS[scope["path"]])(scope, receive, send)


async def answer(scope, receive, send):
    body = b"well"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def slow(scope, receive, send):
    """Answer when the client has sent no more, and a little later."""
    while (await receive())["type"] != "http.disconnect":
        pass
    await trio.sleep(0.2)
    await answer(scope, receive, send)


async def stream(scope, receive, send):
    """Send without end, and never receive."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        for _ in itertools.count():
            await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
            await trio.sleep(0.01)
    finally:
        print("a stream has ended")


async def sleeps(scope, receive, send):
    try:
        await trio.sleep_forever()
    finally:
        print("a sleep has ended")


async def interrupted(scope, receive, send):
    raise KeyboardInterrupt("the view's own trouble")


async def exits(scope, receive, send):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        nursery.start_soon(_exit)


async def _exit():
    sys.exit("the view's own trouble")


async def websocket(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/close":
        await send({"type": "websocket.close"})
    if scope["path"] == "/pour":
        try:
            while True:
                await send({"type": "websocket.send", "text": "x" * 10_000})
                await trio.sleep(0.01)
        finally:
            print("a websocket's stream has ended")
    while (message := await receive())["type"] != "websocket.disconnect":
        pass
    print("disconnected with", message["code"])


async def handler(stream):
    """As a stream handler: what ends a program ends one connection."""
    if await stream.receive_some() == b"exit\n":
        sys.exit("the handler's own trouble")
    await stream.send_all(b"well\n")


PATHS = {
    "/": answer,
    "/slow": slow,
    "/stream": stream,
    "/sleeps": sleeps,
    "/interrupted": interrupted,
    "/exits": exits,
}
