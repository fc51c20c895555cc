"""The clients: half of them keep their connections.  No request is tried again."""

from __future__ import annotations

import random
import time

import trio
from attrs import define

from .app import PART, PARTS
from .ledger import PATIENCE_S, Ledger

ORDINARY = ("/", "/", "/", "/slow", "/body", "/long")


class Cut(Exception):
    """The connection ended before its answer was complete."""


@define(eq=False)
class Asker:
    """Asks one master, and notes how it ends."""

    port: int
    ledger: Ledger
    ending: bool = False
    """No more is asked."""

    async def ask(self, path: str, harmful: bool = False) -> int | None:
        """One request over a connection of its own; returns the pid that answered."""
        return await self._noted(path, harmful, None)

    async def keep(self, luck: random.Random) -> None:
        """Ask over a kept connection for as long as it lives, and then over another."""
        while not self.ending:
            kept: list[trio.SocketStream] = []
            try:
                while await self._noted(luck.choice(ORDINARY), False, kept) is not None and kept and not self.ending:
                    await trio.sleep(luck.uniform(0.02, 0.5))
            finally:
                for stream in kept:
                    stream.socket.close()
            await trio.sleep(0.05)

    async def come(self, rate: float, requests: trio.Nursery, luck: random.Random) -> None:
        """Ask so many times a second, each time over a connection of its own."""
        while not self.ending:
            await trio.sleep(luck.expovariate(rate))
            requests.start_soon(self.ask, luck.choice(ORDINARY))

    async def _noted(self, path: str, harmful: bool, kept: list[trio.SocketStream] | None) -> int | None:
        began, pid, end = trio.current_time(), None, "hung"
        with trio.move_on_after(PATIENCE_S):
            try:
                pid = await self._exchange(path, kept)
                end = "answered"
            except (Cut, trio.BrokenResourceError):
                end = "cut"
            except ValueError:
                end = "wrong"
            except OSError as error:
                end = "refused" if isinstance(error, ConnectionRefusedError) or not error.errno else "cut"
        if end != "answered" and not harmful:
            how = "a fresh" if kept is None else "a kept"
            self.ledger.details.append(f"{time.strftime('%X')}: {path} over {how} connection: {end}")
        self.ledger.note(end, trio.current_time() - began, harmful)
        return pid

    async def _exchange(self, path: str, kept: list[trio.SocketStream] | None) -> int:
        stream = kept.pop() if kept else await self._open()
        stays = False
        try:
            await stream.send_all(_request(path, kept is not None))
            pid, stays = await _answer(stream, path)
            return pid
        finally:
            if stays and kept is not None:
                kept.append(stream)
            else:
                stream.socket.close()

    async def _open(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.ledger.opened += 1
        return stream


def _request(path: str, keeps: bool) -> bytes:
    body = b"y" * 5000 if path == "/body" else b""
    close = b"" if keeps else b"Connection: close\r\n"
    method = b"POST" if body else b"GET"
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    return b"%b %b HTTP/1.1\r\nHost: ordeal\r\n%b%b\r\n%b" % (method, path.encode(), close, length, body)


async def _answer(stream: trio.SocketStream, path: str) -> tuple[int, bool]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _more(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    if not lines[0].startswith(b"http/1.1 200"):
        raise ValueError(lines[0])
    length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
    while len(body) < length:
        body += await _more(stream)
    expected = len(PART) * PARTS if path == "/long" else 0
    return int(body[expected:]), b"connection: close" not in lines


async def _more(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some())
    if not data:
        raise Cut
    return data
