"""An application whose worker of slot 0 sends through its lane whatever it likes.  The others are like `parks:app`."""

import gc
import os
import random
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter

from parks import app as parks

from rrmaster.protocol.parking.lane import MAX_MEMO, MOST, PARK, record

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "2"))
SECOND = socket.SOL_SOCKET
FOREVER = 1e9
HOSTILE = []


async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/begin" and os.environ["RRMASTER_WORKER_SLOT"] == "0":
        HOSTILE.append(Hostile())
        threading.Thread(target=HOSTILE[0].run, daemon=True).start()
    await parks(scope, receive, send)


def lane():
    """The worker's end of its lane, as any code in the process can find it."""
    return next(one.lane for one in gc.get_objects() if type(one).__name__ == "AsyncioLot" and one.lane is not None)


class Hostile:
    def __init__(self):
        self.lane, self.luck, self.sent = lane(), random.Random(18), Counter()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.clients, self.silent = [], []

    def run(self):
        """All there is, in any order, until the time is over; at last a message that reads as the end."""
        kinds = [getattr(self, name) for name in dir(self) if name.startswith("some_")]
        end = time.monotonic() + SECONDS
        for kind in kinds:
            kind()
        while time.monotonic() < end:
            self.luck.choice(kinds)()
        for client in self.clients:
            client.close()
        self.send(b"", [])
        print(f"hostile: {dict(self.sent)}", file=sys.stderr, flush=True)

    def send(self, message, fds):
        """One message; where the lane is full, wait until it is not."""
        rights = [(SECOND, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        while True:
            try:
                self.lane.sendmsg([message], rights, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self.sent["full"] += 1
                select.select([], [self.lane], [], 1.0)
            except OSError as error:
                self.sent[os.strerror(error.errno)] += 1
                return
            else:
                self.sent["messages"] += 1
                self.sent["descriptors"] += len(fds)
                return

    def park(self, *fds, until=FOREVER):
        self.send(PARK.pack(len(fds)) + record(until, 0, 3, b"") * len(fds), list(fds))

    def connection(self):
        client = socket.create_connection(self.listener.getsockname())
        self.clients = [*self.clients[-199:], client]
        return client, self.listener.accept()[0]

    def some_wrong_kinds(self):
        ends = os.pipe()
        files = [*ends, os.open(os.devnull, os.O_RDONLY), os.memfd_create("page"), os.dup(2)]
        datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connected.connect(self.listener.getsockname())
        local = socket.socket(socket.AF_UNIX)
        local.bind("")
        local.listen()
        half = socket.socket()  # never connected
        sockets = [*datagrams, connected, local, half, self.listener, self.lane, socket.socket(socket.AF_NETLINK, 3)]
        with select.epoll() as epoll:
            self.park(*files, epoll.fileno(), *(sock.fileno() for sock in sockets))
        for fd in files:
            os.close(fd)
        for sock in (*datagrams, connected, local, half, sockets[-1]):
            sock.close()

    def some_the_same_again(self):
        _, server = self.connection()
        for _ in range(1000 // 5):  # more messages than a lane holds
            self.park(*[server.fileno()] * 5)
        server.close()

    def some_bombs(self):
        """Sockets whose last close would reset, or would wait for a client that does not read: this one never will."""
        for linger in ((1, 0), (1, 1000)):
            _, server = self.connection()
            server.setsockopt(SECOND, socket.SO_LINGER, struct.pack("ii", *linger))
            server.setsockopt(SECOND, socket.SO_RCVLOWAT, 1 << 20)
            server.setblocking(False)
            if len(self.silent) < 6:
                self.silent.append(self.clients.pop())
                server.send(bytes(1 << 22))
            server.setblocking(True)
            self.park(server.fileno(), until=0.0)
            server.close()

    def some_that_speak(self):
        client, server = self.connection()
        client.sendall(b"GET / HTTP/1.1\r\nHost: hostile\r\n\r\n")
        self.park(server.fileno())
        server.close()

    def some_rubbish(self):
        _, server = self.connection()
        right = [server.fileno()]
        for message in (b"?", b"\xff" * 5000, self.luck.randbytes(200), PARK.pack(65535), PARK.pack(0)):
            self.send(message, right)
        server.close()

    def some_wrong_counts(self):
        pairs = [self.connection()[1] for _ in range(3)]
        fds = [server.fileno() for server in pairs]
        one = record(FOREVER, 65535, 3, bytes(MAX_MEMO))
        self.send(PARK.pack(MOST) + one * MOST, fds[:1])
        self.send(PARK.pack(1) + one, fds)
        self.send(PARK.pack(2) + one, fds)
        self.send(PARK.pack(1) + record(float("nan"), 0, 3, b""), [])
        self.send(PARK.pack(1) + record(FOREVER, 0, 0, b""), fds)
        self.send(PARK.pack(1) + one, [fds[0]] * 253)  # as many as the kernel lets through
        for server in pairs:
            server.close()
