#!/bin/bash
# A client that half-closes after its request gets an answer from some servers and silence from others.
#
# Expected    a client may end its side after the request (`nc -N`, a shutdown(SHUT_WR)): it says "no more from me", and
#             the answer still comes. The server's answer does not depend on how long the application takes.
# Versions    uvicorn 0.54.0, gunicorn 27.0.1, waitress 3.0.2
# Behaviour   asyncio closes a transport at the client's end of file unless the protocol asks to keep it. uvicorn
#             does not ask: an application that answers before the end of file is read is heard, one that waits 0.3 s
#             is not, and the client gets zero bytes. gunicorn's new ASGI worker answers neither.
#             gunicorn's gthread worker and waitress answer both.
# Output      (an application that answers at once, and one that takes 0.3 s)
#             uvicorn on asyncio: answer, nothing. uvicorn on uvloop: answer, nothing. gunicorn -k asgi: nothing,
#             nothing. gunicorn -k gthread: answer, answer. waitress: answer, answer.
# Date        2026-11-28
# Why         health checks by shell (printf | nc -N), some load balancers and old HTTP/1.0 clients half-close. Against
#             uvicorn they work until the application or its database is slow, and then fail without any error
#             in the server's log.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 uvloop==0.23.0 httptools==0.9.0 gunicorn==27.0.1 waitress==3.0.2
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
import asyncio
import time


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi(environ, start):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.3)
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
PROGRAM
cat > see.py <<'PROGRAM'
import socket
import subprocess
import sys
import time

UVICORN = "uvicorn shop:asgi --port {port} --loop"
GUNICORN = "gunicorn --no-control-socket -b 127.0.0.1:{port}"
SERVERS = {
    "uvicorn on asyncio": (f"{UVICORN} asyncio", ["answer", "nothing"]),
    "uvicorn on uvloop": (f"{UVICORN} uvloop", ["answer", "nothing"]),
    "gunicorn -k asgi": (f"{GUNICORN} -k asgi shop:asgi", ["nothing", "nothing"]),
    "gunicorn -k gthread": (f"{GUNICORN} -k gthread shop:wsgi", ["answer", "answer"]),
    "waitress": ("waitress-serve --listen 127.0.0.1:{port} shop:wsgi", ["answer", "answer"]),
}


def connect(port):
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=3)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def ask(port, path):
    with connect(port) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        got = b""
        while part := client.recv(4096):
            got += part
    return "answer" if got.endswith(b"ok") else "nothing" if not got else repr(got)


def serve(command):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["v/bin/python", *f"v/bin/{command.format(port=port)}".split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        connect(port).close()
        return [ask(port, "/"), ask(port, "/slow")]
    finally:
        process.terminate()
        process.wait(10)


changed = False
for name, (command, known) in SERVERS.items():
    seen = serve(command)
    print(f"{name}: {', '.join(seen)}")
    changed |= seen != known
if changed:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
