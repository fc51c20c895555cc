"""How does a program on trio open its addresses?  By listeners that `trio.serve_listeners` serves unchanged.

In a worker they ask the master; where no master runs, the same calls are trio's own.  The host runs beside the program
in a system task, so it lives as long as `trio.run` and is no child of any nursery of the program.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import trio
from attrs import Factory, define, field

from ...protocol import wire
from ..connection import socket_of
from ..duty import Taken
from ..serving.on_trio import TrioWaiter, TrioWorker, tasks
from ..stacks import DUMP_SIGNAL, dump_tasks_at
from .port import Port, PortSocket, host_and_port
from .ports import Ports
from .program import Program, current_program
from .standalone import open_unix

BACKLOG = 0xFFFF
"""Connections that may wait in the kernel, if the program says nothing: as trio has it, the most that the kernel allows
(`net.core.somaxconn` caps it)."""


@define(eq=False)
class TrioHost(TrioWorker):
    """Serves the ports in a system task of the program's loop."""

    loop: trio.lowlevel.TrioToken = Factory(trio.lowlevel.current_trio_token)
    waiter: TrioWaiter = Factory(TrioWaiter)
    _main: trio.Nursery = field(init=False)
    _pause: trio.CancelScope = Factory(trio.CancelScope)
    """Around the wait for the letterbox; cancelled, the host looks at once."""
    _thread: int = Factory(threading.get_ident)
    _alive: bool = True

    @property
    def ports(self) -> Ports:
        """The duty."""
        assert isinstance(self.duty, Ports)
        return self.duty

    def lives(self) -> bool:
        return self._alive

    def start(self) -> None:
        self._main = _nursery_of_main()
        self.ports.set_host(lambda: self.call(self.wake), lambda: self.call(self._pause.cancel))
        if threading.current_thread() is threading.main_thread():  # only there can a signal handler be set
            dump_tasks_at(DUMP_SIGNAL, tasks)
        trio.lowlevel.spawn_system_task(self._run, name="rrmaster: take and report")

    def stop(self) -> None:
        """Nothing to do: its loop has ended, or another host could not take over."""

    def end(self, now: bool) -> None:
        self.call(self._main.cancel_scope.cancel)

    def call(self, what: Callable[[], object]) -> None:
        """Call `what` in the loop: at once if this is the loop's thread, otherwise soon.  From any thread."""
        if not self._alive:
            return  # no task waits there for anything
        if threading.get_ident() == self._thread:
            what()
        else:
            try:
                self.loop.run_sync_soon(what)
            except trio.RunFinishedError:
                pass  # the loop ended between the check and the call

    async def wait_readable(self) -> None:
        with trio.CancelScope() as self._pause:
            await TrioWorker.wait_readable(self)

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.report_changes)
                await self.take(self.ports.deliver)
                self.ports.hang_up()
        finally:
            self._alive = False


def _nursery_of_main() -> trio.Nursery:
    """The nursery of the main task, of which the current task is a descendant: cancelling it ends the program."""
    root, task = trio.lowlevel.current_root_task(), trio.lowlevel.current_task()
    while (nursery := task.parent_nursery) is not None and nursery.parent_task is not root:
        task = nursery.parent_task
    assert nursery is not None, "only the root task has none, and it runs no program's code"
    return nursery


# --- connections


def _socket_class() -> Any:
    """The class of trio's sockets.  trio does not export it: `trio.socket.SocketType` is only an interface."""
    with socket.socket(socket.AF_UNIX) as sock:
        return type(trio.socket.from_stdlib_socket(sock))


_Socket: Any = _socket_class()


class _Connection(_Socket):  # type: ignore[misc]  # its class is found at run time
    """A trio socket that counts its connection as closed, once, when it is closed in any way."""

    def __init__(self, taken: Taken, finished: Callable[[Taken], None]) -> None:
        super().__init__(socket_of(taken, socket.socket))
        self._on_close: Callable[[], None] | None = lambda: finished(taken)

    def close(self) -> None:
        self._notify()  # counted before it is closed: see `protocol.pages.figures`
        super().close()

    def detach(self) -> int:
        fd: int = super().detach()
        self._notify()
        return fd

    def __del__(self) -> None:
        self._notify()  # no code refers to the socket, so Python closes it

    def _notify(self) -> None:
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()


class PortListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts the connections that the master hands to this worker for one address.

    It lives until it is closed.  The listening socket is the master's: to close the listener closes no socket, and the
    other workers still serve the address.  All methods must be called in the thread of the loop that opened it.
    """

    def __init__(self, port: Port, ports: Ports, host: TrioHost) -> None:
        self.socket = PortSocket(port)
        """With `getsockname()`, as `trio.SocketListener.socket` has it."""
        self._port, self._ports = port, ports
        self._arrived = trio.lowlevel.ParkingLot()
        self._closed = False
        port.call(lambda: host.call(self._arrived.unpark_all))

    async def accept(self) -> trio.SocketStream:
        """The next connection, which is the caller's to close.  Several tasks may wait at the same time.

        A connection is taken from the master only while a task waits here.  During a drain there is none, and this
        waits until the program is ended, so that connections accepted before can go on.  Raises
        trio.ClosedResourceError.
        """
        await trio.lowlevel.checkpoint()
        while not self._closed:
            self._ports.on_accept()
            taken = self._ports.pop(self._port)
            if taken is not None:
                return trio.SocketStream(_Connection(taken, self._ports.finished))
            self._port.await_one()
            self._ports.wake_host()
            try:
                await self._arrived.park()
            finally:
                self._port.await_one(-1)
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """Accept no more connections in this worker.  Other workers still serve the address."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same as `aclose`, without a checkpoint."""
        self._closed = True
        self._ports.close(self._port)
        self._arrived.unpark_all()


# --- addresses


async def open_tcp_listeners(
    port: int, *, host: str | bytes | None = None, backlog: int | None = None
) -> list[trio.SocketListener] | list[PortListener]:
    """`trio.open_tcp_listeners`, and in a worker's program the same addresses through the master.

    To be awaited in a trio task of the program.  Returns one listener for each address of `host` (an IP address or a
    name; None: all of IPv4 and of IPv6), for `trio.serve_listeners` or to `accept` from.

    The master opens each address once for all workers and keeps it open until it stops; the listeners live until they
    are closed, or the worker is drained.  ``port=0`` is a free port: the n-th request of a worker gets the same port in
    all workers.  `backlog` is the number of connections that may wait in the kernel; the first worker that asks sets
    it.  The idea is that of ``net.Server.listen`` in Node's cluster.

    Raises OSError as a bind does (EADDRINUSE, EACCES, EADDRNOTAVAIL, ...), and RuntimeError in a worker that serves an
    application, or if another loop of the program serves already.
    """
    program = current_program()
    if program is None:
        return await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    if not isinstance(port, int):
        raise TypeError(f"port must be an int not {port!r}")
    if not isinstance(backlog, int | None):
        raise TypeError(f"backlog must be an int or None, not {backlog!r}")
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[PortListener] = []
    unsupported: OSError | None = None
    try:
        for family, _, _, _, address in found:
            wish = wire.Listen(0, *host_and_port(family, address), backlog=_bounded(backlog))
            try:
                opened.append(await _open(program, wish))
            except OSError as error:  # a machine without IPv6, as trio has it
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                unsupported = error
    except BaseException:
        for listener in opened:
            listener.close()
        raise
    if unsupported is not None and not opened:
        raise unsupported
    return opened


def _bounded(backlog: int | None) -> int:
    return BACKLOG if backlog is None else min(max(backlog, 0), BACKLOG)


async def open_unix_listener(
    path: str | bytes | os.PathLike[str], *, mode: int | None = None, backlog: int | None = None
) -> trio.SocketListener | PortListener:
    """A listener at a unix socket's path, relative to the working directory.  trio has no function for it.

    To be awaited in a trio task of the program.  `mode` are the permissions of the file; None: those of `--unix-mode`
    in a worker, else what the umask leaves.  A socket that a dead program has left at the path is replaced, a living
    one is not (EADDRINUSE).  In a worker the master owns the listening socket, and removes the file when it stops;
    without a master the listener does, and the file stays.

    Raises OSError as a bind does, and RuntimeError as `open_tcp_listeners` does.
    """
    program, name = current_program(), os.fsdecode(path)
    if program is None:
        await trio.lowlevel.checkpoint()
        return trio.SocketListener(trio.socket.from_stdlib_socket(open_unix(name, mode, _bounded(backlog))))
    wish = wire.Listen(0, path=os.path.abspath(name), mode=mode, backlog=_bounded(backlog))
    return await _open(program, wish)


async def _open(program: Program, wish: wire.Listen) -> PortListener:
    host, ports = program.attach(), program.ports
    assert isinstance(host, TrioHost)
    answered = trio.Event()
    request = ports.request(wish, lambda: host.call(answered.set))
    try:
        await answered.wait()
        if request.port is None and ports.hung_up:
            # The worker is drained: the host cancels this task in a moment, and an error would only be noise.
            await trio.sleep_forever()
    except BaseException:
        ports.abandon(request)
        raise
    return PortListener(request.result(), ports, host)
