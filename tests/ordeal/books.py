"""The books of a storm: every connection by name, and how it has ended."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import trio
from attrs import Factory, define

from rrmaster.status.model import Snapshot

PATIENCE_S = 30.0
"""Seconds after which a request has hung."""

ANSWER = re.compile(rb"(?s)HTTP/1.1 200.*?\r\n\r\n")


class Cut(Exception):
    """The connection has ended, and the server has not said that it would."""


@define(eq=False)
class Connection:
    """One connection, as its client knows it."""

    stream: trio.SocketStream
    port: int
    asks: bool = False
    over: bool = False
    """Its client has closed it, as was agreed."""
    cut: str = ""
    """How its client has seen it end: in a request, or between two."""
    holder: str = ""
    """Whose death it was."""
    seen: str = ""
    """When its client has seen it end."""

    async def ask(self, path: str) -> bool:
        """One request; whether the server keeps the connection.  Raises Cut."""
        body = b"y" * 5000 if path == "/body" else b""
        head = b"%b %b HTTP/1.1\r\nHost: storm\r\nContent-Length: %d\r\n\r\n"
        self.asks = True
        try:
            await self.stream.send_all(head % (b"POST" if body else b"GET", path.encode(), len(body)) + body)
            data = b""
            while (found := ANSWER.match(data)) is None or len(data) < found.end() + _length(found[0]):
                if not (more := bytes(await self.stream.receive_some())):
                    raise Cut
                data += more
        except (trio.BrokenResourceError, OSError):
            raise Cut from None
        self.asks = False
        return b"connection: close" not in found[0].lower()

    def has_ended(self) -> bool:
        """Whether the server has ended it while nothing was asked."""
        try:
            return not _peek(self.stream.socket.fileno())
        except BlockingIOError:
            return False
        except OSError:
            return True


def now() -> str:
    """As the master's log tells it."""
    at = time.time()
    return time.strftime("%H:%M:%S", time.gmtime(at)) + f"{at % 1:.3f}"[1:]


def _length(head: bytes) -> int:
    match = re.search(rb"(?i)content-length: (\d+)", head)
    assert match, head
    return int(match[1])


def _peek(fd: int) -> bytes:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)


@define(eq=False)
class Gate:
    """Open while clients may close connections."""

    shut: int = 0
    _changed: trio.Event = Factory(trio.Event)

    async def passed(self) -> None:
        """Wait until it is open."""
        while self.shut:
            await self._changed.wait()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Let no client close its connection meanwhile."""
        self.shut += 1
        try:
            yield
        finally:
            self.shut -= 1
            self._changed.set()
            self._changed = trio.Event()


@define(eq=False)
class Books:
    """All connections."""

    port: int
    gate: Gate = Factory(Gate)
    all: list[Connection] = Factory(list)
    by_port: dict[int, Connection] = Factory(dict)
    """The newest of each port of the clients."""
    unborn: dict[int, str] = Factory(dict)
    """By port, who has died with a connection of which its client does not know yet that it is made."""
    ending: bool = False
    """No more is asked."""
    refused: int = 0
    hung: int = 0
    answered: int = 0
    faults: list[str] = Factory(list)
    deaths: list[str] = Factory(list)
    """When, of which kind, and how many were in its hands then."""
    troubles: Counter[str] = Factory(Counter)

    async def open(self) -> Connection | None:
        """A new connection; None: it was refused."""
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        except OSError:
            self.refused += 1
            return None
        port = stream.socket.getsockname()[1]
        connection = Connection(stream, port, holder=self.unborn.pop(port, ""))
        self.all.append(connection)
        self.by_port[connection.port] = connection
        return connection

    async def ask(self, connection: Connection, path: str) -> bool:
        """One request; whether the connection goes on."""
        try:
            if connection.has_ended():
                raise Cut
            with trio.fail_after(PATIENCE_S):
                kept = await connection.ask(path)
            self.answered += 1
        except Cut:
            connection.cut = "in a request" if connection.asks else "between two"
            connection.seen = now()
        except trio.TooSlowError:
            self.hung += 1
        else:
            if kept:
                return True
            await self.close(connection, keeps=False)
            return False
        connection.stream.socket.close()
        return False

    async def close(self, connection: Connection, keeps: bool = True) -> None:
        """Close it, as soon as no kill is prepared."""
        await self.gate.passed()
        if connection.has_ended() and keeps:
            connection.cut, connection.seen = "between two", now()
        else:
            connection.over = True
        connection.stream.socket.close()

    def end(self) -> None:
        """Ask nothing more."""
        self.ending = True

    def died(self, ports: Iterable[int], holder: str) -> None:
        """These were in dead hands."""
        ports = list(ports)
        self.deaths.append(f"{now()}: {len(ports)} in the hands of a dead {holder}")
        for port in ports:
            connection = self.by_port.get(port)
            if connection is None or connection.over:
                self.unborn[port] = holder
                continue
            if connection.holder:
                self.faults.append(f"{port} was in the hands of a dead {connection.holder} already")
            connection.holder = holder

    def judge(self, master: Snapshot, log: str) -> list[str]:
        """What is wrong, in words."""
        wrong = list(self.faults)
        for one in self.all:
            if bool(one.cut) != bool(one.holder):
                was = f"cut {one.cut} at {one.seen}" if one.cut else "closed by its client" if one.over else "well"
                wrong.append(f"port {one.port}: {was}, and in the hands of a dead {one.holder or 'none'}")
        kinds = Counter(one.holder for one in self.all if one.holder)
        assert master.pool is not None or not kinds["pool"]
        cut, lost = (master.pool.cut, master.pool.lost) if master.pool is not None else (0, 0)
        said = sum(map(int, re.findall(r"had (\d+) connections? in its hands", log)))
        said_cut = sum(map(int, re.findall(r"(\d+) connections? that rested", log)))
        for what, ours, theirs in (
            ("in dead workers' hands", kinds["worker"], master.lost),
            ("in dead pools' hands", kinds["pool"], cut),
            ("lost, by the log", kinds["worker"], said),
            ("cut with a pool, by the log", kinds["pool"], said_cut),
            ("accepted", len(self.all), master.accepted),
            ("refused", 0, self.refused),
            ("hung", 0, self.hung),
            ("lost on their way", 0, lost),
        ):
            if ours != theirs:
                wrong.append(
                    f"{what}: {ours}, and the master says {theirs}" if what != "refused" else f"{theirs} {what}"
                )
        return wrong

    def is_over(self, port: int) -> bool:
        """Whether a client has closed this connection."""
        return port in self.by_port and self.by_port[port].over

    def line(self, master: Snapshot) -> str:
        """The figures."""
        kinds = Counter((one.holder, one.cut) for one in self.all if one.holder or one.cut)
        pool = master.pool
        return (
            f"{len(self.all)} connections, {self.answered} answers; "
            + ", ".join(f"{n} cut {cut} by the death of a {holder}" for (holder, cut), n in sorted(kinds.items()))
            + f"; the master: lost {master.lost}, cut {pool.cut if pool else 0}, parked {pool.parked if pool else 0}"
        )
