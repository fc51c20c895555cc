"""Applications of each kind that answer with the client's address and scheme."""

import json

from rrmaster import client_address


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    seen = json.dumps([scope["scheme"], scope["client"], scope["server"]])
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": seen})
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(seen))]})
    await send({"type": "http.response.body", "body": seen.encode()})


def wsgi(environ, start_response):
    seen = [environ["wsgi.url_scheme"], [environ.get("REMOTE_ADDR"), int(environ.get("REMOTE_PORT", 0))], None]
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def _answer(stream, data):
    """As a stream handler: enough HTTP for one request."""
    body = json.dumps(["stream", client_address(stream), None]).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body if data else b""


async def stream(stream):
    await stream.send_all(_answer(stream, await stream.receive_some()))


async def streams(reader, writer):
    writer.write(_answer(writer, await reader.read(1000)))
    await writer.drain()


async def refuses_to_start(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is away"})


async def knows_no_life(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})
