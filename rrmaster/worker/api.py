"""What does an application see of the worker that it runs in?  `current_worker`, and what that can do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define

from .duty import Duty
from .messages import MasterGone, Messages, Waiter

if TYPE_CHECKING:
    from ..protocol.proxy_header import Header
    from .load.limiters import Limiter


class Draining(Protocol):
    """An event, set once no more connections come and the open ones should end soon.

    The event of the library that serves (`trio.Event`, `asyncio.Event`), so it must be awaited in that library's loop.
    """

    def is_set(self) -> bool:
        """Whether the drain has begun."""

    async def wait(self) -> object:
        """Wait until the drain begins."""


@define(eq=False)
class CurrentWorker:
    """This worker, as its application sees it.  `current_worker` returns it; there is one in each worker's process.

    It exists from just before the application's startup (its ASGI lifespan, or the first line of a program) until the
    process ends.  The master never sees this object: what it does travels on the worker's line.

    `send`, `messages`, `disconnect` and ``draining.wait()`` must be awaited in a task of the loop that serves.
    `retire` and ``draining.is_set()`` may be called from any thread of the process.  So may `set_ready` and `set_full`,
    but for a handler on trio, whose other threads call them by `trio.from_thread.run_sync`.

    The idea, and the names `disconnect`, `send` and `id`, are those of ``cluster.worker`` in Node.
    """

    id: int
    """A number that counts up from 1 over the master's life and is never used again."""
    slot: int
    """0 to N-1.  A replacement has the slot of the worker that it replaces."""
    generation: int
    """1, and one more with each reload."""
    draining: Draining
    """Set once no more connections come and the open ones should end soon: because of a reload, a smaller fleet, a
    recycling or the master's stop.  After the graceful timeout (`--graceful-timeout`, 30 s) the process is ended."""
    _duty: Duty
    _messages: Messages | None

    async def send(self, value: Any) -> None:
        """Send a message to the program that runs the master, where it is an event (`WorkerMessage`).

        `value` is a JSON value of up to 60 KiB; a key that is no text becomes text, and a tuple a list.  Waits while
        the line is full.  Messages of one task arrive in their order, also during a drain.

        Raises NoteRefused (a ValueError) for a value that cannot be sent, MasterGone if the master has died or hung up.
        If the task is cancelled while it waits, nothing has been sent.  The idea is that of ``process.send`` in Node.
        """
        await self._talk.send(value)

    def messages(self) -> AsyncGenerator[Any]:
        """Iterate over what the master's program sends to this worker: ``async for message in me.messages()``.

        Messages come in order and each once, whichever task iterates; a second iteration at the same time raises
        RuntimeError.  Messages that arrive before the first iteration wait in the kernel.  When some hundred wait
        there, the sender waits.  The iteration ends when the master has died or hung up.
        """
        return self._talk.receive()

    async def disconnect(self) -> None:
        """Leave the fleet: no more connections come, the open ones are finished, and the process ends and is replaced.

        Returns when the drain has begun, so a handler may call it while it serves a connection.  `retire` is kinder to
        clients: there the replacement serves first.  A worker that disconnects before it serves counts as a failed
        start, with back-off, because its replacement would do the same.
        """
        self._duty.retire("it has disconnected", now=True)
        await self.draining.wait()

    @property
    def _talk(self) -> Messages:
        if self._messages is None:
            raise MasterGone("this worker was started without a talk line")
        return self._messages

    def set_ready(self, ready: bool) -> None:
        """Take no connections for the time being (False), or take them again (True).  Open ones are not touched.

        The master hears of it within some milliseconds, so a few connections that are under way may still come.  In a
        program that opens its own addresses the first True makes the worker ready, also without any address, and a
        False before that holds readiness back.
        """
        self._duty.set_accepting(ready)

    def set_full(self, full: bool) -> None:
        """Say that a further request would have to wait here (True), or no longer (False).

        While another worker has room, connections go there; when all are full they are handed out as usual, and wait.
        What the open connections bring is not touched.  The master hears of it within some milliseconds.
        """
        self._duty.set_full(full)

    def watch_limiter(self, limiter: Limiter) -> None:
        """Say by itself that this worker is full, as `set_full` does, while all of this limiter's tokens are borrowed.

        `limiter` is a ``trio.CapacityLimiter``, an ``anyio.CapacityLimiter``, or any object with the numbers
        ``borrowed_tokens`` and ``total_tokens``, which are read in the loop that serves.  Not needed for those that
        rrmaster knows: the threads of WSGI, the default limiters of trio and anyio (which FastAPI's ``def`` endpoints
        use), and the executor of ``asyncio.to_thread``.  To be called in the loop that serves.
        """
        self._duty.limiters.watch(limiter)

    async def park(self, stream: Any) -> bool:
        """Give a connection back between two requests: its handler is called again, maybe in another worker, when the
        client speaks.  For a stream handler whose protocol has requests and answers, with `--park-after`.

        `stream` is the handler's own `trio.SocketStream`, or its `asyncio.StreamWriter`, on which nothing is in
        progress.  Returns True when it is parked: it is closed here, and the handler returns.  False: it stays here,
        and the handler goes on, because no idle pool takes it now, or the client has left, or asyncio's reader holds
        what the client has sent ahead.  A connection rests for `--keep-alive` at most.

        Raises RuntimeError where handlers cannot park, ValueError for a stream with TLS, whose state is in this worker.
        """
        park = self._duty.park_stream
        if park is None:
            raise RuntimeError("a stream is parked by a stream handler, and with --park-after")
        return await park(stream)

    def retire(self, reason: str = "") -> None:
        """Ask to be replaced: connections come until the replacement serves, then this worker is drained.

        `reason` is for the master's log.  A second call changes nothing.
        """
        self._duty.retire(reason)


_current: CurrentWorker | None = None


def current_worker() -> CurrentWorker:
    """The worker that this code runs in.  From any thread.

    Raises RuntimeError in any other process, and in a worker that does not serve yet: while the application is
    imported, and in hooks of `on_fork`.  `is_worker` asks without an error.
    """
    if _current is None:
        raise RuntimeError("this process is no worker of rrmaster, or does not serve yet")
    return _current


def is_worker() -> bool:
    """Whether this code runs in a worker for which `current_worker` has an answer.  From any thread."""
    return _current is not None


def client_address(stream: Any) -> tuple[str, int] | None:
    """The address of the client at the other end of a connection: host and port, or None for a unix socket's.

    `stream` is a trio stream, with TLS or without, or an asyncio.StreamWriter.  With the PROXY protocol the address is
    the one that the proxy has sent; the socket itself knows only the proxy's.  To be called in the loop that serves,
    while the stream is open: raises OSError once it is closed or the client has reset it.
    """
    if hasattr(stream, "get_extra_info"):
        sock = stream.get_extra_info("socket")
    else:
        while hasattr(stream, "transport_stream"):
            stream = stream.transport_stream
        sock = stream.socket
    header = header_of(sock)
    if header is not None and header.source is not None:
        return header.source
    peer = sock.getpeername()
    return (peer[0], peer[1]) if isinstance(peer, tuple) else None


def header_of(sock: Any) -> Header | None:
    """The PROXY protocol's header of a connection, or None if there was none."""
    found = _current._duty.clients.get(sock.fileno()) if _current is not None else None
    return found[1] if found is not None else None


def become_worker(duty: Duty, draining: Draining, waiter: Waiter) -> None:
    """Make this process the worker of this duty; the runtime calls it once, before the application starts."""
    me, messages = duty.identity, None if duty.talk is None else Messages(duty.talk, waiter)
    set_current_worker(CurrentWorker(me.id, me.slot, me.generation, draining, duty, messages))


def set_current_worker(worker: CurrentWorker) -> None:
    """Set what `current_worker` returns."""
    global _current
    _current = worker
