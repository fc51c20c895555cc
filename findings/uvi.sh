#!/bin/sh
# uvicorn 0.54.0 with httptools 0.9.0: a request that asks for another protocol loses its body, and is answered with 200.
#
# Valid input: a POST over HTTP/1.1 with Content-Length: 5 and `Upgrade: h2c`, as curl --http2 -d and Java's HttpClient
# send it on plain http.  RFC 9110, 7.8: a server may ignore Upgrade; the request then has its body.
# Behaviour: the application receives 0 bytes and more_body False.  With h11 0.16.0 it receives all 5.
# Output seen on 2026-11-28, Python 3.11.7, Linux:
#     httptools: HTTP/1.1 200 OK, 0 bytes of 5
#     h11: HTTP/1.1 200 OK, 5 bytes of 5
# Ends with 1 if that is no longer so, and then `HttptoolsClient._ignore_upgrade` may go.  Needs the network for pip; not for CI.
set -eu
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cat >"$where/shown.py" <<'PYTHON'
import asyncio
import socket
import sys

import uvicorn

REQUEST = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Length: 5\r\n\r\nhello"
)


async def app(scope, receive, send):
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d bytes of 5" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def answer(http):
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=http, loop="asyncio", lifespan="off", log_level="critical", timeout_keep_alive=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(REQUEST)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    body = await asyncio.wait_for(reader.readexactly(len("0 bytes of 5")), 10)
    writer.close()
    server.should_exit = True
    await asyncio.wait_for(serving, 10)
    return f"{http}: {head.splitlines()[0].decode()}, {body.decode()}"


seen = [asyncio.run(answer(http)) for http in ("httptools", "h11")]
print(*seen, sep="\n")
expected = ["httptools: HTTP/1.1 200 OK, 0 bytes of 5", "h11: HTTP/1.1 200 OK, 5 bytes of 5"]
sys.exit(0 if seen == expected else 1)
PYTHON
timeout 30 "$where/venv/bin/python" "$where/shown.py"
