"""A control server that runs in the test, with a fake master behind it and clients in front of it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import Factory, define, evolve

from rrmaster.config.presentation import CommandLine
from rrmaster.config.settings import Settings
from rrmaster.control.server import ControlServer
from rrmaster.control.socket_paths import ControlSocket
from rrmaster.logs.log import Entry
from rrmaster.rules.plan import Goal
from rrmaster.rules.rollout import Rollout, Trial
from rrmaster.status.model import Snapshot
from rrmaster.supervision.reload_progress import Busy, Reload
from tests.fakes import DEADLINE

UID = os.geteuid()

EMPTY = Snapshot("shop", 1, "0", "a:b", "least-loaded", 0.0, 0.0, 4, 1, 0, 0, 0, 0, 0, 0)


@define(eq=False, slots=False)
class FakeOperator:
    """A master that remembers the requests, and does nothing."""

    asked: list[object] = Factory(list)
    snapshot: Snapshot = EMPTY
    settings: Settings = Factory(lambda: Settings("shop:app", workers="2:8"))
    reload: Reload = Factory(lambda: Reload(Rollout(2, Goal(2, surge=2), Trial(2.0, 2.0, 600.0), 0.0, 2)))
    busy: bool = False
    broken: bool = False
    stopping: trio.Event = Factory(trio.Event)

    def status(self) -> Snapshot:
        if self.broken:
            raise RuntimeError("a bug")
        return self.snapshot

    def scale(self, size: int) -> None:
        self.asked.append(("scale", size))
        self.snapshot = evolve(self.snapshot, size=size)

    def automatic_size(self) -> int:
        return 7

    def begin_reload(self, supersede: bool = False) -> Reload:
        if self.busy and not supersede:
            raise Busy("a reload runs already: soaking")
        return self.reload

    def restart(self, slot: int) -> None:
        if slot > 3:
            raise LookupError(f"no worker serves in slot {slot}")
        self.asked.append(("restart", slot))

    def retire(self, slot: int) -> None:
        self.asked.append(("retire", slot))

    def stacks(self, slot: int) -> None:
        self.asked.append(("stacks", slot))

    async def stop(self) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append("stop")
        self.stopping.set()

    def hurry(self, graceful: float = 0.0) -> None:
        self.asked.append("hurry")


@define(eq=False)
class FakeClient:
    """A client that a test drives."""

    stream: trio.SocketStream
    _unread: bytes = b""

    async def send(self, **request: Any) -> None:
        await self.stream.send_all(json.dumps(request).encode() + b"\n")

    async def line(self) -> dict[str, Any] | None:
        """The next line of an answer; None if the master has closed the connection."""
        with trio.fail_after(100):
            while b"\n" not in self._unread:
                data = await self.stream.receive_some()
                if not data:
                    return None
                self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def answer(self) -> list[dict[str, Any]]:
        """All lines of one answer."""
        lines: list[dict[str, Any]] = []
        while not lines or "status" not in lines[-1]:
            line = await self.line()
            assert line is not None, lines
            lines.append(line)
        return lines


@define(eq=False)
class Served:
    """A running control server, and its clients."""

    server: ControlServer
    operator: FakeOperator
    control_socket: ControlSocket
    nursery: trio.Nursery
    clients: list[FakeClient] = Factory(list)

    async def connect(self, **request: Any) -> FakeClient:
        """Connect one more client, and send its first request.  The server has seen it when this returns."""
        connections = len(self.clients) + 1
        client = FakeClient(await trio.open_unix_socket(os.fspath(self.control_socket.path)))
        self.clients.append(client)
        await self.until(lambda: self.server.connections == connections)
        if request:
            await client.send(**request)
        return client

    async def follow(self, **request: Any) -> FakeClient:
        """Connect a client that follows new entries."""
        before = self.server.log.followers
        client = await self.connect(follow=True, **request)
        await self.until(lambda: self.server.log.followers == before + 1)
        return client

    async def ask(self, **request: Any) -> list[dict[str, Any]]:
        """All lines of the answer to one request, on a connection of its own."""
        client = await self.connect(**request)
        lines = await client.answer()
        await client.stream.aclose()
        return lines

    async def end_of(self, **request: Any) -> dict[str, Any]:
        return (await self.ask(**request))[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, on the clock of the test."""
        with trio.fail_after(DEADLINE):
            while not condition():
                await trio.sleep(0.001)

    def log(self, text: str, event: str = "worker.exited", **fields: object) -> None:
        self.server.log.record(Entry(1.0, "info", event, text, fields))

    def prints(self, slot: int, text: str, stream: str = "stderr") -> None:
        self.log(text, "worker.output", slot=slot, pid=100 + slot, generation=1, stream=stream)


@asynccontextmanager
async def serving(tmp_path: Path, uid: int = UID, command_line: CommandLine | None = None) -> AsyncIterator[Served]:
    operator = FakeOperator()
    control_socket = ControlSocket.claim(tmp_path / "control.sock")
    async with _closing(control_socket), trio.open_nursery() as nursery:
        server = ControlServer(operator, control_socket.socket, uid, command_line=command_line)
        served = Served(server, operator, control_socket, nursery)
        nursery.start_soon(server.serve)
        try:
            yield served
        finally:
            nursery.cancel_scope.cancel()
            for client in served.clients:
                client.stream.socket.close()


@asynccontextmanager
async def _closing(control_socket: ControlSocket) -> AsyncIterator[None]:
    try:
        yield
    finally:
        control_socket.close()
