"""How does a program without a loop open its addresses?  As sockets, for servers that call `accept` themselves.

Such a socket can be polled, has a timeout or none, and returns ordinary sockets.  It serves wherever a listening socket
does whose server accepts in Python (socketserver, wsgiref, gunicorn's threads, asyncio's own ``create_server(sock=)``),
and not with uvloop, which accepts in C.  For TLS wrap each connection, not the listening socket.

Where no loop of trio or asyncio runs, a thread is the host.  It beats for as long as Python runs, so it cannot tell
that the program hangs.  But a program that hangs does not accept, and then the master gives it no more connections.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import Factory, define

from ...protocol import wire
from ...protocol.channel import HungUp
from ...protocol.wire import REPORT_AFTER
from ..connection import Connection, socket_of
from ..duty import FULL_TABLE_S, Taken
from .port import AddressRequest, Port, host_and_port
from .ports import Ports
from .program import current_program
from .standalone import open_unix

ANSWER_S = 10.0
"""Seconds to wait for the master's answer; it takes a quarter of one at most."""

PEEK_S = 0.02
"""Seconds between looks for an answer that the host's own loop may have read."""


@define(eq=False)
class _NoLoop:
    """Refuses what needs a loop, where there is none."""

    lock: Any = None

    async def wait_readable(self, fd: int) -> None:
        raise RuntimeError("messages need a loop: call this on trio or asyncio")

    async def wait_writable(self, fd: int) -> None:
        raise RuntimeError("messages need a loop: call this on trio or asyncio")

    async def checkpoint(self) -> None:
        raise RuntimeError("messages need a loop: call this on trio or asyncio")


@define(eq=False)
class _ThreadDraining:
    ports: Ports

    def is_set(self) -> bool:
        return self.ports.hung_up

    async def wait(self) -> object:
        raise RuntimeError("to wait needs a loop; without one ask draining.is_set()")


@define(eq=False)
class ThreadHost:
    """Serves the ports in a thread, beside a program that has no loop."""

    ports: Ports
    loop: None = None
    waiter: _NoLoop = Factory(_NoLoop)
    draining: _ThreadDraining = Factory(lambda self: _ThreadDraining(self.ports), takes_self=True)
    _wakeup: int = Factory(lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    """An eventfd that ends the thread's wait."""
    _stopped: bool = False
    _thread: threading.Thread | None = None

    def lives(self) -> bool:
        return not self._stopped

    def start(self) -> None:
        self.ports.set_host(self.wake, self.wake)
        self._thread = threading.Thread(target=self._run, name="rrmaster: take and report", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self.wake()
        if self._thread is not None:
            self._thread.join()

    def end(self, now: bool) -> None:
        """End the main thread by SIGTERM, whose handler raises SystemExit there (see `Program.obey_term`).

        Only a signal reaches the main thread, whatever it waits for.  Other threads end at their next `accept`.
        """
        for port in list(self.ports.open_ports.values()):
            port.on_arrival()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def wake(self) -> None:
        """Let the thread look for connections and reports.  From any thread."""
        os.eventfd_write(self._wakeup, 1)

    def _run(self) -> None:
        ports, poll = self.ports, select.poll()
        poll.register(self._wakeup, select.POLLIN)
        poll.register(ports.letterbox.fileno(), select.POLLIN)
        beat_at = time.monotonic() + ports.heartbeat
        while not self._stopped:
            if not ports.hung_up and not self._take():
                poll.unregister(ports.letterbox.fileno())
            if ports.report_due:
                # Sleep before the report, not after: what changes within this time joins it, as in a loop's timer.
                time.sleep(REPORT_AFTER)
                ports.report()
            if ports.has_descriptors:
                self._wait(poll, beat_at)
            else:
                time.sleep(FULL_TABLE_S)  # not on the letterbox: it stays readable, and nothing can be taken
            if time.monotonic() >= beat_at or not ports.has_descriptors:
                ports.beat()
                beat_at = time.monotonic() + ports.heartbeat

    def _wait(self, poll: select.poll, until: float) -> None:
        # A report that is still due found the line full: try again soon, although nothing wakes the thread.
        pause = REPORT_AFTER if self.ports.report_due else until - time.monotonic()
        poll.poll(max(pause, 0.0) * 1000)
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            pass  # the letterbox or the time has ended the wait

    def _take(self) -> bool:
        """Take what is wanted.  False if the master sends no more."""
        try:
            while (taken := self.ports.take()) is not None:
                self.ports.deliver(taken)
        except HungUp:
            self.ports.hang_up()
            return False
        return True


class _Accepted(Connection):
    """A connection whose descriptor another object may take over and keep open, as an SSLSocket does."""

    on_detach: Callable[[int], None]

    def watch_detach(self, on_detach: Callable[[int], None]) -> None:
        """Set what is called with the descriptor when another object takes it over."""
        self.on_detach = on_detach

    def detach(self) -> int:
        fd, self.on_close = self.fileno(), None
        self.on_detach(fd)
        return super().detach()


class ListeningSocket(socket.socket):
    """A listening socket of which the master has the other half.

    Its descriptor, which a server polls, is one end of a socket pair.  A byte is sent at the other end while there is
    something to accept.  Options were set by the master, so those set here are accepted and change nothing.
    """

    def __init__(self, port: Port, ports: Ports) -> None:
        mine, self._sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=mine.detach())
        self._sender.setblocking(False)
        self._port, self._ports, self._is_readable = port, ports, False
        port.call(self._make_readable, self._make_readable)
        ports.wake_host()  # a connection may have arrived before this object could be told

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._port.family)

    def getsockname(self) -> Any:
        return self._port.address

    def listen(self, backlog: int = 0, /) -> None:
        """Do nothing: the master's socket listens already."""

    def bind(self, address: Any, /) -> None:
        raise OSError(errno.EINVAL, "it is bound already, in the master")

    def setsockopt(self, *options: Any) -> None:
        """Do nothing: the master has set what matters (see `dispatch.listeners`)."""

    def getsockopt(self, level: int, name: int, size: int = 0, /) -> Any:
        if (level, name) == (socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return 1
        return super().getsockopt(level, name, size) if size else super().getsockopt(level, name)

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection and the client's address.  From any thread; the connection is the caller's to close.

        Waits as the socket's timeout says.  During a drain no connection comes, and the program is ended when its last
        one is closed: then SystemExit is raised here.  Raises BlockingIOError, TimeoutError, and OSError (EBADF) once
        the socket is closed.
        """
        timeout = self.gettimeout()
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            connection = self._next()
            if connection is not None:
                return connection
            if self.fileno() < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if timeout == 0:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._wait(until)

    def _wait(self, until: float | None) -> None:
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        left = None if until is None else max(until - time.monotonic(), 0.0)
        if not poll.poll(None if left is None else left * 1000) and until is not None:
            raise TimeoutError("timed out")
        program = current_program()
        if program is not None and program.ending:
            raise SystemExit(0)  # ends the program in the main thread, and elsewhere the thread that accepts

    def _next(self) -> tuple[socket.socket, Any] | None:
        while (taken := self._take()) is not None:
            connection = socket_of(taken, _Accepted)
            connection.watch(partial(self._ports.finished, taken))
            connection.watch_detach(partial(self._ports.watch_detached, taken=taken))
            try:
                return connection, connection.getpeername()
            except OSError:
                connection.close()  # its client has gone already: accept(2) would call it ECONNABORTED
        return None

    def _take(self) -> Taken | None:
        # Taken here and not by the host: in a loop the host runs in this very thread, and only once the caller waits.
        ports, port = self._ports, self._port
        with ports.lock:
            ports.on_accept()
            port.await_one()
            try:
                while not port.queue and (taken := ports.take()) is not None:
                    ports.deliver(taken)
            except HungUp:
                pass  # the host finds it, too, and acts on it
            finally:
                port.await_one(-1)
            taken = ports.pop(port)
            if port.queue or (ports.has_descriptors and ports.is_next(port)):
                self._make_readable()
            else:
                self._make_unreadable()
                if ports.letterbox.oldest() is not None:
                    ports.wake_host()  # when the host last looked, a connection of this port stood before that one
            return taken

    def _make_readable(self) -> None:
        with self._ports.lock:
            if not self._is_readable and self.fileno() >= 0:
                self._is_readable = True
                self._sender.send(b"!")

    def _make_unreadable(self) -> None:
        if self._is_readable:
            self._is_readable = False
            self.recv(1)

    def close(self) -> None:
        """Accept no more connections in this worker.  Other workers still serve the address."""
        self._ports.close(self._port)
        with self._ports.lock:
            self._sender.close()
            super().close()


def listening_socket(
    address: Any, *, family: int = socket.AF_INET, backlog: int | None = None, mode: int | None = None
) -> socket.socket:
    """A listening socket: `socket.create_server`, and in a worker's program the same address through the master.

    For servers that accept by themselves (see above which do).  From any thread.  The socket is the caller's to close.
    In a worker it stands for a listening socket of the master: to close it closes no address, the connections that it
    accepts are the caller's, and ``bind``, ``listen`` and options change nothing.

    `address` is (host, port), or the path of a unix socket, relative to the working directory.  The host is an IP
    address or a name, of which the first address is taken; empty: all of IPv4.  Port 0 is a free port: the n-th request
    of a worker gets the same port in all workers.  `backlog` is the number of connections that may wait in the kernel;
    None: that of `--backlog` in a worker.  `mode` are the permissions of a unix socket; None: those of `--unix-mode` in
    a worker, else what the umask leaves.  A socket that a dead program has left at the path is replaced.

    Blocks until the master has answered, a quarter of a second at most.  Raises OSError as a bind does (EADDRINUSE,
    EACCES, EADDRNOTAVAIL, ...), TimeoutError if the master does not answer for 10 s, and RuntimeError in a worker that
    serves an application, or if another loop of the program serves already.
    """
    program = current_program()
    is_path = isinstance(address, str | bytes | os.PathLike)
    if program is None:
        if is_path:
            return open_unix(os.fsdecode(address), mode, 128 if backlog is None else backlog)  # 128 as create_server
        return socket.create_server(address, family=family, backlog=backlog)
    if is_path:
        wish = wire.Listen(0, path=os.path.abspath(os.fsdecode(address)), mode=mode, backlog=backlog)
    else:
        host, port = address[:2]
        found = socket.getaddrinfo(host or None, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        where = host_and_port(family, found[0][4])
        wish = wire.Listen(0, *where, backlog=backlog)
    program.attach()
    request = program.ports.request(wish, lambda: None)
    _await(program.ports, request)
    return ListeningSocket(request.result(), program.ports)


def _await(ports: Ports, request: AddressRequest) -> None:
    """Wait for the answer in this thread: its loop, if it has one, is the host, and cannot run meanwhile."""
    poll, until = select.poll(), time.monotonic() + ANSWER_S
    poll.register(ports.letterbox.line.fileno(), select.POLLIN)
    while request.answer is None:
        if time.monotonic() > until:
            ports.abandon(request)
            raise TimeoutError(f"the master has not answered for {ANSWER_S:g} s")
        poll.poll(PEEK_S * 1000)
        try:
            while request.answer is None and (taken := ports.take()) is not None:
                ports.deliver(taken)
        except HungUp:
            ports.hang_up()
