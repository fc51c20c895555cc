"""Serve a stream handler, ``async def handler(stream)``, on trio: a trio.SocketStream, or with TLS a trio.SSLStream.

One task takes connections, one speaks, one minds signals, and each connection has one of its own.  What a connection
raises stays in it.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from attrs import Factory, define, field

from ...protocol.launch import Launch
from .. import BATCH, BUSY_AFTER, DUMP_SIGNAL, QUICK, REPORT_AFTER, SHORT_PAUSE, Duty, HungUp, Taken, enter
from ..connection import left, socket_of
from ..intake import GOODBYE_S, HANDSHAKE_S, HEADER_S, VIRGIN, Arrival, Refused
from ..loading import Application
from ..stacks import MAX_TASK_LINES, say_tasks_at

Handler = Callable[[Any], Awaitable[object]]
Serve = Callable[[Any, Taken], Awaitable[object]]
"""What serves a connection: the handler, or a server for ASGI."""

BEGIN = 3
"""Checkpoints after a batch, in which what was taken can begin: a task starts at the first, has read at the second,
and has answered at the third if it ever does so at once."""

_TRIO = os.path.dirname(trio.__file__) + os.sep
"""Its own frames say nothing of the application."""


async def serve(handler: Handler, duty: Duty, arrival: Arrival | None = None) -> None:
    """Take and serve connections until the master sends no more and those taken are done."""
    service = TrioServer(duty, serve=lambda stream, taken: handler(stream), arrival=arrival)
    service.enter()
    await service.run()


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and what was taken is done.  Raises CannotLoad."""
    trio.run(serve, application.target, duty, Arrival.of(duty, launch), strict_exception_groups=True)


def tasks() -> list[str]:
    """The tasks of trio, each with where it stands."""
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
    """How one waits on trio."""

    lock: Any = Factory(trio.StrictFIFOLock)

    async def readable(self, fd: int) -> None:
        await trio.lowlevel.wait_readable(fd)

    async def writable(self, fd: int) -> None:
        await trio.lowlevel.wait_writable(fd)

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()


@define(eq=False)
class TrioWorker:
    """What the loop does beside serving: it takes, reports and beats."""

    duty: Duty
    draining: trio.Event = Factory(trio.Event)
    _news: trio.Event = Factory(trio.Event)

    def wake(self) -> None:
        """There is something to report."""
        self._news.set()

    async def something(self) -> None:
        """Wait until there may be something to take."""
        await trio.lowlevel.wait_readable(self.duty.letterbox.fileno())

    def drain(self) -> None:
        """There will be no more."""
        self.draining.set()

    async def take(self, begin: Callable[[Taken], None]) -> None:
        """Take a few, let them begin, and only then the next: what is in our hands dies with us.

        While they begin quickly the batch doubles, for a turn of the loop costs more than a connection; when one
        does not, it falls to one.
        """
        duty, batch = self.duty, 1
        try:
            while True:
                began, count = trio.current_time(), 0
                while count < batch and (taken := duty.take()) is not None:
                    begin(taken)
                    count += 1
                if count:
                    for _ in range(BEGIN):
                        await trio.lowlevel.checkpoint()
                    quick = trio.current_time() - began < QUICK * count
                    batch = min(2 * batch, BATCH) if quick else 1
                elif duty.able:
                    await self.something()
                else:
                    await trio.sleep(SHORT_PAUSE)
                    duty.beat()
        except HungUp:
            self.drain()

    async def speak(self) -> None:
        """Report what is new, gathered over `REPORT_AFTER`, and every heartbeat in any case."""
        duty = self.duty
        beat_at = trio.current_time() + duty.heartbeat
        while True:
            with trio.move_on_at(beat_at):
                await self._news.wait()
            late = trio.current_time() - beat_at
            if late >= 0:
                duty.lag = max(duty.lag, late)
                duty.beat()
                beat_at = trio.current_time() + duty.heartbeat
            else:
                await self._gather(beat_at)

    async def _gather(self, beat_at: float) -> None:
        """Report every `REPORT_AFTER` while there is news, without an event and two tasks' turns for each."""
        duty = self.duty
        while True:
            await trio.sleep(REPORT_AFTER)
            if not duty.has_news or trio.current_time() >= beat_at:
                break
            duty.report()
        self._news = trio.Event()
        if duty.has_news:
            self._news.set()


@define(eq=False)
class TrioServer(TrioWorker):
    """Serves connections, each in a task of its own, and minds signals."""

    serve: Serve = field(kw_only=True)
    arrival: Arrival | None = field(default=None, kw_only=True)
    _stirred: trio.Event = Factory(trio.Event)
    _arriving: set[trio.CancelScope] = Factory(set)
    """Connections that the application does not have yet."""

    def enter(self) -> None:
        """Be the current worker from now on: the application may ask for it when it starts."""
        enter(self.duty, self.draining, TrioWaiter())

    async def run(self) -> None:
        """Serve until the last connection is done."""
        say_tasks_at(DUMP_SIGNAL, tasks)
        self.duty.wake = self.wake
        self.duty.stir = lambda: self._stirred.set()
        async with trio.open_nursery() as service:
            async with trio.open_nursery() as connections:
                await service.start(self._mind_signals, connections.cancel_scope)
                service.start_soon(self.speak)
                service.start_soon(self._speak_of_requests)
                self.duty.ready()
                await self.take(lambda taken: connections.start_soon(self._serve_one, taken))
            service.cancel_scope.cancel()
        self.duty.report()

    async def _serve_one(self, taken: Taken) -> None:
        sock = socket_of(taken, socket.socket)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        try:
            if self.arrival is None or taken.probe:
                await self.serve(stream, taken)
            else:
                await self._serve_arriving(self.arrival, taken, stream, sock)
        except Exception as error:
            # The application's fault, and only this connection's affair; but a client may leave as it likes.
            if not left(error, trio.BrokenResourceError, _is_over(stream)):
                traceback.print_exc()
        finally:
            trio.lowlevel.notify_closing(sock)
            sock.close()
            self.duty.finished(taken)

    async def _serve_arriving(
        self, arrival: Arrival, taken: Taken, stream: trio.SocketStream, sock: socket.socket
    ) -> None:
        arrived: trio.SocketStream | trio.SSLStream[trio.SocketStream] | None = None
        with trio.CancelScope() as scope:
            if self.draining.is_set():
                scope.deadline = trio.current_time() + VIRGIN
            self._arriving.add(scope)
            try:
                arrived = await _arrive(arrival, taken, stream, sock)
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
            scope.deadline = trio.current_time() + VIRGIN

    async def _speak_of_requests(self) -> None:
        """Report how many are in progress, `BUSY_AFTER` after that has changed."""
        while True:
            await self._stirred.wait()
            await trio.sleep(BUSY_AFTER)
            self._stirred = trio.Event()
            self.duty.report_busy()

    async def _mind_signals(
        self, connections: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """SIGTERM and SIGINT: ask to be replaced.  Once draining, or said twice: end now."""
        asked = False
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if asked or self.draining.is_set():
                    connections.cancel()
                    return
                asked = True
                self.duty.retire(signal.Signals(number).name)


# --- the PROXY header, and TLS


async def _arrive(
    arrival: Arrival, taken: Taken, stream: trio.SocketStream, sock: socket.socket
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream] | None:
    """Pass what has to be passed; None: it was not, and is to be closed."""
    peer: object = None
    try:
        peer = sock.getpeername()
        if arrival.versions:
            with trio.fail_after(HEADER_S):
                await arrival.announce(sock, peer, taken, partial(trio.lowlevel.wait_readable, sock))
        return stream if arrival.context is None else await _handshake(stream, arrival.context)
    except trio.TooSlowError:
        arrival.refuse(TimeoutError(), taken, peer)
    except (Refused, OSError) as error:
        arrival.refuse(error, taken, peer)
    return None


async def _handshake(stream: trio.SocketStream, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    """Speak TLS from now on.  Raises OSError.

    As `trio.serve_ssl_over_tcp` has it, and not "https_compatible": a handler that takes the end of the stream for the
    end of a message must be able to tell it from a cut by somebody in between, and a client that looks for our
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
        with trio.move_on_after(GOODBYE_S):
            await secure.aclose()
    except (OSError, trio.BrokenResourceError, trio.BusyResourceError):
        pass  # the client is gone, or OpenSSL is not sure of it; the socket is closed in any case


def _is_over(stream: trio.SocketStream) -> Callable[[object], bool]:
    """Tells the client's stream, and TLS over it, from all else."""
    return lambda owner: owner is stream or (isinstance(owner, trio.SSLStream) and owner.transport_stream is stream)
