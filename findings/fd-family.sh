#!/bin/bash
# uvicorn on a passed socket answers each short stream 44 ms later than on a port, on both loops.
#
# Expected    `uvicorn --fd 3` (systemd's socket activation, circus, a wrapper that binds as root) serves as --port does.
# Versions    uvicorn 0.54.0 with h11 0.16.0, asyncio of CPython 3.11 and uvloop 0.23.0
# Behaviour   uvicorn takes the descriptor for a unix socket, whatever it is. All works, addresses and logs are right,
#             but both loops set TCP_NODELAY only where the family says TCP. What is sent in two or more pieces (the
#             head and a body, each event of a stream) waits for the client's delayed acknowledgement. Over a unix
#             socket, and over TCP with --port, there is no wait; a client that sends the next request at once, as
#             `ab` and wrk do, hides a part of it. A socket that was made with TCP_NODELAY passes it on, and is the cure.
# Output      (the median of 15 requests on one connection) asyncio: port 0.3 ms, fd 44 ms, fd with TCP_NODELAY 0.3 ms;
#             uvloop: 0.3 ms, 44 ms, 0.3 ms
# Date        2026-11-29
# Why         the change from `ExecStart=uvicorn --port` to a socket unit, made for restarts without a gap, makes each
#             request slower by more than most handlers take. systemd's NoDelay=yes in the socket unit cures it.
#             Known to some: it was found in an inference server in March 2026, and is open in uvicorn for --workers.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check uvicorn==0.54.0 h11==0.16.0 uvloop==0.23.0
cd "$lab"
cat > shop.py <<'PROGRAM'
import asyncio


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    for piece in (b"a", b"b", b"c"):
        await send({"type": "http.response.body", "body": piece, "more_body": piece != b"c"})
        await asyncio.sleep(0)
PROGRAM
cat > see.py <<'PROGRAM'
import socket
import statistics
import subprocess
import sys
import time

UVICORN = ["v/bin/python", "-m", "uvicorn", "shop:app", "--http", "h11", "--lifespan", "off", "--log-level", "error"]


def connect(port):
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def median(port):
    taken = []
    with connect(port) as client:
        for _ in range(15):
            begin, got = time.monotonic(), b""
            client.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            while not got.endswith(b"\r\n\r\nabc"):
                got += client.recv(4096)
            taken.append(time.monotonic() - begin)
    return statistics.median(taken) * 1000


def served(loop, way):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if way == "fd with TCP_NODELAY":
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if way == "port":
            listener.close()
            where = {"args": [*UVICORN, "--loop", loop, "--port", str(port)]}
        else:
            where = {"args": [*UVICORN, "--loop", loop, "--fd", str(listener.fileno())], "pass_fds": [listener.fileno()]}
        process = subprocess.Popen(**where)
        try:
            return median(port)
        finally:
            process.terminate()
            process.wait(10)


changed = False
for loop in ("asyncio", "uvloop"):
    seen = {way: served(loop, way) for way in ("port", "fd", "fd with TCP_NODELAY")}
    print(f"{loop}:", ", ".join(f"{way} {milliseconds:.1f} ms" for way, milliseconds in seen.items()))
    changed |= not (seen["fd"] > 35 and max(seen["port"], seen["fd with TCP_NODELAY"]) < 25)
if changed:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
v/bin/python see.py
