"""Applications with a view that kills the process."""

import os
import signal


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/boom\x1b":
        _die()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/boom\x1b":
        _die()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
