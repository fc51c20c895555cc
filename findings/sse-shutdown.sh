#!/bin/bash
# sse-starlette ends its streams at a shutdown under uvicorn, and under no other server.
#
# Expected    an event stream of sse-starlette ends when the server is told to stop; that is a feature of the library.
# Versions    sse-starlette 3.7.0 with uvicorn 0.54.0, hypercorn 0.18.0, gunicorn 27.0.1 (-k asgi)
# Behaviour   the library learns of the shutdown by replacing uvicorn's Server.handle_exit and by looking at the
#             object behind the handler of SIGTERM. ASGI itself has no "the server is stopping" for an open response.
#             Under another server, nothing tells it: the stream goes on to the end of the grace period, each time.
# Output      (seconds from SIGTERM to the end of an open stream; 3 s of grace)
#             uvicorn 0 or 1, hypercorn 3, gunicorn 3
# Date        2026-11-28
# Why         the move from uvicorn to another server makes each deployment as long as its grace period, and the
#             streams are cut instead of ended. An application that sets AppStatus.should_exit itself is portable.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check sse-starlette==3.7.0 starlette==1.10.0 uvicorn==0.54.0 hypercorn==0.18.0 gunicorn==27.0.1
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
import asyncio

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.routing import Route


async def prices():
    while True:
        yield {"data": "1"}
        await asyncio.sleep(0.1)


async def stream(request):
    return EventSourceResponse(prices())


app = Starlette(routes=[Route("/", stream)])
PROGRAM
cat > see.py <<'PROGRAM'
import socket
import subprocess
import sys
import time

SERVERS = {
    "uvicorn": ("uvicorn shop:app --port {port} --timeout-graceful-shutdown 3", (0, 1)),
    "hypercorn": ("hypercorn shop:app -b 127.0.0.1:{port} --graceful-timeout 3", (3, 4)),
    "gunicorn": ("gunicorn -k asgi shop:app -b 127.0.0.1:{port} --graceful-timeout 3 --no-control-socket", (3, 4)),
}


def connect(port):
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def seconds_to_the_end(command):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["v/bin/python", *f"v/bin/{command.format(port=port)}".split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(port) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            got = b""
            while b"data: 1" not in got:
                got += client.recv(4096)
            process.terminate()
            begin = time.monotonic()
            try:
                while client.recv(4096):
                    assert time.monotonic() - begin < 9
            except ConnectionResetError:
                pass  # an end, too
            return round(time.monotonic() - begin)
    finally:
        process.terminate()
        process.wait(10)


changed = False
for name, (command, known) in SERVERS.items():
    seen = seconds_to_the_end(command)
    print(f"{name}: {seen} s")
    changed |= seen not in known
if changed:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
