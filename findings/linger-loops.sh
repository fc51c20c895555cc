#!/bin/bash
# A connection with SO_LINGER stops the whole event loop when it is closed, though its socket does not block.
#
# Expected    an event loop's sockets are non-blocking, so no call on them waits; `transport.abort()` above all drops a
#             connection at once. On the BSDs close(2) of a non-blocking socket does not wait, whatever SO_LINGER says.
# Versions    uvloop 0.23.0, trio 0.35.0, Python 3.11.7, Linux 6.18.44
# Behaviour   Linux looks at SO_LINGER alone: close(2) of the last copy waits until the client has taken what was sent,
#             or the time is over, also with O_NONBLOCK, and in that time nothing else of the loop runs. asyncio,
#             uvloop and trio all close in the thread of the loop. Connections inherit the option from their listener,
#             so one line where a socket is made does it for all. A signal with a handler ends the wait, and close
#             says success, not EINTR.
# Output      (an echo task that should run each 10 ms, beside a client that reads nothing; SO_LINGER of 2 s)
#             asyncio stood still for 2.0 s, uvloop for 2.0 s, trio for 2.0 s; with a signal each 0.2 s: 0.2 s.
# Date        2026-11-29
# Why         the option is copied from advice about lost last bytes. It costs nothing while clients read, and then one
#             phone that has left the network stops all other clients of its process for as long as the option says.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check uvloop==0.23.0 trio==0.35.0
cd "$lab"
cat > see.py <<'PROGRAM'
import asyncio
import signal
import socket
import struct
import sys
import time

import trio
import uvloop

LINGER_S = 2


def listener():
    made = socket.create_server(("127.0.0.1", 0))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
    return made


def silent_client(address):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address)
    return client


class Pulse:
    """The longest time between two beats."""

    def __init__(self):
        self.last, self.longest = time.monotonic(), 0.0

    def beat(self):
        now = time.monotonic()
        self.last, self.longest = now, max(self.longest, now - self.last)


class Server(asyncio.Protocol):
    def connection_made(self, transport):
        transport.write(bytes(4 << 20))
        asyncio.get_running_loop().call_later(0.2, transport.abort)


async def on_asyncio():
    pulse, sock = Pulse(), listener()
    server = await asyncio.get_running_loop().create_server(Server, sock=sock)
    client = silent_client(sock.getsockname())
    for _ in range(100):
        await asyncio.sleep(0.01)
        pulse.beat()
    server.close()
    client.close()
    return pulse.longest


async def on_trio():
    pulse, sock = Pulse(), listener()
    sock.setblocking(False)
    client = silent_client(sock.getsockname())
    stream = trio.SocketStream((await trio.socket.from_stdlib_socket(sock).accept())[0])

    async def serve():
        with trio.move_on_after(0.2):
            await stream.send_all(bytes(4 << 20))
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for _ in range(100):
            await trio.sleep(0.01)
            pulse.beat()
    client.close()
    sock.close()
    return pulse.longest


runs = {"asyncio": lambda: asyncio.run(on_asyncio()), "uvloop": lambda: uvloop.run(on_asyncio()), "trio": lambda: trio.run(on_trio)}
stood = {name: run() for name, run in runs.items()}
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
interrupted = asyncio.run(on_asyncio())
for name, seconds in stood.items():
    print(f"{name}: the loop stood still for {seconds:.1f} s")
print(f"asyncio, with a signal each 0.2 s: {interrupted:.1f} s")
sys.exit(not all(LINGER_S - 0.2 < seconds < LINGER_S + 1 for seconds in stood.values()) or interrupted > 1)
PROGRAM
v/bin/python see.py
