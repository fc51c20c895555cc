"""A program's addresses on asyncio, and on uvloop: servers as `asyncio.start_server` returns them.

In a worker they ask the master; alone, the same calls are asyncio's own.  What the host does beside the program are
callbacks of its loop.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from attrs import Factory, define

from ...protocol import wire
from .. import DUMP_SIGNAL, SHORT_PAUSE, Taken
from ..connection import Connection
from ..serving.asyncio_worker import AsyncioWaiter, AsyncioWorker, tasks_of
from ..stacks import say_tasks_at
from .ports import ListeningSocket, Port, Ports, literal
from .program import Program, current_program

GOODBYE = 2.0
"""Seconds that a program has for its own end after `serve_forever` has returned, before its tasks are cancelled: it may
wait for something else beside it.  As long as most have to flush and to say goodbye, and no reload waits for ever."""

BACKLOG = 100
"""As asyncio has it."""

Hosts = str | Sequence[str] | None


@define(eq=False)
class AsyncioHost(AsyncioWorker):
    """Serves the ports by callbacks."""

    means: AsyncioWaiter = Factory(AsyncioWaiter)
    servers: set[Server] = Factory(set)
    """Those that are open."""
    _stopped: bool = False
    _pausing: bool = False
    """Without descriptors, until it looks again."""

    @property
    def ports(self) -> Ports:
        """Its duty."""
        assert isinstance(self.duty, Ports)
        return self.duty

    def lives(self) -> bool:
        return self.loop.is_running() and not self._stopped

    def start(self) -> None:
        self.duty.wake = lambda: self.call(self._wake)
        self.ports.kick = lambda: self.call(self._readable)
        if threading.current_thread() is threading.main_thread():
            say_tasks_at(DUMP_SIGNAL, lambda: tasks_of(self.loop))
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
        released = [server for server in self.servers if server.release()]
        if released and not now:
            self.loop.call_later(GOODBYE, self._cancel_everything)
        else:
            self._cancel_everything()

    def _cancel_everything(self) -> None:
        """As asyncio.run does at its end: nobody can tell which task is the main one, and no connection is open."""
        for task in asyncio.all_tasks(self.loop):
            task.cancel()

    def call(self, what: Callable[[], object]) -> None:
        """Do it in the loop: at once, if this is its thread."""
        if self.loop.is_closed():
            return  # nobody waits there any more
        if threading.get_ident() == self._thread:
            what()
        else:
            try:
                self.loop.call_soon_threadsafe(what)
            except RuntimeError:
                pass  # it was closed in just this moment

    def _readable(self) -> None:
        if self._stopped or self.draining.is_set():
            return
        if self.duty.able:
            AsyncioWorker._readable(self)
            return
        # Also called when somebody asks, who would otherwise add a timer each time.
        self.loop.remove_reader(self.duty.letterbox.fileno())
        if not self._pausing:
            self._pausing = True
            self.loop.call_later(SHORT_PAUSE, self._look_again)

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
    """As `asyncio.Server`, of connections that the master hands to this worker.

    `wait_closed` waits for the connections too, as asyncio's own does since Python 3.12.  `serve_forever` returns when
    the worker is drained: there will be no more connections, and the last one is closed.
    """

    def __init__(self, host: AsyncioHost, ports: list[Port], factory: Callable[[], Any], tls: dict[str, Any]) -> None:
        self._host, self._ports, self._factory, self._tls = host, ports, factory, tls
        self._serving = self._closed = False
        self._beginning: set[asyncio.Task[None]] = set()
        self._connections: dict[Connection, asyncio.BaseTransport | None] = {}
        self._over = asyncio.Event()
        self._forever: asyncio.Future[None] | None = None
        for port in ports:
            port.arrived = lambda port=port: host.call(lambda: self._begin_all(port))  # type: ignore[misc]
        host.servers.add(self)

    @property
    def sockets(self) -> tuple[ListeningSocket, ...]:
        """With `getsockname()`; empty once it is closed."""
        return () if self._closed else tuple(ListeningSocket(port) for port in self._ports)

    def is_serving(self) -> bool:
        return self._serving

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._host.loop

    async def start_serving(self) -> None:
        self._start()
        await asyncio.sleep(0)

    def _start(self) -> None:
        if self._closed:
            raise RuntimeError(f"server {self!r} is closed")
        if not self._serving:
            self._serving = True
            for port in self._ports:
                port.wanted = 1
            self._host.ports.asked()
            self._host.ports.kick()

    async def serve_forever(self) -> None:
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
        """The worker is drained.  Whether somebody waited in `serve_forever`, who goes on now."""
        waited = self._forever is not None and not self._forever.done()
        if waited and self._forever is not None:
            self._forever.set_result(None)
        return waited

    def close(self) -> None:
        """This worker takes no more of them; others do, and the address stays open."""
        if self._closed:
            return
        self._closed, self._serving = True, False
        for port in self._ports:
            port.wanted = 0
            self._host.ports.close(port)
        self._host.servers.discard(self)
        if self._forever is not None and not self._forever.done():
            self._forever.cancel()
        self._look()

    async def wait_closed(self) -> None:
        await self._over.wait()

    def close_clients(self) -> None:
        """As asyncio's, of Python 3.13."""
        for transport in list(self._connections.values()):
            if transport is not None:
                transport.close()

    def abort_clients(self) -> None:
        """As asyncio's, of Python 3.13."""
        for transport in list(self._connections.values()):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    # --- connections

    def _begin_all(self, port: Port) -> None:
        while self._serving and (taken := self._host.ports.pick(port)) is not None:
            connection = self._host.adopt(taken)
            over = connection.over
            connection.over = lambda connection=connection, over=over: self._ended(connection, over)
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
        if self._closed and not self._connections:
            self._over.set()


# --- addresses


async def start_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
    host: Hosts = None,
    port: int | str | None = None,
    *,
    limit: int = 2**16,
    **options: Any,
) -> Server | asyncio.Server:
    """`asyncio.start_server`, and in a worker's program the same addresses through the master.

    The master opens each address once for all workers and keeps it until it stops; it hands its connections to who
    serves it.  Port 0 is a free one: the n-th that is asked for is the same in all workers.  Raises OSError as a bind
    does: EADDRINUSE, EACCES, EADDRNOTAVAIL, ...
    """
    if current_program() is None or options.get("sock") is not None:
        return await asyncio.start_server(client_connected_cb, host, port, limit=limit, **options)
    return await create_server(_streams(client_connected_cb, limit), host, port, **options)


async def start_unix_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
    path: str | os.PathLike[str] | None = None,
    *,
    limit: int = 2**16,
    **options: Any,
) -> Server | asyncio.Server:
    """`asyncio.start_unix_server`, and in a worker's program likewise through the master.

    The path is relative to the working directory; the file has the mode of --unix-mode, and is removed at the master's
    stop.
    """
    program = current_program()
    if program is None or options.get("sock") is not None or path is None:
        return await asyncio.start_unix_server(client_connected_cb, path, limit=limit, **options)
    tls, backlog, start = _read(options)
    wish = wire.Listen(0, path=os.path.abspath(os.fspath(path)), backlog=backlog)
    return await _serve(program, [wish], _streams(client_connected_cb, limit), tls, start)


async def create_server(
    protocol_factory: Callable[[], Any],
    host: Hosts = None,
    port: int | str | None = None,
    *,
    family: int = socket.AF_UNSPEC,
    flags: int = socket.AI_PASSIVE,
    **options: Any,
) -> Server | asyncio.Server:
    """`loop.create_server` of the running loop, and in a worker's program likewise through the master."""
    program = current_program()
    if program is None or options.get("sock") is not None:
        loop: Any = asyncio.get_running_loop()
        server: asyncio.Server = await loop.create_server(
            protocol_factory, host, port, family=family, flags=flags, **options
        )
        return server
    tls, backlog, start = _read(options)
    addresses = await _resolve(host, port, family, flags)
    wishes = [wire.Listen(0, *literal(family, address), backlog=backlog) for family, address in addresses]
    return await _serve(program, wishes, protocol_factory, tls, start)


def _streams(callback: Callable[..., Any], limit: int) -> Callable[[], asyncio.StreamReaderProtocol]:
    def factory() -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=limit, loop=loop), callback, loop=loop)

    return factory


def _read(options: dict[str, Any]) -> tuple[dict[str, Any], int, bool]:
    """What asyncio's options mean here.  Raises TypeError, ValueError."""
    backlog, start = options.pop("backlog", BACKLOG), options.pop("start_serving", True)
    options.pop("sock", None)
    options.pop("keep_alive", None)  # the master sets it on every TCP listener
    options.pop("cleanup_socket", None)  # the master does that when it stops
    if options.pop("reuse_port", None):
        raise ValueError("reuse_port: the master opens each address once, and hands its connections to all workers")
    if options.pop("reuse_address", None) is False:
        raise ValueError("reuse_address: the master opens addresses with SO_REUSEADDR")
    tls = {name: options.pop(name) for name in _TLS if options.get(name) is not None}
    if left := [name for name in options if name not in _TLS]:
        raise TypeError(f"unexpected keyword argument {left[0]!r}")
    return tls, min(max(backlog, 0), 0xFFFF), start


_TLS = ("ssl", "ssl_handshake_timeout", "ssl_shutdown_timeout")


async def _resolve(host: Hosts, port: int | str | None, family: int, flags: int) -> list[tuple[int, Any]]:
    hosts: Iterable[str | None] = [host or None] if host is None or isinstance(host, str) else host
    loop, found = asyncio.get_running_loop(), []
    for name in hosts:
        found += await loop.getaddrinfo(name, port or 0, family=family, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((int(kind), address) for kind, _, _, _, address in found))


async def _serve(
    program: Program, wishes: list[wire.Listen], factory: Callable[[], Any], tls: dict[str, Any], start: bool
) -> Server:
    host, ports = program.attach(), program.ports
    assert isinstance(host, AsyncioHost)
    opened: list[Port] = []
    try:
        for wish in wishes:
            opened += [await _open(host, ports, wish)]
    except BaseException:
        for port in opened:
            ports.close(port)
        raise
    server = Server(host, opened, factory, tls)
    if start:
        await server.start_serving()
    return server


async def _open(host: AsyncioHost, ports: Ports, wish: wire.Listen) -> Port:
    answered = asyncio.Event()
    request = ports.ask(wish, lambda: host.call(answered.set))
    try:
        await answered.wait()
        if request.port is None and ports.hung_up:
            await host.loop.create_future()  # the program is about to be ended, and an error would only be noise
    except BaseException:
        ports.abandon(request)
        raise
    return request.result()
