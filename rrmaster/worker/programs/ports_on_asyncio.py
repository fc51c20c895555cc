"""How does a program on asyncio or uvloop open its addresses?  As with asyncio, and in a worker through the master.

Where no master runs, each of these functions calls asyncio's own.  In a worker it asks the master for the addresses,
and returns a `Server` of the connections that the master hands over.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from ...protocol import wire
from .port import Port, host_and_port
from .ports import Ports
from .program import Program, current_program
from .server_on_asyncio import AsyncioHost, Server

BACKLOG = 100
"""Connections that may wait in the kernel, if the program says nothing: asyncio's own default."""

Hosts = str | Sequence[str] | None


async def start_server(
    client_connected_cb: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
    host: Hosts = None,
    port: int | str | None = None,
    *,
    limit: int = 2**16,
    **options: Any,
) -> Server | asyncio.Server:
    """`asyncio.start_server`, and in a worker's program the same addresses through the master.

    The master opens each address once for all workers, keeps it until it stops, and hands its connections to the
    workers that serve it.  `client_connected_cb` is called in the running loop, once for each connection that this
    worker is handed; the connection is the callback's to close.  ``port=0`` is a free port: the n-th request of a
    worker gets the same port in all workers.  The idea is that of ``net.Server.listen`` in Node's cluster.

    `limit` is in bytes, as asyncio's.  Of asyncio's other options `family`, `flags`, `backlog` (connections, 100),
    `start_serving`, `ssl`, `ssl_handshake_timeout` and `ssl_shutdown_timeout` (seconds) have their meaning; the master
    opens every address with SO_REUSEADDR and SO_KEEPALIVE.  With ``sock=`` the call is asyncio's own, also in a worker.

    Raises OSError as a bind does (EADDRINUSE, EACCES, EADDRNOTAVAIL, ...), ValueError for ``reuse_port=True`` and
    ``reuse_address=False``, TypeError for an unknown option, and RuntimeError in a worker that serves an application,
    or if another loop of the program serves already.
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
    """`asyncio.start_unix_server`, and in a worker's program the same socket through the master.

    The path is relative to the working directory.  In a worker the file has the permissions of `--unix-mode`, and the
    master removes it when it stops.  Callback, options and errors are those of `start_server`.
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
    """`loop.create_server` of the running loop, and in a worker's program the same addresses through the master.

    `protocol_factory` is called in the running loop, once for each connection.  Addresses, options and errors are those
    of `start_server`.
    """
    program = current_program()
    if program is None or options.get("sock") is not None:
        loop: Any = asyncio.get_running_loop()
        server: asyncio.Server = await loop.create_server(
            protocol_factory, host, port, family=family, flags=flags, **options
        )
        return server
    tls, backlog, start = _read(options)
    addresses = await _resolve(host, port, family, flags)
    wishes = [wire.Listen(0, *host_and_port(family, address), backlog=backlog) for family, address in addresses]
    return await _serve(program, wishes, protocol_factory, tls, start)


def _streams(callback: Callable[..., Any], limit: int) -> Callable[[], asyncio.StreamReaderProtocol]:
    def factory() -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=limit, loop=loop), callback, loop=loop)

    return factory


def _read(options: dict[str, Any]) -> tuple[dict[str, Any], int, bool]:
    """Asyncio's options as they apply here: those of TLS, the backlog, and whether to start.

    Raises TypeError, ValueError.
    """
    backlog, start = options.pop("backlog", BACKLOG), options.pop("start_serving", True)
    options.pop("sock", None)
    options.pop("keep_alive", None)  # the master sets it on every TCP listener
    options.pop("cleanup_socket", None)  # the master does that when it stops
    if options.pop("reuse_port", None):
        raise ValueError("reuse_port: the master opens each address once, and hands its connections to all workers")
    if options.pop("reuse_address", None) is False:
        raise ValueError("reuse_address: the master opens addresses with SO_REUSEADDR")
    tls = {name: options.pop(name) for name in _TLS if options.get(name) is not None}
    if unknown := [name for name in options if name not in _TLS]:
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
    return tls, min(max(backlog, 0), 0xFFFF), start


_TLS = ("ssl", "ssl_handshake_timeout", "ssl_shutdown_timeout")


async def _resolve(host: Hosts, port: int | str | None, family: int, flags: int) -> list[tuple[int, Any]]:
    """Family and address of each host, once each.  The master resolves no names: it would have to wait."""
    hosts: Iterable[str | None] = [host or None] if host is None or isinstance(host, str) else host
    loop, found = asyncio.get_running_loop(), []
    for name in hosts:
        found += await loop.getaddrinfo(name, port or 0, family=family, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((int(kind), address) for kind, _, _, _, address in found))


async def _serve(
    program: Program, wishes: list[wire.Listen], factory: Callable[[], Any], tls: dict[str, Any], start: bool
) -> Server:
    """Open all addresses or none, and serve them."""
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
    request = ports.request(wish, lambda: host.call(answered.set))
    try:
        await answered.wait()
        if request.port is None and ports.hung_up:
            # The worker is drained: the host cancels this task in a moment, and an error would only be noise.
            await host.loop.create_future()
    except BaseException:
        ports.abandon(request)
        raise
    return request.result()
