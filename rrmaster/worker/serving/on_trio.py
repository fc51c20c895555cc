"""Serve a stream handler, ``async def handler(stream)``, on trio: a trio.SocketStream, or with TLS a trio.SSLStream.

One task takes connections, two report, one handles signals, and each connection has a task of its own.  What a
connection raises stays in it.  `on_anycorn` serves ASGI with the same `TrioServer`, and programs that open their own
listeners use `TrioWorker` (see `worker.programs.ports_on_trio`).
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from attrs import Factory, define, field

from ...protocol.channel import HungUp
from ...protocol.family.children import note_handlers
from ...protocol.launch import Launch
from ...protocol.wire import REPORT_AFTER
from ..access.log import OF_A_CONNECTION, AccessLog
from ..api import become_worker
from ..connection import is_disconnect, socket_of, with_access_log
from ..duty import BATCH, BUSY_AFTER, FULL_TABLE_S, QUICK, Duty, Taken
from ..intake import CLOSE_NOTIFY_S, FIRST_BYTE_S, HANDSHAKE_S, HEADER_S, Intake, Refused
from ..loading import Application
from ..parking.opening import stream_lot_of
from ..stacks import DUMP_SIGNAL, MAX_TASK_LINES, dump_tasks_at

if TYPE_CHECKING:
    from ..parking.streams import StreamLot

Handler = Callable[[Any], Awaitable[object]]
Serve = Callable[[Any, Taken], Awaitable[object]]
"""Serves one connection, given its stream and what is known of it: the handler, or `on_anycorn` for ASGI."""

BEGIN_TURNS = 3
"""Checkpoints after a batch, in which its connections can begin: a task starts at the first, has read at the second,
and a quick handler has answered at the third."""

_TRIO = os.path.dirname(trio.__file__) + os.sep
"""Where trio's own frames are, which say nothing about the application."""


async def serve(handler: Handler, duty: Duty, intake: Intake | None = None, lot: StreamLot | None = None) -> None:
    """Take and serve connections until the master sends no more and all connections are closed."""
    service = TrioServer(duty, serve=lambda stream, taken: handler(stream), intake=intake, lot=lot)
    service.enter()
    await service.run()


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and all connections are closed.  Raises CannotLoad before it is ready."""
    lot, log = stream_lot_of(duty, launch), AccessLog.of(launch, duty.identity, OF_A_CONNECTION)
    handler = with_access_log(application.target, log, *((lot.has_parked,) if lot is not None else ()))
    trio.run(serve, handler, duty, Intake.of(duty, launch), lot, strict_exception_groups=True)


def tasks() -> list[str]:
    """The tasks of trio, each with the lines where it waits."""
    lines = ["Tasks of trio:"]
    waiting = [trio.lowlevel.current_root_task()]
    while waiting and len(lines) < MAX_TASK_LINES:
        task = waiting.pop()
        if task is not None:
            lines.append(f"  {task.name}")
            frames = [(f, line) for f, line in task.iter_await_frames() if not f.f_code.co_filename.startswith(_TRIO)]
            lines += [f"    {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}" for frame, line in frames]
            waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return lines


@define(eq=False)
class TrioWaiter:
    """Waiting on trio, for `messages`."""

    lock: Any = Factory(trio.StrictFIFOLock)

    async def wait_readable(self, fd: int) -> None:
        await trio.lowlevel.wait_readable(fd)

    async def wait_writable(self, fd: int) -> None:
        await trio.lowlevel.wait_writable(fd)

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()


@define(eq=False)
class TrioWorker:
    """The worker's side of the line on trio: it takes connections, reports and sends heartbeats."""

    duty: Duty
    draining: trio.Event = Factory(trio.Event)
    _changed: trio.Event = Factory(trio.Event)
    """Set when there is something to report."""

    def wake(self) -> None:
        """Report soon: the duty calls it when a count has changed."""
        self._changed.set()

    async def wait_readable(self) -> None:
        """Wait until the letterbox is readable."""
        await trio.lowlevel.wait_readable(self.duty.letterbox.fileno())

    def drain(self) -> None:
        """No more connections will come: begin the drain."""
        self.draining.set()

    async def take(self, begin: Callable[[Taken], None]) -> None:
        """Take a batch, let it begin, and only then take the next: a taken connection cannot be recalled any longer.

        While connections begin quickly the batch doubles, because a turn of the loop costs more than a connection; when
        one does not, it falls to 1.  Returns at the end of the stream.
        """
        duty, batch = self.duty, 1
        try:
            while True:
                began, count = trio.current_time(), 0
                while count < batch and (taken := duty.take()) is not None:
                    begin(taken)
                    count += 1
                if count:
                    for _ in range(BEGIN_TURNS):
                        await trio.lowlevel.checkpoint()
                    quick = trio.current_time() - began < QUICK * count
                    batch = min(2 * batch, BATCH) if quick else 1
                elif duty.has_descriptors:
                    await self.wait_readable()
                else:  # no descriptors: the letterbox stays readable, and the loop would spin
                    await trio.sleep(FULL_TABLE_S)
                    duty.beat()
        except HungUp:
            self.drain()

    async def report_changes(self) -> None:
        """Report changes, gathered over `REPORT_AFTER`, and with every heartbeat in any case."""
        duty = self.duty
        duty.limiters.watch(trio.to_thread.current_default_thread_limiter())
        beat_at = trio.current_time() + duty.heartbeat
        while True:
            with trio.move_on_at(beat_at):
                await self._changed.wait()
            late = trio.current_time() - beat_at
            if late >= 0:
                duty.ran_late(late)
                duty.beat()
                beat_at = trio.current_time() + duty.heartbeat
            else:
                await self._gather(beat_at)

    async def _gather(self, beat_at: float) -> None:
        """Report every `REPORT_AFTER` while counts change."""
        # Cheaper than an event and two turns of tasks for each report.
        duty = self.duty
        while True:
            await trio.sleep(REPORT_AFTER)
            if not duty.report_due or trio.current_time() >= beat_at:
                break
            duty.report()
        self._changed = trio.Event()
        if duty.report_due:
            self._changed.set()


@define(eq=False)
class TrioServer(TrioWorker):
    """Serves connections, each in a task of its own, and handles signals."""

    serve: Serve = field(kw_only=True)
    intake: Intake | None = field(default=None, kw_only=True)
    lot: StreamLot | None = field(default=None, kw_only=True)
    """Where handlers park their connections, if they may."""
    _stirred: trio.Event = Factory(trio.Event)
    """Set when a request has begun or ended."""
    _arriving: set[trio.CancelScope] = Factory(set)
    """The scopes of connections that are not the application's yet."""

    def enter(self) -> None:
        """Become the current worker, before the application starts and asks for it."""
        become_worker(self.duty, self.draining, TrioWaiter())

    async def run(self) -> None:
        """Serve until the last connection is closed."""
        dump_tasks_at(DUMP_SIGNAL, tasks)
        self.duty.attach(self.wake, lambda: self._stirred.set())
        async with trio.open_nursery() as service:
            async with trio.open_nursery() as connections:
                await service.start(self._handle_signals, connections.cancel_scope)
                service.start_soon(self.report_changes)
                service.start_soon(self._report_requests)
                self.duty.ready()
                await self.take(lambda taken: connections.start_soon(self._serve_one, taken))
            service.cancel_scope.cancel()
        self.duty.report()

    async def _serve_one(self, taken: Taken) -> None:
        sock = socket_of(taken, socket.socket)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        if self.lot is not None:
            self.lot.came(taken)
        try:
            if self.intake is None or taken.probe:
                await self.serve(stream, taken)
            else:
                await self._serve_arriving(self.intake, taken, stream, sock)
        except BaseException as error:
            # A mistake of the application, which costs this connection only, be it `sys.exit()`: signals come another
            # way.  A client that leaves is no mistake.
            if (fault := without_cancelled(error)) is None:
                self.duty.counting.cut()  # the whole worker ends, by a signal or by an error of its own
                raise
            if not is_disconnect(fault, trio.BrokenResourceError, _is_over(stream)):
                traceback.print_exception(fault)
        finally:
            # Also after the handler has closed it: a second close does nothing, and the count must be right.
            trio.lowlevel.notify_closing(sock)
            if self.lot is not None:
                self.lot.left(taken)
            self.duty.finished(taken)  # before it is closed: see `protocol.pages.figures`
            sock.close()
            self.duty.report_room()

    async def _serve_arriving(
        self, intake: Intake, taken: Taken, stream: trio.SocketStream, sock: socket.socket
    ) -> None:
        arrived: trio.SocketStream | trio.SSLStream[trio.SocketStream] | None = None
        with trio.CancelScope() as scope:
            if self.draining.is_set():
                scope.deadline = trio.current_time() + FIRST_BYTE_S
            self._arriving.add(scope)
            try:
                arrived = await _arrive(intake, taken, stream, sock)
            finally:
                self._arriving.discard(scope)
        if arrived is None:
            return
        try:
            await self.serve(arrived, taken)
        finally:
            if isinstance(arrived, trio.SSLStream):
                await _say_goodbye(arrived)

    def drain(self) -> None:
        super().drain()
        for scope in self._arriving:
            scope.deadline = trio.current_time() + FIRST_BYTE_S

    async def _report_requests(self) -> None:
        """Report the number of requests in progress, `BUSY_AFTER` after it has changed."""
        while True:
            await self._stirred.wait()
            await trio.sleep(BUSY_AFTER)
            self._stirred = trio.Event()
            self.duty.report_busy()

    async def _handle_signals(
        self, connections: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """SIGTERM and SIGINT: ask to be replaced.  In a drain, or at a second signal: end now."""
        asked = False
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            note_handlers((signal.SIGTERM, signal.SIGINT))
            task_status.started()
            async for number in signals:
                if asked or self.draining.is_set():
                    self.duty.counting.cut()
                    connections.cancel()
                    return
                asked = True
                self.duty.retire(signal.Signals(number).name)


# --- the PROXY header, and TLS


async def _arrive(
    intake: Intake, taken: Taken, stream: trio.SocketStream, sock: socket.socket
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream] | None:
    """The stream after the PROXY header and the TLS handshake; None: one failed, and the caller closes the socket."""
    peer: object = None
    try:
        peer = sock.getpeername()
        if intake.versions and taken.memo is None:
            with trio.fail_after(HEADER_S):
                await intake.read_header(sock, peer, taken, partial(trio.lowlevel.wait_readable, sock))
        return stream if intake.context is None else await _handshake(stream, intake.context)
    except trio.TooSlowError:
        intake.report_refusal(TimeoutError(), taken, peer)
    except (Refused, OSError) as error:
        intake.report_refusal(error, taken, peer)
    return None


async def _handshake(stream: trio.SocketStream, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    """Do the TLS handshake.  Raises OSError.

    As in `trio.serve_ssl_over_tcp`, "https_compatible" is not set.  A handler for which the end of the stream is the
    end of a message must be able to tell it from a connection that an attacker has cut.  A client that expects
    close_notify (curl, with an answer that ends with the connection) gets it.
    """
    secure = trio.SSLStream(stream, context, server_side=True)
    try:
        with trio.fail_after(HANDSHAKE_S):
            await secure.do_handshake()
    except trio.TooSlowError:
        raise ConnectionAbortedError from None
    except trio.BrokenResourceError as error:
        raise (error.__cause__ if isinstance(error.__cause__, OSError) else ConnectionResetError()) from None
    return secure


async def _say_goodbye(secure: trio.SSLStream[trio.SocketStream]) -> None:
    try:
        with trio.move_on_after(CLOSE_NOTIFY_S):
            await secure.aclose()
    except (OSError, trio.BrokenResourceError, trio.BusyResourceError):
        pass  # the client is gone, or OpenSSL reports it so; the socket is closed in any case


def _is_over(stream: trio.SocketStream) -> Callable[[object], bool]:
    """A test for the client's stream, or TLS over it."""
    return lambda owner: owner is stream or (isinstance(owner, trio.SSLStream) and owner.transport_stream is stream)


def without_cancelled(error: BaseException) -> BaseException | None:
    """What an error says beside a cancellation, which belongs to trio; None: nothing."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return None if isinstance(error, trio.Cancelled) else error
