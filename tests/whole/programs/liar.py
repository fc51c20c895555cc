"""A worker that attacks its master in the way that the client's first byte names."""

import os
import socket
import struct

from rrmaster.protocol import wire


def line() -> socket.socket:
    """This worker's line, found as an attacker would find it."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(fd)))
        except OSError:
            continue
        if sock.family == socket.AF_UNIX and sock.type == socket.SOCK_SEQPACKET:
            return sock
        sock.close()
    raise LookupError("no line")


async def handler(stream):
    deed = (await stream.receive_some())[:1].decode()
    with line() as it:
        try:
            DEEDS.get(deed, lambda it: None)(it)
        except OSError as error:
            print(f"refused: {error}")
    await stream.send_all(b"%d\n" % os.getpid())


def flood(it: socket.socket) -> None:
    it.setblocking(True)
    for _ in range(50_000):
        it.send(wire.encode(wire.Report(0)))


def bomb(it: socket.socket) -> None:
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(200)]
    try:
        rights = struct.pack("200i", *fds)
        for _ in range(10):
            it.sendmsg([wire.encode(wire.Report(0))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    finally:
        for fd in fds:
            os.close(fd)


DEEDS = {
    "a": lambda it: [it.send(wire.encode(wire.Listen(n, "127.0.0.1", index=n))) for n in range(50)],
    "r": lambda it: [it.send(os.urandom(60)) for _ in range(50)],
    "c": lambda it: it.send(wire.encode(wire.Report(10**9))),
    "f": flood,
    "e": lambda it: it.send(b""),
    "w": lambda it: it.shutdown(socket.SHUT_WR),
    "R": lambda it: it.shutdown(socket.SHUT_RD),
    "b": lambda it: it.shutdown(socket.SHUT_RDWR),
    "o": lambda it: it.setblocking(True),
    "p": lambda it: it.setsockopt(socket.SOL_SOCKET, 83, 0),
    "P": lambda it: it.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1),
    "d": bomb,
    "l": lambda it: it.send(b"\1\0" + os.urandom(100_000)),
}
