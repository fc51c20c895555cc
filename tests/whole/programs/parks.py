"""Applications that say which process has answered, and send back what they got."""

import os
import sys
import time


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/hold":
        print(f"holds {os.getpid()}", file=sys.stderr, flush=True)
        time.sleep(60)
    if scope["path"] == "/client":
        body = b"%b:%d" % (scope["client"][0].encode(), scope["client"][1])
    said = b"%d " % os.getpid() + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        print(f"holds {os.getpid()}", file=sys.stderr, flush=True)
        time.sleep(60)
    said = b"%d " % os.getpid() + environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(said)))])
    return [said]


def __getattr__(name):
    """`with_h11`: the same application, read by h11, as where httptools is not installed."""
    if name != "with_h11":
        raise AttributeError(name)
    sys.modules["httptools"] = None
    return app
