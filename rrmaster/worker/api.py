"""What does an application see of the worker that it runs in?  `current_worker`, and what that can do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define

from .duty import Duty
from .messages import MasterGone, Messages, Waiter

if TYPE_CHECKING:
    from ..protocol.proxy_header import Header


class Draining(Protocol):
    """Set once no more connections will come; what is open should end soon."""

    def is_set(self) -> bool:
        """Whether it has begun."""

    async def wait(self) -> object:
        """Wait until it begins."""


@define(eq=False)
class CurrentWorker:
    """This worker, as its application sees it."""

    id: int
    """Counts up from 1 over the master's life, and is never used again."""
    slot: int
    """0 to N-1; a replacement has the slot of the one it replaces."""
    generation: int
    """1, and one more with each reload."""
    draining: Draining
    """Set once no more connections will come and those that are open should end soon: ``await me.draining.wait()``,
    ``me.draining.is_set()``."""
    _duty: Duty
    _messages: Messages | None

    async def send(self, value: Any) -> None:
        """Send a message to the program that runs the master, which is told of it by an event (`WorkerMessage`).

        `value` is a JSON value of up to 60 KiB; a key that is no text becomes one, and a tuple a list.  Waits while the
        line is full.  Messages of one task arrive in their order, and in a drain too.

        Raises NoteRefused (a ValueError) for what cannot be sent, MasterGone.  Cancelled, it has sent nothing.
        The idea is Node's ``process.send``.
        """
        await self._talk.send(value)

    def messages(self) -> AsyncGenerator[Any]:
        """``async for message in me.messages()``: what the master's program sends to this worker, in order.

        Each message is given once; one iteration at a time (RuntimeError).  What came before stays in the kernel until
        it is asked for; when some hundred wait there, whoever sends waits.  Ends when the master does.
        """
        return self._talk.receive()

    async def disconnect(self) -> None:
        """Leave: no more connections come, those that are open are finished, then this worker ends, and is replaced.

        Returns when the drain has begun, so that it can be called while serving a connection.  `retire` is kinder: the
        replacement serves first.  Before this worker serves it is a failed start, with back-off and all, for who takes
        its place would leave as well.
        """
        self._duty.retire("it has disconnected", now=True)
        await self.draining.wait()

    @property
    def _talk(self) -> Messages:
        if self._messages is None:
            raise MasterGone("this worker was started without a talk line")
        return self._messages

    def set_ready(self, ready: bool) -> None:
        """Take no connections for the time being (False), or again (True).  Those open are not touched.

        A few that are under way may still come: the master hears of it within some milliseconds.
        """
        self._duty.accepting = ready
        self._duty.report_soon()

    def retire(self, reason: str = "") -> None:
        """Ask to be replaced: connections come until the replacement serves, then this worker is drained.

        `reason` is for the log.  Said again, it changes nothing.
        """
        self._duty.retire(reason)


_current: CurrentWorker | None = None


def current_worker() -> CurrentWorker:
    """This worker.  Raises RuntimeError outside of one: ask `is_worker`."""
    if _current is None:
        raise RuntimeError("this process is no worker of rrmaster, or does not serve yet")
    return _current


def is_worker() -> bool:
    """Whether this code runs in a worker."""
    return _current is not None


def client_address(stream: Any) -> tuple[str, int] | None:
    """The address of the client at the other end of a stream (of trio, or a writer of asyncio); None: a unix socket's.

    With the PROXY protocol it is what the proxy has told, while the socket itself only knows the proxy.  Raises OSError
    for a stream that is closed.
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
    """What the PROXY protocol's header has told of a connection; None: there was none."""
    found = _current._duty.clients.get(sock.fileno()) if _current is not None else None
    return found[1] if found is not None else None


def become_worker(duty: Duty, draining: Draining, waiter: Waiter) -> None:
    """Make it the current worker; called by the runtime, once."""
    me, messages = duty.identity, None if duty.talk is None else Messages(duty.talk, waiter)
    set_current_worker(CurrentWorker(me.id, me.slot, me.generation, draining, duty, messages))


def set_current_worker(worker: CurrentWorker) -> None:
    """This is what the application is told of itself."""
    global _current
    _current = worker
