"""How does a worker on asyncio or uvloop take connections, report and end?

`AsyncioWorker` takes connections from the letterbox and passes each to a `ConnectionServer`: the one in `on_asyncio`
for ``async def handler(reader, writer)``, the one in `on_uvicorn` for ASGI.  A connection is over when its socket is
closed (see `Connection`), by any code, so no server has to report it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from types import FrameType
from typing import Any, Protocol

from attrs import Factory, define, field

from ...protocol.channel import HungUp
from ...protocol.family.children import note_handlers
from ...protocol.launch import Launch
from ...protocol.wire import REPORT_AFTER
from ..api import become_worker
from ..connection import Connection, socket_of
from ..duty import BATCH, BUSY_AFTER, FULL_TABLE_S, QUICK, Duty, Taken
from ..ending.descendants import end_descendants
from ..load.anyio_threads import AnyioThreads
from ..stacks import DUMP_SIGNAL, MAX_TASK_LINES, dump_tasks_at

BEGIN_TURNS = 5
"""Turns of the loop after a batch, in which its connections can begin: one for the task that makes the transport, one
for the transport, one that reads, one for the task of the request, and one in which a quick application answers."""

CLEAN_UP_S = 1.0
"""Seconds that cancelled tasks have to clean up when the worker must end now."""

_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
"""Where asyncio's own frames are, which say nothing about the application."""


class ConnectionServer(Protocol):
    """What an `AsyncioWorker` passes connections to.  All methods are called in the loop."""

    async def start(self) -> None:
        """Get ready to serve.  Raises CannotLoad if that is impossible."""

    def begin(self, connection: Connection, taken: Taken) -> None:
        """Serve a connection.  The server owns it from now on and closes it in every case."""

    def drain(self) -> None:
        """No more connections will come: let the open ones end soon."""

    def is_done(self) -> bool:
        """Whether no work is left; asked when no connection is open.  If it returns False, the server calls
        `AsyncioWorker.finished` later."""

    def abort(self) -> Iterable[asyncio.Task[Any]]:
        """End everything now.  Returns the tasks that were cancelled."""

    async def end(self) -> None:
        """Clean up; called when all connections are closed."""


def run_server(make: Callable[[AsyncioWorker], ConnectionServer], duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and all connections are closed.  Raises CannotLoad before it is ready."""
    with asyncio.Runner(loop_factory=_loop_factory(launch.runtime)) as runner:
        try:
            forced = runner.run(_serve(make, duty))
        except BaseException:
            duty.counting.cut()  # a handler that calls `sys.exit` ends the loop, and all connections with it
            raise
        if forced and threading.active_count() > len(_daemons()):
            # A thread of the application does not know that the worker must end now, and a normal exit waits for it.
            sys.stdout.flush()
            sys.stderr.flush()
            end_descendants()
            os._exit(0)


def _daemons() -> list[threading.Thread]:
    """The threads that the interpreter does not wait for when it exits."""
    return [thread for thread in threading.enumerate() if thread.daemon or thread is threading.main_thread()]


async def _serve(make: Callable[[AsyncioWorker], ConnectionServer], duty: Duty) -> bool:
    """Serve to the end.  Whether the end was forced by a second signal."""
    from ..load.executor import CountedThreads  # here: a program has an executor of its own

    threads = CountedThreads()
    asyncio.get_running_loop().set_default_executor(threads)
    duty.limiters.watch(threads)
    service = AsyncioWorker(duty, make)
    await service.run()
    return service.aborted.is_set()


def _loop_factory(runtime: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if runtime != "uvloop":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@define(eq=False)
class AsyncioWorker:
    """The worker's side of the line on asyncio: it takes connections, reports, sends heartbeats and handles signals.

    It lives as long as the loop, and all of it runs in the loop's thread except where a comment says otherwise.
    """

    duty: Duty
    _make: Callable[[AsyncioWorker], ConnectionServer]
    """Makes the server, which may keep this worker to call `finished`."""
    draining: asyncio.Event = Factory(asyncio.Event)
    clock: Callable[[], float] = time.monotonic  # uvloop's own counts whole milliseconds, and QUICK is one
    loop: asyncio.AbstractEventLoop = Factory(asyncio.get_running_loop)
    connections: set[Connection] = Factory(set)
    """The open connections, probes included."""
    _batch: int = 1
    """Connections to take at once."""
    _beginning: bool = False
    """Whether a batch has been taken and has not had its turns yet."""
    _asked: bool = False
    """Whether a signal has asked for a replacement."""
    _beat_at: float = 0.0
    """When the next heartbeat is due."""
    _thread: int = Factory(threading.get_ident)
    over: asyncio.Event = Factory(asyncio.Event)
    """Set when nothing is left to serve."""
    aborted: asyncio.Event = Factory(asyncio.Event)
    """Set when the worker must end now."""
    server: ConnectionServer = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.server = self._make(self)

    async def run(self) -> None:
        """Serve until the last connection is closed.  Raises CannotLoad if the server cannot start."""
        loop, duty = self.loop, self.duty
        dump_tasks_at(DUMP_SIGNAL, lambda: tasks_of(loop))
        duty.attach(self._wake, self._stir)
        become_worker(duty, self.draining, AsyncioWaiter())
        duty.limiters.watch(AnyioThreads(duty.limiters, loop.create_task))
        await self.server.start()  # signal handlers come later: until then a signal ends the process, as any program
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        note_handlers((signal.SIGTERM, signal.SIGINT))
        self._beat_at = self.clock() + duty.heartbeat
        loop.call_later(duty.heartbeat, self._beat)
        duty.ready()
        loop.add_reader(duty.letterbox.fileno(), self._readable)
        if await self._unless_aborted(self.over.wait()):
            await self._unless_aborted(self.server.end())
        if self.aborted.is_set() and (cancelled := list(self.server.abort())):
            await asyncio.wait(cancelled, timeout=CLEAN_UP_S)
        duty.report()

    async def _unless_aborted(self, coroutine: Coroutine[Any, Any, object]) -> bool:
        """Run the coroutine, and cancel it if the worker must end now.  Whether it ran to its end."""
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
        # The loop calls this in every turn while messages wait, also while a batch begins.
        if not self._beginning:
            self._take()

    def _take(self) -> None:
        """Take a batch, let it begin, and only then take the next: a taken connection cannot be recalled any longer.

        While connections begin quickly the batch doubles, because a turn of the loop costs more than a connection; when
        one does not, it falls to 1.
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
            self.loop.call_soon(self._begun, began, count, BEGIN_TURNS)
        elif not duty.has_descriptors:  # no descriptors: the letterbox stays readable, and the loop would spin
            self.loop.remove_reader(duty.letterbox.fileno())
            self.loop.call_later(FULL_TABLE_S, self._look_again)

    def _begun(self, began: float, count: int, turns: int) -> None:
        if turns > 1:
            self.loop.call_soon(self._begun, began, count, turns - 1)
            return
        quick, emptied = self.clock() - began < QUICK * count, count < self._batch
        self._batch = min(2 * self._batch, BATCH) if quick else 1
        self._beginning = False
        if not (emptied or self.draining.is_set()):  # emptied: what has come since makes the letterbox readable
            self._take()

    def _look_again(self) -> None:
        self.duty.beat()
        if not self.draining.is_set():
            self.loop.add_reader(self.duty.letterbox.fileno(), self._readable)

    def _serve_one(self, taken: Taken) -> None:
        self.server.begin(self.adopt(taken), taken)

    def adopt(self, taken: Taken) -> Connection:
        """A taken connection as a socket that owns the descriptor.  It counts as open until it is closed."""
        connection = socket_of(taken, Connection)
        connection.setblocking(False)
        connection.watch(lambda: self._closed(connection, taken))
        self.connections.add(connection)
        return connection

    def _closed(self, connection: Connection, taken: Taken) -> None:
        self.connections.discard(connection)
        self.duty.finished(taken)
        self.duty.report_room()
        self.finished()

    def _drain(self) -> None:
        self.loop.remove_reader(self.duty.letterbox.fileno())
        self.draining.set()
        self.server.drain()
        self.finished()

    def finished(self) -> None:
        """A connection or other work has ended: check whether it was the last."""
        if self.draining.is_set() and not self.connections and self.server.is_done():
            self.over.set()

    # --- reports

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self.loop.call_later(REPORT_AFTER, self._report)
        else:  # called by an application that asks for a pause from one of its threads
            self.loop.call_soon_threadsafe(self.loop.call_later, REPORT_AFTER, self._report)

    def _stir(self) -> None:
        self.loop.call_later(BUSY_AFTER, self.duty.report_busy)

    def _report(self) -> None:
        # None is due if one has gone at once meanwhile.  If the line was full, it was not sent.
        if self.duty.report_due and not self.duty.report():
            self.loop.call_later(REPORT_AFTER, self._report)

    def _beat(self) -> None:
        duty, now = self.duty, self.clock()
        duty.ran_late(now - self._beat_at)
        duty.beat()
        self._beat_at = now + duty.heartbeat
        self.loop.call_later(duty.heartbeat, self._beat)

    # --- signals

    def _signalled(self, number: int) -> None:
        """SIGTERM and SIGINT: ask to be replaced.  In a drain, or at a second signal: end now."""
        if self._asked or self.draining.is_set():
            self.loop.remove_reader(self.duty.letterbox.fileno())
            self.draining.set()
            self.duty.counting.cut()
            self.aborted.set()
        self._asked = True
        self.duty.retire(signal.Signals(number).name)


def tasks_of(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """The tasks of a loop, each with the lines where it waits."""
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
class AsyncioWaiter:
    """Waiting on asyncio, for `messages`."""

    lock: Any = Factory(asyncio.Lock)

    async def wait_readable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        await until(fd, loop.add_reader, loop.remove_reader)

    async def wait_writable(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        await until(fd, loop.add_writer, loop.remove_writer)

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)


async def until(fd: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    """Wait until the loop reports the descriptor ready, with its `add_reader` and `remove_reader`, or the writer's."""
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
    """The frames from a coroutine to what it awaits in the end.  `Task.get_stack` returns only the first."""
    while waiting is not None:
        if (frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)) is not None:
            yield frame
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
