#!/bin/bash
# Connections that clients reset stay in uvicorn's memory until the keep-alive time is over; closed ones do not.
#
# Expected    when a connection is lost its protocol is freed, however the client has ended it. The timer that closes
#             idle connections is cancelled with the connection.
# Versions    uvicorn 0.54.0, httptools 0.9.0, h11 0.16.0, asyncio of Python 3.11
# Behaviour   after an answer the protocol starts a timer of --timeout-keep-alive. If the client then closes, the timer
#             is cancelled and the protocol is freed. If it resets (SO_LINGER 0, a killed client, many load balancers),
#             `connection_lost` gets an error and leaves the timer: it holds the protocol, with its last request and its
#             header, until the time is over. Both parsers do so.
# Output      (100 clients that ask once and leave; protocols alive afterwards, with a keep-alive time of 30 s)
#             httptools: closed 0, reset 100. h11: closed 0, reset 100.
# Date        2026-11-29
# Why         behind a balancer that needs --timeout-keep-alive 75 or more and resets idle connections, each reset
#             keeps a protocol and its last request for more than a minute. It looks like a leak that heals.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cd "$lab"
cat > see.py <<'PROGRAM'
import asyncio
import gc
import socket
import struct

import uvicorn

CLIENTS = 100
KINDS = {"httptools": "HttpToolsProtocol", "h11": "H11Protocol"}


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def ask_and_leave(port, reset):
    for _ in range(CLIENTS):
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            seen = b""
            while not seen.endswith(b"ok"):
                seen += client.recv(4096)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def alive(kind, reset):
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_level="error", timeout_keep_alive=30)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    await asyncio.to_thread(ask_and_leave, listener.getsockname()[1], reset)
    async with asyncio.timeout(10):
        while server.server_state.connections:
            await asyncio.sleep(0.01)
    gc.collect()
    found = sum(type(thing).__name__ == KINDS[kind] for thing in gc.get_objects())
    server.should_exit = True
    await serving
    return found


found = {(kind, reset): asyncio.run(alive(kind, reset)) for kind in KINDS for reset in (False, True)}
for kind in KINDS:
    print(f"{kind}: closed {found[kind, False]}, reset {found[kind, True]}")
assert all(found[kind, False] == 0 and found[kind, True] == CLIENTS for kind in KINDS), found
PROGRAM
"$lab/v/bin/python" see.py
