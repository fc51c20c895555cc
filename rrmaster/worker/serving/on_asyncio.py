"""Serve on asyncio or uvloop: take connections, and let something begin them.

What begins a connection is a `Server`: here the one for ``async def handler(reader, writer)``, in `on_uvicorn` the one
for ASGI.  A connection is over when its socket is closed (see `Connection`), whoever closes it, so no server has to
say so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from types import FrameType
from typing import Any, Protocol

from attrs import Factory, define

from ...protocol.channel import HungUp
from ...protocol.launch import Launch
from ...protocol.wire import REPORT_AFTER
from ..api import become_worker
from ..connection import Connection as Connection  # on_uvicorn finds it here
from ..connection import is_disconnect, socket_of
from ..duty import BATCH, BUSY_AFTER, FULL_TABLE_S, QUICK, Duty, Taken
from ..intake import CLOSE_NOTIFY_S, FIRST_BYTE_S, HANDSHAKE_S, HEADER_S, Intake, Refused
from ..loading import Application
from ..stacks import DUMP_SIGNAL, MAX_TASK_LINES, dump_tasks_at

BEGIN = 5
"""Turns of the loop after a batch, in which what was taken can begin: one for the task that makes its transport, one
for the transport, one that reads, one for the task of the request, and one in which it answers if it does at once."""

PARTING = 1.0
"""Seconds that cancelled tasks have to clean up when the worker is to end now."""

_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
"""Its own frames say nothing of the application."""


class Server(Protocol):
    """What serves connections."""

    async def start(self) -> None:
        """Get ready to serve.  Raises CannotLoad if that is impossible."""

    def begin(self, connection: Connection, taken: Taken) -> None:
        """Serve a connection, which is the server's now: it closes it, whatever happens."""

    def drain(self) -> None:
        """There will be no more connections: let those that are open end soon."""

    def is_done(self) -> bool:
        """Once no connection is open: whether nothing else is left to do.  If it is not, `finished` is called later."""

    def abort(self) -> Iterable[asyncio.Task[Any]]:
        """End everything now.  The tasks that were cancelled for it."""

    async def end(self) -> None:
        """Nothing is left to serve."""


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve an ``async def handler(reader, writer)``."""
    run_server(lambda service: Streams(application.target, Intake.of(duty, launch)), duty, launch)


def run_server(make: Callable[[Service], Server], duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and what was taken is done.  Raises CannotLoad before it is ready."""
    with asyncio.Runner(loop_factory=_loop_factory(launch.runtime)) as runner:
        if runner.run(_serve(make, duty)) and threading.active_count() > len(_daemons()):
            # It was told to end now, and a thread of the application does not know.  The interpreter would wait for it.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def _daemons() -> list[threading.Thread]:
    """The threads that the interpreter does not wait for, and the one that ends."""
    return [thread for thread in threading.enumerate() if thread.daemon or thread is threading.main_thread()]


async def _serve(make: Callable[[Service], Server], duty: Duty) -> bool:
    """Serve to the end.  Whether that came by force."""
    service = Service(duty)
    service.server = make(service)
    await service.run()
    return service.aborted.is_set()


def _loop_factory(runtime: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if runtime != "uvloop":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@define(eq=False)
class Service:
    """What the loop does beside serving: it takes, reports, beats and minds signals."""

    duty: Duty
    server: Server = Factory(lambda: Streams(_nobody))
    draining: asyncio.Event = Factory(asyncio.Event)
    clock: Callable[[], float] = time.monotonic  # uvloop's own is a millisecond coarse, which is as much as QUICK
    loop: asyncio.AbstractEventLoop = Factory(asyncio.get_running_loop)
    connections: set[Connection] = Factory(set)
    """Those that are open, probes too."""
    _batch: int = 1
    _beginning: bool = False
    """A batch has been taken, and has not had its turns yet."""
    _asked: bool = False
    _beat_at: float = 0.0
    _thread: int = Factory(threading.get_ident)
    over: asyncio.Event = Factory(asyncio.Event)
    """Nothing is left to serve."""
    aborted: asyncio.Event = Factory(asyncio.Event)
    """It is to end now."""

    async def run(self) -> None:
        """Serve until the last connection is done."""
        loop, duty = self.loop, self.duty
        dump_tasks_at(DUMP_SIGNAL, lambda: tasks_of(loop))
        duty.wake, duty.on_requests_changed = self._wake, self._stir
        become_worker(duty, self.draining, Waiter())
        await self.server.start()  # a signal in the meantime ends it, as any program
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        self._beat_at = self.clock() + duty.heartbeat
        loop.call_later(duty.heartbeat, self._beat)
        duty.ready()
        loop.add_reader(duty.letterbox.fileno(), self._readable)
        if await self._unless_aborted(self.over.wait()):
            await self._unless_aborted(self.server.end())
        if self.aborted.is_set() and (cancelled := list(self.server.abort())):
            await asyncio.wait(cancelled, timeout=PARTING)
        duty.report()

    async def _unless_aborted(self, coroutine: Coroutine[Any, Any, object]) -> bool:
        """Do it, and give it up when we are to end now.  Whether it was done."""
        doing, aborted = self.loop.create_task(coroutine), self.loop.create_task(self.aborted.wait())
        await asyncio.wait((doing, aborted), return_when=asyncio.FIRST_COMPLETED)
        aborted.cancel()
        if not doing.done():
            doing.cancel()
            return False
        doing.result()
        return not self.aborted.is_set()

    # --- taking

    def _readable(self) -> None:
        # Called in every turn while something waits, also while a batch begins.
        if not self._beginning:
            self._take()

    def _take(self) -> None:
        """Take a few, let them begin, and only then the next: what is in our hands dies with us.

        While they begin quickly the batch doubles, for a turn of the loop costs more than a connection; when one does
        not, it falls to one.
        """
        duty, began, count = self.duty, self.clock(), 0
        try:
            while count < self._batch and (taken := duty.take()) is not None:
                self._serve_one(taken)
                count += 1
        except HungUp:
            self._drain()
        if count:
            self._beginning = True
            self.loop.call_soon(self._begun, began, count, BEGIN)
        elif not duty.has_descriptors:
            self.loop.remove_reader(duty.letterbox.fileno())
            self.loop.call_later(FULL_TABLE_S, self._look_again)

    def _begun(self, began: float, count: int, turns: int) -> None:
        if turns > 1:
            self.loop.call_soon(self._begun, began, count, turns - 1)
            return
        quick = self.clock() - began < QUICK * count
        self._batch = min(2 * self._batch, BATCH) if quick else 1
        self._beginning = False
        if not self.draining.is_set():
            self._take()

    def _look_again(self) -> None:
        self.duty.beat()
        if not self.draining.is_set():
            self.loop.add_reader(self.duty.letterbox.fileno(), self._readable)

    def _serve_one(self, taken: Taken) -> None:
        self.server.begin(self.adopt(taken), taken)

    def adopt(self, taken: Taken) -> Connection:
        """The connection, which counts as open until it is closed."""
        connection = socket_of(taken, Connection)
        connection.setblocking(False)
        connection.on_close = lambda: self._closed(connection, taken)
        self.connections.add(connection)
        return connection

    def _closed(self, connection: Connection, taken: Taken) -> None:
        self.connections.discard(connection)
        self.duty.finished(taken)
        self.finished()

    def _drain(self) -> None:
        self.loop.remove_reader(self.duty.letterbox.fileno())
        self.draining.set()
        self.server.drain()
        self.finished()

    def finished(self) -> None:
        """Something has been finished: see whether it was the last."""
        if self.draining.is_set() and not self.connections and self.server.is_done():
            self.over.set()

    # --- speaking

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self.loop.call_later(REPORT_AFTER, self._report)
        else:  # an application that asks for a pause from one of its threads
            self.loop.call_soon_threadsafe(self.loop.call_later, REPORT_AFTER, self._report)

    def _stir(self) -> None:
        self.loop.call_later(BUSY_AFTER, self.duty.report_busy)

    def _report(self) -> None:
        self.duty.report()
        if self.duty.report_due:  # the line was full
            self.loop.call_later(REPORT_AFTER, self._report)

    def _beat(self) -> None:
        duty, now = self.duty, self.clock()
        duty.lag = max(duty.lag, now - self._beat_at)
        duty.beat()
        self._beat_at = now + duty.heartbeat
        self.loop.call_later(duty.heartbeat, self._beat)

    # --- signals

    def _signalled(self, number: int) -> None:
        """SIGTERM and SIGINT: ask to be replaced.  Once draining, or said twice: end now."""
        if self._asked or self.draining.is_set():
            self.loop.remove_reader(self.duty.letterbox.fileno())
            self.draining.set()
            self.aborted.set()
        self._asked = True
        self.duty.retire(signal.Signals(number).name)


def tasks_of(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """The tasks of a loop, each with where it stands."""
    yield "Tasks of asyncio:"
    lines = 0
    for task in asyncio.all_tasks(loop):
        if lines > MAX_TASK_LINES:
            return
        yield f"  {task.get_name()}"
        for frame in _frames(task.get_coro()):
            if not frame.f_code.co_filename.startswith(_ASYNCIO):
                yield f"    {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
                lines += 1
        lines += 1


@define(eq=False)
class Waiter:
    """How one waits on asyncio."""

    lock: Any = Factory(asyncio.Lock)

    async def wait_readable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        await _until(fd, loop.add_reader, loop.remove_reader)

    async def wait_writable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        await _until(fd, loop.add_writer, loop.remove_writer)

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)


async def _until(fd: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready = asyncio.get_running_loop().create_future()
    add(fd, _settle, ready)
    try:
        await ready
    finally:
        remove(fd)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _frames(waiting: Any) -> Iterator[FrameType]:
    """From a coroutine to what it awaits in the end.  `Task.get_stack` has only the first of them."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is not None:
            yield frame
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


# --- the way to a protocol


async def admit(
    make: Callable[[], asyncio.BaseProtocol], connection: Connection, taken: Taken, intake: Intake | None
) -> asyncio.WriteTransport | None:
    """Give a connection to a protocol once it has passed what it has to; None: it did not, and is closed."""
    loop, peer, secure = asyncio.get_running_loop(), None, {}
    try:
        if intake is not None and not taken.probe:
            peer = connection.getpeername()
            if intake.versions:
                readable = partial(_until, connection.fileno(), loop.add_reader, loop.remove_reader)
                async with asyncio.timeout(HEADER_S):
                    await intake.read_header(connection, peer, taken, readable)
            if intake.context is not None:
                secure = _secure(intake.context)
        transport, _ = await loop.connect_accepted_socket(make, connection, **secure)
    except (Refused, OSError) as error:
        if intake is not None:
            intake.report_refusal(error, taken, peer)
        connection.close()  # if whoever had it last has not done so
        return None
    except BaseException:
        connection.close()
        raise
    return transport


def _secure(context: ssl.SSLContext) -> dict[str, Any]:
    return {"ssl": context, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": CLOSE_NOTIFY_S}


# --- streams


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


async def _nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves nothing."""


@define(eq=False)
class Streams:
    """Serves ``async def handler(reader, writer)``: one task for each connection, and what it raises stays in it."""

    handler: Handler
    intake: Intake | None = None
    _arriving: set[asyncio.Task[Any]] = Factory(set)
    """Of connections that no handler has yet."""
    _tasks: set[asyncio.Task[None]] = Factory(set)

    async def start(self) -> None:
        """Nothing is to be done."""

    def begin(self, connection: Connection, taken: Taken) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(connection, taken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: Connection, taken: Taken) -> None:
        writer: asyncio.StreamWriter | None = None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport = await self._admit(protocol, connection, taken)
            if transport is not None:
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                await self.handler(reader, writer)
        except Exception as error:
            # The application's fault, and only this connection's affair; but a client may leave as it likes.
            if not is_disconnect(error, OSError, lambda owner: any(owner is one for one in (reader, writer, protocol))):
                traceback.print_exc()
        finally:
            if writer is not None:
                writer.close()
            else:
                connection.close()

    async def _admit(
        self, protocol: asyncio.StreamReaderProtocol, connection: Connection, taken: Taken
    ) -> asyncio.WriteTransport | None:
        task = asyncio.current_task()
        if self.intake is None or task is None:
            return await admit(lambda: protocol, connection, taken, None)
        self._arriving.add(task)
        try:
            return await admit(lambda: protocol, connection, taken, self.intake)
        finally:
            self._arriving.discard(task)

    def drain(self) -> None:
        """The handlers can see it for themselves, ``current_worker().draining``, if they have begun."""
        asyncio.get_running_loop().call_later(FIRST_BYTE_S, lambda: [task.cancel() for task in self._arriving])

    def is_done(self) -> bool:
        """A handler ends before its connection is closed."""
        return True

    def abort(self) -> Iterable[asyncio.Task[Any]]:
        for task in self._tasks:
            task.cancel()
        return self._tasks

    async def end(self) -> None:
        """Nothing is to be done."""
