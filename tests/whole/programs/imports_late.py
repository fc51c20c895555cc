"""Says which modules this process has imported since it was forked."""

import os
import sys

inherited: set[str] = set()
os.register_at_fork(after_in_child=lambda: inherited.update(sys.modules))


def late():
    assert inherited, "it was not forked"
    return repr(sorted(sys.modules.keys() - inherited)).encode()


async def stream(stream):
    await stream.receive_some()  # a close with bytes unread would be a reset
    await stream.send_all(late())


async def streams(reader, writer):
    await reader.read(1000)
    writer.write(late())
    await writer.drain()
    writer.close()


async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
        await send({"type": "http.response.body", "body": late()})


def wsgi(environ, start_response):
    start_response("200 OK", [("Connection", "close")])
    return [late()]
