"""Serving on asyncio and uvloop, over a real line: what is taken, what is reported, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop
from attrs import Factory, define

from rrmaster.protocol import wire
from rrmaster.worker import api, stacks
from rrmaster.worker.api import current_worker
from rrmaster.worker.duty import BATCH
from rrmaster.worker.load import descriptors as module
from rrmaster.worker.load.descriptors import RESERVE
from rrmaster.worker.serving.asyncio_worker import AsyncioWorker, tasks_of
from rrmaster.worker.serving.on_asyncio import Handler, StreamServer
from tests.fakes import DEADLINE
from tests.worker.test_duty import Master, on_duty

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {"asyncio": None, "uvloop": uvloop.new_event_loop}


@define(eq=False)
class Stage:
    """A worker that serves a handler, and the master's end of its line."""

    master: Master
    service: AsyncioWorker
    running: asyncio.Task[None]
    messages: list[wire.Up] = Factory(list)

    async def heard(self, wanted: Callable[[wire.Up], bool]) -> wire.Up:
        """Wait until the worker has sent a message that is wanted."""
        async with asyncio.timeout(DEADLINE):
            while True:
                self.messages += self.master.heard()
                for message in self.messages:
                    if wanted(message):
                        self.messages.clear()
                        return message
                await asyncio.sleep(0.001)

    async def report(self, **counts: int | bool) -> wire.Report:
        """Wait for a report with these counts."""

        def fits(message: wire.Up) -> bool:
            return isinstance(message, wire.Report) and all(getattr(message, n) == v for n, v in counts.items())

        found = await self.heard(fits)
        assert isinstance(found, wire.Report)
        return found

    async def over(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.running

    async def ask(self, client: socket.socket, question: bytes) -> bytes:
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE):
            await loop.sock_sendall(client, question)
            return await loop.sock_recv(client, 1000)


@contextmanager
def as_worker() -> Iterator[None]:
    """Run the block in a process that is a worker; restores its signal handlers."""
    before, handlers = api._current, {number: signal.getsignal(number) for number in (15, stacks.DUMP_SIGNAL)}
    try:
        yield
    finally:
        api._current = before
        for number, handler in handlers.items():
            signal.signal(number, handler)


def play(
    loop: str, handler: Handler, act: Callable[[Stage], Awaitable[None]], heartbeat: float = 3600.0, **more: Any
) -> None:
    """Serve the handler while `act` runs."""

    async def main() -> None:
        service = AsyncioWorker(duty, lambda _: StreamServer(handler, duty), **more)
        stage = Stage(master, service, asyncio.get_running_loop().create_task(service.run()))
        await stage.heard(lambda message: isinstance(message, wire.Ready))
        try:
            await act(stage)
        finally:
            stage.running.cancel()
            await asyncio.wait([stage.running])

    with (
        as_worker(),
        on_duty(heartbeat=heartbeat) as (master, duty),
        asyncio.Runner(loop_factory=LOOPS[loop]) as runner,
    ):
        runner.run(main())


on_both_loops = pytest.mark.parametrize("loop", LOOPS)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        if data == b"break":
            raise ZeroDivisionError("the application's fault")
        writer.write(data)
        await writer.drain()


@on_both_loops
def test_a_connection_is_served_and_closed_and_counted(loop: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def act(stage: Stage) -> None:
        stage.master.hand(3)
        stage.master.hand(1, probe=True)
        broken, other, _, probe = stage.master.clients
        await stage.report(busy=3, closed=0, asides=1)
        assert await stage.ask(broken, b"break") == b"", "an error costs its connection alone"
        assert await stage.ask(other, b"hello") == b"hello"
        assert await stage.ask(probe, b"are you well?") == b"are you well?"
        assert (await stage.report(closed=1)).requests == 1
        other.close()
        probe.close()
        await stage.report(closed=2, busy=1)
        assert [connection.fileno() >= 0 for connection in stage.service.connections] == [True]

    play(loop, echo, act)
    assert "the application's fault" in capsys.readouterr().err


@on_both_loops
def test_a_client_that_leaves_is_no_error_but_a_database_that_leaves_is_one(
    loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def unheard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"unread, so that it is a reset")
        async with asyncio.TaskGroup() as group:
            group.create_task(reader.read(1))

    async def asks_database(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        near, far = socket.socketpair()
        near.send(b"SELECT 1")
        far.close()
        database, to_database = await asyncio.open_unix_connection(sock=near)
        try:
            await database.read(7)
        finally:
            to_database.close()

    async def act(stage: Stage) -> None:
        stage.master.hand(1)
        await stage.report(busy=1)
        stage.master.clients[0].close()
        await stage.report(closed=1)

    for handler in (unheard, asks_database):
        play(loop, handler, act)
        told = capsys.readouterr().err
        assert ("Error" in told) == (handler is asks_database), told


@on_both_loops
def test_a_drain_waits_for_connections_in_progress(loop: str) -> None:
    async def act(stage: Stage) -> None:
        stage.master.hand(2)
        stage.master.line.half_close()
        async with asyncio.timeout(DEADLINE):
            await current_worker().draining.wait()
        for client in stage.master.clients:
            assert not stage.running.done()
            assert await stage.ask(client, b"still there?") == b"still there?"
            client.close()
        await stage.over()
        await stage.report(closed=2)

    play(loop, echo, act)


@on_both_loops
def test_a_drain_with_nothing_to_do_ends_at_once(loop: str) -> None:
    async def act(stage: Stage) -> None:
        stage.master.line.close()  # as when the master dies
        await stage.over()

    play(loop, echo, act)


@on_both_loops
def test_an_idle_worker_still_sends_heartbeats(loop: str) -> None:
    async def act(stage: Stage) -> None:
        for _ in range(3):
            assert (await stage.report()).rss > 0

    play(loop, echo, act, heartbeat=0.01)


@on_both_loops
def test_a_first_signal_asks_for_a_replacement_and_a_second_one_ends_it(loop: str) -> None:
    async def act(stage: Stage) -> None:
        stage.master.hand()
        (client,) = stage.master.clients
        assert await stage.ask(client, b"hello") == b"hello"
        os.kill(os.getpid(), signal.SIGTERM)
        await stage.heard(lambda message: message == wire.Retiring("SIGTERM"))
        assert await stage.ask(client, b"still serving") == b"still serving"
        os.kill(os.getpid(), signal.SIGTERM)
        await stage.over()
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.get_running_loop().sock_recv(client, 10) == b""

    play(loop, echo, act)


@on_both_loops
def test_a_thread_of_the_application_may_ask_for_a_pause(loop: str) -> None:
    async def act(stage: Stage) -> None:
        await asyncio.to_thread(current_worker().set_ready, False)
        await stage.report(taking=False)
        await asyncio.to_thread(current_worker().set_ready, True)
        await stage.report(taking=True)

    play(loop, echo, act)
    assert threading.active_count() < 50


@on_both_loops
def test_a_worker_short_of_descriptors_pauses_and_resumes_by_itself(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [1_000_000]
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (seen[0], seen[0]))

    async def act(stage: Stage) -> None:
        seen[0] = RESERVE
        stage.service.duty.beat()
        stage.master.hand(2)
        await stage.report(taking=False)
        assert stage.master.line.unclaimed() >= 1, "one may have been taken before; the other is not touched"
        seen[0] = 1_000_000
        await stage.report(taking=True, busy=2)
        assert stage.master.line.unclaimed() == 0

    play(loop, echo, act)


@define
class Clock:
    """The clock of an `AsyncioWorker`."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@on_both_loops
@pytest.mark.parametrize(("slow", "batches"), [(None, [1, 2, 4, BATCH, BATCH, BATCH]), (11, [1, 2, 4, BATCH, 1, 2, 4])])
def test_the_batch_doubles_while_connections_begin_quickly(loop: str, slow: int | None, batches: list[int]) -> None:
    """And falls to 1 when a handler blocks: a connection that is taken cannot be recalled."""
    clock, left = Clock(), list[int]()

    async def sometimes_slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(stages[0].master.line.unclaimed())
        if len(left) == slow:
            clock.now += 0.050

    stages: list[Stage] = []

    async def act(stage: Stage) -> None:
        stages.append(stage)
        stage.master.hand(sum(batches))
        await stage.report(closed=sum(batches))

    play(loop, sometimes_slow, act, clock=clock)
    seen = [sum(batches) - count for count in left]
    sizes = [taken - before for before, taken in zip([0, *sorted(set(seen))], sorted(set(seen)), strict=False)]
    assert sizes == batches


@on_both_loops
def test_the_lines_where_tasks_wait_are_listed(loop: str) -> None:
    async def act(stage: Stage) -> None:
        stage.master.hand()
        await stage.report(busy=1)
        told = "\n".join(tasks_of(asyncio.get_running_loop()))
        assert "test_on_asyncio.py" in told
        assert " in echo" in told

    play(loop, echo, act)
