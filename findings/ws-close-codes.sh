#!/bin/bash
# The close code of a websocket tells a goodbye from a lost client on two of six servers.
#
# Expected    websocket.disconnect has the client's own code; 1005 where its Close had none; 1006 where the connection
#             broke without a Close (RFC 6455, 7.1.5). The server is an implementation detail.
# Versions    uvicorn 0.54.0 with websockets 17.4 and wsproto 1.3.2, hypercorn 0.18.0, granian 2.8.9, gunicorn 27.0.1
#             (ASGI worker)
# Behaviour   hypercorn says 1006 for everything, a clean Close with 4001 included. granian, and uvicorn with its sans-I/O
#             and wsproto classes, say 1005 for a connection that broke, as if the client had closed it properly
#             (`--ws websockets` of the same uvicorn: 1006). Only uvicorn passes the reason on.
# Output      see KNOWN below: the code after Close(4001, "bye"), after a Close without a code, and after a break
# Date        2026-11-29
# Why         "reconnect after 1006, forget after the rest" and "4001: signed out" are decided by the server's name;
#             counts of lost clients are nil on one and all on another. A message of one's own before the Close is
#             the same everywhere. (hypercorn's is known since 2023.)
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 websockets==17.4 wsproto==1.3.2 \
    hypercorn==0.18.0 granian==2.8.9 gunicorn==27.0.1
cd "$lab"
export HOME=$lab
cat > shop.py <<'PROGRAM'
from pathlib import Path


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        raise ValueError("websockets only")
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        pass
    part = Path("seen.part")
    part.write_text(f"{message.get('code')} {message.get('reason') or ''}".strip())
    part.rename("seen")
PROGRAM
cat > see.py <<'PROGRAM'
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

UVICORN = "uvicorn --lifespan off --port {port} shop:app --ws "
SERVERS = {
    "uvicorn, websockets": UVICORN + "websockets",
    "uvicorn, websockets-sansio": UVICORN + "websockets-sansio",
    "uvicorn, wsproto": UVICORN + "wsproto",
    "hypercorn": "hypercorn -b 127.0.0.1:{port} shop:app",
    "granian": "granian --interface asginl --port {port} shop:app",
    "gunicorn": "gunicorn --no-control-socket -k asgi -b 127.0.0.1:{port} shop:app",
}
KNOWN = {
    "uvicorn, websockets": ["4001 bye", "1005", "1006"],
    "uvicorn, websockets-sansio": ["4001 bye", "1005", "1005"],
    "uvicorn, wsproto": ["4001 bye", "1005", "1005"],
    "hypercorn": ["1006", "1006", "1006"],
    "granian": ["4001", "1005", "1005"],
    "gunicorn": ["4001", "1005", "1006"],
}
MASK = b"\0\0\0\0"  # a client masks its frames; with zeros they can be read
ENDS = (b"\x88\x85" + MASK + struct.pack("!H", 4001) + b"bye", b"\x88\x80" + MASK, b"")
SEEN = Path("seen")


def connect(port):
    end = time.monotonic() + 15
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=3)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def code_after(port, last):
    SEEN.unlink(missing_ok=True)
    with connect(port) as client:
        client.sendall(
            b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        got = b""
        while b"\r\n\r\n" not in got:
            got += client.recv(4096)
        if last:
            client.sendall(last)
            client.recv(100)  # the server's Close
    end = time.monotonic() + 5
    while not SEEN.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return SEEN.read_text() if SEEN.exists() else "nothing"


def start(command):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["v/bin/python", *f"v/bin/{command.format(port=port)}".split()]
    return port, subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


started = {name: start(command) for name, command in SERVERS.items()}
seen = {}
try:
    for name, (port, _) in started.items():
        seen[name] = [code_after(port, last) for last in ENDS]
        print(f"{name}: " + " | ".join(seen[name]))
finally:
    for _, process in started.values():
        process.terminate()
    for _, process in started.values():
        process.wait(10)
if seen != KNOWN:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
