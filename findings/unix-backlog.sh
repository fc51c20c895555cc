#!/bin/bash
# A full unix listener: asyncio and trio report a connection that does not exist.
#
# Expected    a unix listener whose backlog is full makes a client wait, or refuses it; either way `await` on the
#             connect tells which. (Over TCP it waits: the kernel sends the SYN again.)
# Versions    CPython 3.11 to 3.13 (asyncio), trio 0.35.0, uvloop 0.23.0; Linux 6.18
# Behaviour   connect() on a non-blocking AF_UNIX socket answers EAGAIN, which is final: nothing is under way, unlike
#             EINPROGRESS. asyncio and trio take both for "wait until writable". The socket is in no queue, so epoll
#             calls it writable at once, SO_ERROR is 0, and the call returns a "connected" stream without a peer.
#             The first write then raises EINVAL or ENOTCONN. uvloop raises EAGAIN from the connect, as it should.
# Output      asyncio: connected, peer None, then on use: OSError EINVAL
#             trio: connected, then on use: BrokenResourceError ENOTCONN
#             uvloop: BlockingIOError EAGAIN at connect
# Date        2026-11-28
# Why         a retry loop around the connect never runs; a health check that only connects calls a drowned server
#             healthy; and the error that is seen at last (22) points at the arguments, not at the load.
set -eu
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
python3 -m venv "$lab/v"
"$lab/v/bin/pip" install -q --disable-pip-version-check trio==0.35.0 uvloop==0.23.0
cat > "$lab/see.py" <<'PROGRAM'
import asyncio
import errno
import socket
import sys

import trio
import uvloop

path = sys.argv[1] + "/listener"
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(1)
waiting = []
try:
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect(path)
        waiting.append(client)
except BlockingIOError:
    print(f"the backlog is full with {len(waiting)} connections")


async def by_asyncio():
    reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), 5)
    peer = writer.get_extra_info("peername")
    try:
        writer.write(b"hello")
        await asyncio.wait_for(reader.read(), 5)
    except OSError as error:
        return f"asyncio: connected, peer {peer}, then on use: OSError {errno.errorcode[error.errno]}"


async def by_trio():
    with trio.fail_after(5):
        stream = await trio.open_unix_socket(path)
        try:
            await stream.send_all(b"hello")
        except trio.BrokenResourceError as error:
            return f"trio: connected, then on use: BrokenResourceError {errno.errorcode[error.__cause__.errno]}"


async def by_uvloop():
    try:
        await asyncio.wait_for(asyncio.open_unix_connection(path), 5)
    except BlockingIOError as error:
        return f"uvloop: BlockingIOError {errno.errorcode[error.errno]} at connect"


seen = [asyncio.run(by_asyncio()), trio.run(by_trio), uvloop.run(by_uvloop())]
print(*seen, sep="\n")
if seen != [
    "asyncio: connected, peer None, then on use: OSError EINVAL",
    "trio: connected, then on use: BrokenResourceError ENOTCONN",
    "uvloop: BlockingIOError EAGAIN at connect",
]:
    sys.exit("changed: the head of this file says what was seen in 2026")
PROGRAM
"$lab/v/bin/python" "$lab/see.py" "$lab"
