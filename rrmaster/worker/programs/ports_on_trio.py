"""A program's addresses on trio: listeners that `trio.serve_listeners` serves unchanged.

In a worker they ask the master; alone, the same calls are trio's own.  What the host does beside the program runs in a
system task, so it lives as long as `trio.run` and is no child of any nursery of the program.
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
from .. import DUMP_SIGNAL, Taken
from ..connection import socket_of
from ..serving.on_trio import TrioWaiter, TrioWorker, tasks
from ..stacks import say_tasks_at
from .ports import ListeningSocket, Port, Ports, literal
from .program import Program, current_program
from .standalone import open_unix

BACKLOG = 0xFFFF
"""As trio has it: the kernel cuts it to what it allows."""


@define(eq=False)
class TrioHost(TrioWorker):
    """Serves the ports in a system task."""

    loop: trio.lowlevel.TrioToken = Factory(trio.lowlevel.current_trio_token)
    means: TrioWaiter = Factory(TrioWaiter)
    _main: trio.Nursery = field(init=False)
    _rest: trio.CancelScope = Factory(trio.CancelScope)
    _thread: int = Factory(threading.get_ident)
    _alive: bool = True

    @property
    def ports(self) -> Ports:
        """Its duty."""
        assert isinstance(self.duty, Ports)
        return self.duty

    def lives(self) -> bool:
        return self._alive

    def start(self) -> None:
        self._main = _nursery_of_main()
        self.duty.wake = lambda: self.call(self.wake)
        self.ports.kick = lambda: self.call(self._rest.cancel)
        if threading.current_thread() is threading.main_thread():
            say_tasks_at(DUMP_SIGNAL, tasks)
        trio.lowlevel.spawn_system_task(self._run, name="rrmaster: take and report")

    def stop(self) -> None:
        """Its loop is over, or this would not be called."""

    def end(self, now: bool) -> None:
        self.call(self._main.cancel_scope.cancel)

    def call(self, what: Callable[[], object]) -> None:
        """Do it in the loop: at once, if this is its thread."""
        if not self._alive:
            return  # nobody waits there any more
        if threading.get_ident() == self._thread:
            what()
        else:
            try:
                self.loop.run_sync_soon(what)
            except trio.RunFinishedError:
                pass  # it has ended in just this moment

    async def wait_readable(self) -> None:
        with trio.CancelScope() as self._rest:
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
    """The nursery of the main task, of which the current one is a descendant."""
    root, task = trio.lowlevel.current_root_task(), trio.lowlevel.current_task()
    while (nursery := task.parent_nursery) is not None and nursery.parent_task is not root:
        task = nursery.parent_task
    assert nursery is not None, "only the root task has none, and it runs no program's code"
    return nursery


# --- connections


def _kind() -> Any:
    """The class of trio's sockets; for sockets of one's own trio has `trio.socket.SocketType` to be derived from."""
    with socket.socket(socket.AF_UNIX) as sock:
        return type(trio.socket.from_stdlib_socket(sock))


_Socket: Any = _kind()


class _Connection(_Socket):  # type: ignore[misc]  # its class is found at run time
    """A connection that says when it is closed, whoever closes it."""

    def __init__(self, taken: Taken, finished: Callable[[Taken], None]) -> None:
        super().__init__(socket_of(taken, socket.socket))
        self._over: Callable[[], None] | None = lambda: finished(taken)

    def close(self) -> None:
        super().close()
        self._say()

    def detach(self) -> int:
        fd: int = super().detach()
        self._say()
        return fd

    def __del__(self) -> None:
        self._say()  # nobody has it any more, so Python closes it

    def _say(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()


class PortListener(trio.abc.Listener[trio.SocketStream]):
    """Accepts the connections that the master hands to this worker for one address."""

    def __init__(self, port: Port, ports: Ports, host: TrioHost) -> None:
        self.socket = ListeningSocket(port)
        """With `getsockname()`, as `trio.SocketListener.socket` has it."""
        self._port, self._ports = port, ports
        self._arrival = trio.lowlevel.ParkingLot()
        self._closed = False
        port.arrived = lambda: host.call(self._arrival.unpark_all)

    async def accept(self) -> trio.SocketStream:
        """The next connection.  In a drain there is none any more, and this waits: what was accepted goes on.

        Raises trio.ClosedResourceError.
        """
        await trio.lowlevel.checkpoint()
        while not self._closed:
            self._ports.asked()
            taken = self._ports.pick(self._port)
            if taken is not None:
                return trio.SocketStream(_Connection(taken, self._ports.finished))
            self._port.wanted += 1
            self._ports.kick()
            try:
                await self._arrival.park()
            finally:
                self._port.wanted -= 1
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """This worker takes no more of them; others do, and the address stays open."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """The same, at once."""
        self._closed = True
        self._ports.close(self._port)
        self._arrival.unpark_all()


# --- addresses


async def open_tcp_listeners(
    port: int, *, host: str | bytes | None = None, backlog: int | None = None
) -> list[trio.SocketListener] | list[PortListener]:
    """`trio.open_tcp_listeners`, and in a worker's program the same addresses through the master.

    The master opens each address once for all workers and keeps it until it stops; it hands its connections to who
    accepts.  Port 0 is a free one: the n-th that is asked for is the same in all workers.  Raises OSError as a bind
    does: EADDRINUSE, EACCES, EADDRNOTAVAIL, ...
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
            try:
                opened.append(
                    await _open(program, wire.Listen(0, *literal(family, address), backlog=_bounded(backlog)))
                )
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
    """A listener at a unix socket's path, relative to the working directory.

    `mode` are its permissions; None: as the umask has it, in a worker as --unix-mode says.  A socket that a dead
    program left there is replaced.  In a worker the master removes the file when it stops; alone, nobody does.  Raises
    OSError.
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
    request = ports.ask(wish, lambda: host.call(answered.set))
    try:
        await answered.wait()
        if request.port is None and ports.hung_up:
            await trio.sleep_forever()  # the program is about to be ended, and an error would only be noise
    except BaseException:
        ports.abandon(request)
        raise
    return PortListener(request.result(), ports, host)
