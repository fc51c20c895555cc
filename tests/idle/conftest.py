"""A real idle pool, with the test in the place of its master, of workers and of clients."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from attrs import Factory, define

from rrmaster.processes.process import package_root
from rrmaster.protocol.parking.lane import COUNTS, ENDED, LANE, ORDER, PAGE, PARK, RETURN, record

PATIENCE = 20.0
"""Seconds until a wait fails."""

LONG = 3600.0


@define(eq=False)
class Pool:
    """A real pool, with this test in the place of its master, of workers and of clients."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    page: int
    listener: socket.socket
    sockets: list[socket.socket] = Factory(list)
    ended: list[tuple[int, ...]] = Factory(list)
    """What it has told of lanes that have ended: the worker's number, and how many it has taken."""

    def count(self, name: str) -> int:
        return int(struct.unpack(f"{len(COUNTS)}Q", os.pread(self.page, PAGE, 0))[COUNTS.index(name)])

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            counted = {name: self.count(name) for name in COUNTS}
            assert time.monotonic() < deadline, counted
            assert self.process.poll() is None
            time.sleep(0.005)

    def counted(self, **counts: int) -> None:
        """Wait until it has counted exactly this."""
        self.until(lambda: all(self.count(name) == count for name, count in counts.items()))

    def lane(self) -> socket.socket:
        """A worker's end of a new lane."""
        its_end, pools_end = self._pair()
        socket.send_fds(self.line, [ORDER.pack(LANE, 1)], [pools_end.fileno()])
        pools_end.close()
        return its_end

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sockets += pair
        return pair

    def connection(self) -> tuple[socket.socket, socket.socket]:
        """A client, and the server's end of its connection."""
        client = socket.create_connection(self.listener.getsockname())
        client.settimeout(PATIENCE)
        server, _ = self.listener.accept()
        self.sockets += (client, server)
        return client, server

    def park(
        self, lane: socket.socket, *servers: socket.socket, rest: float = LONG, wakes: int = 3, memo: bytes = b"memo"
    ) -> None:
        """Park these, in one message, and close them here, as a worker does."""
        records = b"".join(record(time.monotonic() + rest, 7, wakes, memo) for _ in servers)
        socket.send_fds(lane, [PARK.pack(len(servers)) + records], [server.fileno() for server in servers])
        for server in servers:
            server.close()

    def returned(self) -> tuple[int, bytes, socket.socket]:
        """The next connection that comes back: its listener, its memo, and the socket."""
        data, fds, _, _ = socket.recv_fds(self.line, 500, 4)
        while len(data) == ENDED.size and not fds:
            self.ended.append(ENDED.unpack(data))
            data, fds, _, _ = socket.recv_fds(self.line, 500, 4)
        listener, family = RETURN.unpack_from(data)
        assert len(fds) == 1
        back = socket.socket(fileno=fds[0])
        self.sockets.append(back)
        assert back.family == family
        return listener, data[RETURN.size :], back


@pytest.fixture
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    line, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.settimeout(PATIENCE)
    page = os.memfd_create("page")
    os.ftruncate(page, PAGE)
    most = getattr(request, "param", 1000)
    numbers = [str(number) for number in (its_end.fileno(), page, most)]
    command = [sys.executable, "-S", "-E", "-s", "-B", "-m", "rrmaster.idle", *numbers]
    process = subprocess.Popen(command, pass_fds=(its_end.fileno(), page), cwd=package_root())
    its_end.close()
    with socket.create_server(("127.0.0.1", 0), backlog=1100) as listener:
        pool = Pool(process, line, page, listener)
        try:
            yield pool
        finally:
            line.close()
            assert process.wait(PATIENCE) == 0
            for sock in pool.sockets:
                sock.close()
            os.close(page)
