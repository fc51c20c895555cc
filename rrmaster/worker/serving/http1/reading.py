"""When does a connection read, and when does it write?

It reads not while requests wait behind the one that is answered.

uvicorn pauses its reading when a request comes ahead of its turn, and resumes it whenever an application asks for a
body and after each answer, so that a client that sends requests ahead and reads no answer fills the memory: 10 MB of
requests became 670 MB of objects.  `Flow` stands in for uvicorn's `FlowControl` and refuses to resume while requests
wait.

uvicorn also drops in silence what is sent to a client that has left, so an application that streams without an end, and
does not receive, never learns of it.  While the worker serves that stays as it is; in a drain such a stream would hold
the worker to the end of the graceful timeout, so its `send` raises `ClientGone`.

It writes the head of an answer with the first part of its body.  ASGI has a server wait for that part, and uvicorn
writes each of them at once: a system call more for each request, and a packet.  `Corked` stands in for the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from ..asgi import ClientGone

WHOLE_ANSWER = 3
"""Messages of an answer that is whole in fact: its start, a part, and an end, which Starlette's BaseHTTPMiddleware
sends by itself.  What follows them, such as a background task, goes on for a client that has left."""

LONGEST_HEAD = 1 << 20
"""Bytes of an unfinished head, or unfinished trailers, where no option bounds it.  httptools itself keeps any number;
the largest head that gunicorn takes by default has 0.8 MB."""


JOINED = 65536
"""Bytes of a first part that are copied to be one piece with the head.  To copy more costs as much as a system call."""


class State(ServerState):
    """What all connections of a worker share, and whether it drains."""

    draining = False

    def __init__(self) -> None:
        super().__init__()
        self._corked: list[Corked] = []

    def uncork_later(self, corked: Corked, loop: asyncio.AbstractEventLoop) -> None:
        """Write what this one holds when the turn of the loop ends."""
        if not self._corked:
            loop.call_soon(self._uncork)
        self._corked.append(corked)

    def _uncork(self) -> None:
        corked, self._corked = self._corked, []
        for one in corked:
            one.uncork()

    def drain(self) -> None:
        """The worker drains from now on."""
        self.draining = True


class Corked:
    """Stands in for the transport in uvicorn's cycles: it holds the head of an answer until there is more to write.

    At the latest until the turn ends, for an answer whose body comes later, such as a stream of events.
    """

    __slots__ = ("_awaits_head", "_loop", "_state", "_transport", "held", "is_closing")

    def __init__(self, transport: asyncio.Transport, state: State, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._state, self._loop = transport, state, loop
        self.is_closing = transport.is_closing
        self._awaits_head = False
        self.held = b""

    def await_head(self) -> None:
        """What is written next is the head of an answer."""
        self._awaits_head = True

    def write(self, data: bytes) -> None:
        """Write, or hold the head of an answer."""
        if self._awaits_head:
            self._awaits_head, self.held = False, data
            self._state.uncork_later(self, self._loop)
            return
        if self.held:
            if len(data) > JOINED:
                self.uncork()
            else:
                data, self.held = self.held + data, b""
        self._transport.write(data)

    def uncork(self) -> None:
        """Write what is held."""
        if self.held:
            held, self.held = self.held, b""
            if not self.is_closing():
                self._transport.write(held)

    def close(self) -> None:
        """Close the transport, behind what is held."""
        self.uncork()
        self._transport.close()


class Flow(FlowControl):
    """A `FlowControl` that resumes only if its connection does not hold back."""

    def __init__(self, transport: asyncio.Transport, holds_back: Callable[[], bool], server: Any) -> None:
        super().__init__(transport)
        self._holds_back, self._server = holds_back, server

    def let_go(self) -> None:
        """The connection is closed: keep no reference to it, or only the garbage collector would free both."""
        self._holds_back = bool  # which is False
        self.__class__ = _FlowWithoutClient  # so that a connection that lives pays nothing for it

    def resume_reading(self) -> None:
        if self.read_paused and not self._holds_back():
            super().resume_reading()


class _FlowWithoutClient(Flow):
    """The flow of a connection that is closed.  uvicorn asks it at each message that the application still sends."""

    _sent_in_vain = 0

    @property
    def write_paused(self) -> bool:
        if self._server.draining:
            self._sent_in_vain += 1
            if self._sent_in_vain > WHOLE_ANSWER:
                raise ClientGone("the client has left")
        return False

    @write_paused.setter
    def write_paused(self, value: bool) -> None:
        pass  # nothing is written any longer
