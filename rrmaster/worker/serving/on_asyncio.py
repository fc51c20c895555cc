"""Serve a stream handler, ``async def handler(reader, writer)``, on asyncio or uvloop.

::

    letterbox ── AsyncioWorker ── admit: PROXY header, TLS handshake, transport ── handler

Each connection has a task of its own, and what it raises stays in it.  `on_uvicorn` uses `admit` for its protocols.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import Factory, define

from ...protocol.launch import Launch
from ..access.log import OF_A_CONNECTION, AccessLog
from ..connection import Connection, is_disconnect, with_access_log
from ..duty import Duty, Taken
from ..intake import CLOSE_NOTIFY_S, FIRST_BYTE_S, HANDSHAKE_S, HEADER_S, Intake, Refused
from ..load.requests import Requests
from ..loading import Application
from ..parking.opening import writer_lot_of
from .asyncio_worker import run_server, until

if TYPE_CHECKING:
    from ..parking.streams import WriterLot

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and all connections are closed.  Raises CannotLoad before it is ready."""
    handler = with_access_log(application.target, AccessLog.of(launch, duty.identity, OF_A_CONNECTION))
    lot = writer_lot_of(duty, launch)
    run_server(lambda _: StreamServer(handler, duty, Intake.of(duty, launch), lot), duty, launch)


@define(eq=False)
class StreamServer:
    """Serves ``async def handler(reader, writer)``, with one task for each connection."""

    handler: Handler
    duty: Duty
    intake: Intake | None = None
    lot: WriterLot | None = None
    """Where handlers park their connections, if they may."""
    requests: Requests = Factory(lambda: Requests(one_at_a_time=True))
    """Each connection is one request, which may go on when its client has left."""
    _arriving: set[asyncio.Task[Any]] = Factory(set)
    """The tasks whose connection is not the handler's yet."""
    _tasks: set[asyncio.Task[None]] = Factory(set)

    def __attrs_post_init__(self) -> None:
        self.duty.count(self.requests)

    async def start(self) -> None:
        """Nothing to do."""

    def begin(self, connection: Connection, taken: Taken) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(connection, taken))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not taken.probe:
            self.requests.begin()
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.requests.end()
        if not self.duty.busy_report_due:
            self.duty.requests_changed()

    async def _serve(self, connection: Connection, taken: Taken) -> None:
        writer: asyncio.StreamWriter | None = None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport = await self._admit(protocol, connection, taken)
            if transport is not None:
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                if self.lot is not None:
                    self.lot.reads(taken, reader)
                await self.handler(reader, writer)
        except Exception as error:
            # A mistake of the application, which costs this connection only.  A client that leaves is no mistake.
            if not is_disconnect(error, OSError, lambda owner: any(owner is one for one in (reader, writer, protocol))):
                traceback.print_exc()
        finally:
            if self.lot is not None:
                self.lot.left(taken)
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
        """Handlers can watch ``current_worker().draining``; only connections without a handler are ended here."""
        asyncio.get_running_loop().call_later(FIRST_BYTE_S, lambda: [task.cancel() for task in self._arriving])

    def is_done(self) -> bool:
        """Always: a handler has ended before its connection is closed."""
        return True

    def abort(self) -> Iterable[asyncio.Task[Any]]:
        for task in self._tasks:
            task.cancel()
        return self._tasks

    async def end(self) -> None:
        """Nothing to do."""


# --- from the letterbox to a protocol


async def admit(
    make: Callable[[], asyncio.BaseProtocol], connection: Connection, taken: Taken, intake: Intake | None
) -> asyncio.WriteTransport | None:
    """Connect a protocol to a connection after its PROXY header and TLS handshake; None: one failed, and it is closed.

    The connection is this function's until the transport owns it, and it is closed in every case of failure.
    """
    loop, peer, secure = asyncio.get_running_loop(), None, {}
    try:
        if intake is not None and not taken.probe:
            peer = connection.getpeername()
            if intake.versions and taken.memo is None:
                readable = partial(until, connection.fileno(), loop.add_reader, loop.remove_reader)
                async with asyncio.timeout(HEADER_S):
                    await intake.read_header(connection, peer, taken, readable)
            if intake.context is not None:
                secure = _secure(intake.context)
        transport, _ = await loop.connect_accepted_socket(make, connection, **secure)
    except (Refused, OSError) as error:
        if intake is not None:
            intake.report_refusal(error, taken, peer)
        connection.close()  # the transport may have closed it already, and a second close does nothing
        return None
    except BaseException:
        connection.close()
        raise
    return transport


def _secure(context: ssl.SSLContext) -> dict[str, Any]:
    return {"ssl": context, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": CLOSE_NOTIFY_S}
