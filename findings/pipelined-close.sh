#!/bin/bash
# An answer with Connection: close is lost, whole or in part, if its client has already sent the next request.
#
# Expected    a client that sends two requests ahead of the answers (RFC 9112, 9.3.2) gets the first answer whole; it says
#             "Connection: close", so the second request is not answered
# Versions    anycorn 0.20.1 and hypercorn 0.18.0 with h11 0.16.0, uvicorn 0.54.0 with the same h11
# Behaviour   an application that answers at once (a 401 before the body is read) makes h11 refuse what is behind the
#             request while the answer is on its way. anycorn on asyncio then closes the connection: no byte arrives for
#             GET, a head without its body for POST, each time. On trio, and with hypercorn on trio, chance decides.
#             hypercorn on asyncio and uvicorn send the whole answer.
# Output      the table of `see.py` below, for 20 connections of each kind
# Date        2026-11-29
# Why         the access log has the answer with its status, so nothing is missing there; the client sees a server that
#             hangs up. "close" comes from middleware, a proxy's rule, or a server that drains.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check anycorn==0.20.1 hypercorn==0.18.0 trio==0.35.0 h11==0.16.0 \
    uvicorn==0.54.0
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
HEAD = [(b"content-length", b"40"), (b"connection", b"close")]


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError("no lifespan")
    await send({"type": "http.response.start", "status": 401, "headers": HEAD})
    await send({"type": "http.response.body", "body": b"x" * 40})
PROGRAM
cat > see.py <<'PROGRAM'
import os
import signal
import socket
import subprocess
import time

SERVERS = {
    "anycorn, asyncio": "anycorn -b 127.0.0.1:{port} shop:app",
    "anycorn, trio": "anycorn -k trio -b 127.0.0.1:{port} shop:app",
    "hypercorn, asyncio": "hypercorn -b 127.0.0.1:{port} shop:app",
    "hypercorn, trio": "hypercorn -k trio -b 127.0.0.1:{port} shop:app",
    "uvicorn": "uvicorn --lifespan off --http h11 --port {port} shop:app",
}
REQUESTS = {
    "GET": b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n",
    "POST": b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nhello",
}
TIMES = 20


def connect(port):
    end = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 10)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def answer(port, request):
    with connect(port) as sock:
        sock.sendall(2 * request)
        said = b""
        while data := sock.recv(4096):
            said += data
    if not said:
        return "nothing"
    return "whole" if said.endswith(b"x" * 40) else "head alone"


def seen(command):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open("log", "w") as log:
        words = f"v/bin/{command.format(port=port)}".split()
        server = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        return {kind: [answer(port, request) for _ in range(TIMES)] for kind, request in REQUESTS.items()}
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # its workers, too
        server.wait()


found = {name: seen(command) for name, command in SERVERS.items()}
for name, kinds in found.items():
    print(name, {kind: {one: answers.count(one) for one in sorted(set(answers))} for kind, answers in kinds.items()})
for name in ("uvicorn", "hypercorn, asyncio"):
    assert {one for answers in found[name].values() for one in answers} == {"whole"}, name
assert set(found["anycorn, asyncio"]["GET"]) == {"nothing"}
assert set(found["anycorn, asyncio"]["POST"]) == {"head alone"}
for name in ("anycorn, trio", "hypercorn, trio"):
    assert {one for answers in found[name].values() for one in answers} > {"nothing"}, name
PROGRAM
"$lab/v/bin/python" see.py
