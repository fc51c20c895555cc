"""How are a program's connections served on asyncio and uvloop?  By callbacks in its loop, and servers like asyncio's.

`AsyncioHost` takes connections from the master and puts them into the ports' queues; a `Server` begins those of its
ports.  Both run in the program's loop, in the loop's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from attrs import Factory, define

from ..connection import Connection
from ..duty import FULL_TABLE_S, Taken
from ..load.anyio_threads import AnyioThreads
from ..serving.asyncio_worker import AsyncioWaiter, AsyncioWorker, ConnectionServer, tasks_of
from ..stacks import DUMP_SIGNAL, dump_tasks_at
from .port import Port, PortSocket
from .ports import Ports

EXIT_S = 2.0
"""Seconds that a program has for its own end after `serve_forever` has returned, before its tasks are cancelled: it may
wait for something else beside the server.  Enough for most programs to flush and to close what they have open, and
little enough that a reload does not wait for a program that never ends."""


class NoServer:
    """Serves nothing: the program accepts its connections itself (see `ports_on_asyncio`)."""

    async def start(self) -> None:
        """Nothing to do."""

    def begin(self, connection: Connection, taken: Taken) -> None:
        """Never called, because the program's ports take the connections."""

    def drain(self) -> None:
        """Nothing to do."""

    def is_done(self) -> bool:
        """Always: there is no work of its own."""
        return True

    def abort(self) -> Iterable[asyncio.Task[Any]]:
        return ()

    async def end(self) -> None:
        """Nothing to do."""


@define(eq=False)
class AsyncioHost(AsyncioWorker):
    """Serves the ports by callbacks of the program's loop, beside the program."""

    _make: Callable[[AsyncioWorker], ConnectionServer] = lambda _: NoServer()
    waiter: AsyncioWaiter = Factory(AsyncioWaiter)
    servers: set[Server] = Factory(set)
    """Those that are open."""
    _stopped: bool = False
    _pausing: bool = False
    """A timer looks again for free descriptors."""

    @property
    def ports(self) -> Ports:
        """The duty."""
        assert isinstance(self.duty, Ports)
        return self.duty

    def lives(self) -> bool:
        return self.loop.is_running() and not self._stopped

    def start(self) -> None:
        self.ports.set_host(lambda: self.call(self._wake), lambda: self.call(self._readable))
        if threading.current_thread() is threading.main_thread():  # only there can a signal handler be set
            dump_tasks_at(DUMP_SIGNAL, lambda: tasks_of(self.loop))
        self.duty.limiters.watch(AnyioThreads(self.duty.limiters, self.loop.create_task))
        self._beat_at = self.clock() + self.duty.heartbeat
        self.loop.call_later(self.duty.heartbeat, self._beat)
        self.loop.add_reader(self.duty.letterbox.fileno(), self._readable)

    def stop(self) -> None:
        self._stopped = True
        if not self.loop.is_closed():
            self.loop.remove_reader(self.duty.letterbox.fileno())

    def end(self, now: bool) -> None:
        self.call(lambda: self._end(now))

    def _end(self, now: bool) -> None:
        if now:
            for server in self.servers:
                server.abort_clients()  # `serve_forever`, cancelled, waits for them, and a handler may close none
        released = [server for server in self.servers if server.release()]
        if released and not now:
            self.loop.call_later(EXIT_S, self._cancel_everything)
        else:
            self._cancel_everything()

    def _cancel_everything(self) -> None:
        """Cancel all tasks, as `asyncio.run` does at its end.

        Which task is the main one cannot be told, and no connection is open that another task could serve.
        """
        for task in asyncio.all_tasks(self.loop):
            task.cancel()

    def call(self, what: Callable[[], object]) -> None:
        """Call `what` in the loop: at once if this is the loop's thread, otherwise soon.  From any thread."""
        if self.loop.is_closed():
            return  # no task waits there for anything
        if threading.get_ident() == self._thread:
            what()
        else:
            try:
                self.loop.call_soon_threadsafe(what)
            except RuntimeError:
                pass  # the loop was closed between the check and the call

    def _readable(self) -> None:
        if self._stopped or self.draining.is_set():
            return
        if self.duty.has_descriptors or self.duty.letterbox.has_ended():
            AsyncioWorker._readable(self)
            return
        # Without a free descriptor: each `accept` calls this too, and must not add a timer of its own.
        self.loop.remove_reader(self.duty.letterbox.fileno())
        if not self._pausing:
            self._pausing = True
            self.loop.call_later(FULL_TABLE_S, self._look_again)

    def _look_again(self) -> None:
        self._pausing = False
        if not self._stopped:
            AsyncioWorker._look_again(self)

    def _beat(self) -> None:
        if not self._stopped:
            AsyncioWorker._beat(self)

    def _serve_one(self, taken: Taken) -> None:
        self.ports.deliver(taken)

    def _drain(self) -> None:
        AsyncioWorker._drain(self)
        self.ports.hang_up()


class Server(asyncio.AbstractServer):
    """A server as `asyncio.Server`, of connections that the master hands to this worker.

    `start_server`, `start_unix_server` and `create_server` return it in a worker; it lives until it is closed or the
    loop ends.  Its listening sockets stand in the master: `close` closes none of them, and the clients are served by
    the other workers.  It may be used as an asynchronous context manager.  All methods must be called in the thread of
    its loop, as those of asyncio's.

    `wait_closed` waits for the connections too, as asyncio's own does since Python 3.12.  `serve_forever` returns,
    without an error, when the worker is drained: the master sends no more connections, and the last one is closed.  The
    program then has 2 s for its own end before its tasks are cancelled.
    """

    def __init__(self, host: AsyncioHost, ports: list[Port], factory: Callable[[], Any], tls: dict[str, Any]) -> None:
        self._host, self._ports, self._factory, self._tls = host, ports, factory, tls
        self._serving = self._closed = False
        self._beginning: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly
        self._connections: dict[Connection, asyncio.BaseTransport | None] = {}
        self._over = asyncio.Event()
        self._forever: asyncio.Future[None] | None = None
        for port in ports:
            port.call(partial(host.call, partial(self._begin_all, port)))
        host.servers.add(self)

    @property
    def sockets(self) -> tuple[PortSocket, ...]:
        """What can be known of the listening sockets: `getsockname()`, `family`.  Empty once the server is closed."""
        return () if self._closed else tuple(PortSocket(port) for port in self._ports)

    def is_serving(self) -> bool:
        """Whether the server accepts connections."""
        return self._serving

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that serves the connections."""
        return self._host.loop

    async def start_serving(self) -> None:
        """Accept connections from now on.  Raises RuntimeError if the server is closed."""
        self._start()
        await asyncio.sleep(0)

    def _start(self) -> None:
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        if not self._serving:
            self._serving = True
            for port in self._ports:
                port.await_one()
            self._host.ports.on_accept()
            self._host.ports.wake_host()

    async def serve_forever(self) -> None:
        """Accept connections until the worker is drained, then return.  Cancelled, it closes the server.

        Raises RuntimeError if the server is closed, or is served already.
        """
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        self._start()
        self._forever = self._host.loop.create_future()
        try:
            await self._forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None

    def release(self) -> bool:
        """Let `serve_forever` return, for the worker is drained.  Whether a task waited there.  The host calls it."""
        waited = self._forever is not None and not self._forever.done()
        if waited and self._forever is not None:
            self._forever.set_result(None)
        return waited

    def close(self) -> None:
        """Accept no more connections in this worker; those open go on.  Other workers still serve the address."""
        if self._closed:
            return
        self._closed, self._serving = True, False
        for port in self._ports:
            port.await_one(-port.wanted)
            self._host.ports.close(port)
        self._host.servers.discard(self)
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._look()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its last connection is."""
        await self._over.wait()

    def close_clients(self) -> None:
        """Close all connections once what was written is sent; as asyncio's, of Python 3.13."""
        for transport in list(self._connections.values()):
            if transport is not None:
                transport.close()

    def abort_clients(self) -> None:
        """Close all connections at once; as asyncio's, of Python 3.13."""
        for transport in list(self._connections.values()):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    # --- connections

    def _begin_all(self, port: Port) -> None:
        while self._serving and (taken := self._host.ports.pop(port)) is not None:
            connection = self._host.adopt(taken)
            connection.watch(partial(self._ended, connection, connection.on_close))
            self._connections[connection] = None
            task = self._host.loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: Connection) -> None:
        try:
            transport, _ = await self._host.loop.connect_accepted_socket(self._factory, connection, **self._tls)
        except BaseException as error:
            connection.close()
            if not isinstance(error, OSError | asyncio.CancelledError):
                raise
            return  # the client's trouble, such as a handshake that failed
        if connection in self._connections:
            self._connections[connection] = transport

    def _ended(self, connection: Connection, over: Callable[[], None] | None) -> None:
        self._connections.pop(connection, None)
        if over is not None:
            over()
        self._look()

    def _look(self) -> None:
        """See whether the server is closed and its last connection too."""
        if self._closed and not self._connections:
            self._over.set()
