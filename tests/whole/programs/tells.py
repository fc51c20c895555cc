"""Applications that answer with what they have seen of a request: ASGI and WSGI."""

import json
import time

import anyio


async def app(scope, receive, send):
    """Answer with the request; with ``?s=0.5`` after half a second.  A websocket echoes."""
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "websocket":
        await echo(receive, send)
        return
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            print("disconnect", flush=True)
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    query = scope["query_string"]
    if query.startswith(b"s="):
        await anyio.sleep(float(query[2:]))
    if query == b"wait":
        print("waits", flush=True)
        print((await receive())["type"], flush=True)
        return
    seen = [scope["method"], scope["path"], size, scope["client"][0] if scope["client"] else None]
    body = b"x" * int(query[5:]) if query.startswith(b"size=") else json.dumps(seen).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def wsgi(environ, start_response):
    size, query = len(environ["wsgi.input"].read()), environ["QUERY_STRING"]
    if query.startswith("s="):
        time.sleep(float(query[2:]))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ["REQUEST_METHOD"], environ["PATH_INFO"], size, environ["REMOTE_ADDR"]]).encode()]
