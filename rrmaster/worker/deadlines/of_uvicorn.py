"""The deadlines of uvicorn's connections (see `law`): what its protocols wait for, and how one is closed.

It reads names that uvicorn's documentation does not promise: a protocol's `cycle`, `scope`, `flow`, `transport`,
`conn` and `timeout_keep_alive_task` of h11's, and a cycle's `more_body`, `response_started`, `response_complete` and
`waiting_for_100_continue`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from typing import Any

from attrs import Factory, define

from ..duty import Duty
from .full import FullLog
from .law import Deadlines, Waiting, too_late
from .reading import bytes_read, drop_unread
from .requests import ASGI, Message, Receive, RequestTimeout, Send, TooLong, timed_by_scopes


def is_fresh(client: Any) -> bool:
    """Whether a client of HTTP has not sent a byte.  Seen from outside: to note each read would cost every request."""
    if client.scope is not None:  # since the first byte with httptools, since the end of the headers with h11
        return False
    h11: Any = getattr(client, "conn", None)
    return h11 is None or not h11.trailing_data[0]


def is_idle(client: Any) -> bool:
    """Whether a client of HTTP has read its last answer, as far as is known here, and has begun no other request."""
    return client.waits_for() is _AT_REST


def is_unread(client: Any) -> bool:
    """Whether something waits here until the client reads."""
    return isinstance(client, Watched) and bool(client.transport.get_write_buffer_size())


_AT_REST = (Waiting.NOTHING, None)
_UNREAD = (Waiting.READING, None)


class Watched:
    """A mix-in for all of uvicorn's protocols, those of websockets too."""

    heard: int = 0
    """Bytes of bodies so far."""
    transport: Any

    def waits_for(self) -> tuple[Waiting, object]:
        """What the connection waits for, and the last request."""
        return (Waiting.READING if self.transport.get_write_buffer_size() else Waiting.NOTHING), None

    def has_read(self) -> int:
        """The bytes that the client has read."""
        transport = self.transport
        return bytes_read(transport.get_extra_info("socket"), -transport.get_write_buffer_size())


class _Heard(Watched):
    """A mix-in for both of uvicorn's protocols of HTTP."""

    cycle: Any
    flow: Any

    def waits_for(self) -> tuple[Waiting, object]:
        cycle = self.cycle
        if self.transport.get_write_buffer_size():
            return _UNREAD
        if self._is_idle() and not self._has_begun_a_head():
            return _AT_REST  # the keep-alive timer closes it
        if self._awaits_head():
            return (Waiting.FIRST_BYTE if cycle is None and is_fresh(self) else Waiting.HEAD), cycle
        # Paused: the application does not read.  A client that waits for "100 Continue" may send nothing.
        if self._awaits_body() and not self.flow.read_paused and not cycle.waiting_for_100_continue:
            return Waiting.BODY, cycle
        return Waiting.NOTHING, cycle

    def serves(self, scope: Message) -> bool:
        """Whether the application is called with this scope for the connection."""
        return self.cycle is not None and self.cycle.scope is scope

    def _is_idle(self) -> bool:
        """Whether no byte has come since the end of the last answer."""
        raise NotImplementedError

    def _awaits_head(self) -> bool:
        raise NotImplementedError

    def _has_begun_a_head(self) -> bool:
        """Whether a part of the next head has come, maybe before the end of the last answer."""
        raise NotImplementedError

    def _awaits_body(self) -> bool:
        raise NotImplementedError


class HeardByHttptools(_Heard):
    """A mix-in for uvicorn's protocol with httptools."""

    scope: Any
    idle_since: float | None
    _running: Any

    def serves(self, scope: Message) -> bool:
        return super().serves(scope) or (self._running is not None and self._running.scope is scope)

    def on_body(self, body: bytes) -> None:
        if not self.cycle.response_complete:  # the rest of an unread body is no progress
            self.heard += len(body)
        super().on_body(body)  # type: ignore[misc]

    def _is_idle(self) -> bool:
        return self.idle_since is not None

    def _awaits_head(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and self._has_begun_a_head())

    def _has_begun_a_head(self) -> bool:
        return self.scope is not self.cycle.scope  # a head that has begun has a scope, and no cycle yet

    def _awaits_body(self) -> bool:
        return bool(self.cycle.more_body or self.cycle.response_complete)


class HeardByH11(_Heard):
    """A mix-in for uvicorn's protocol with h11."""

    conn: Any
    timeout_keep_alive_task: Any

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or not self.cycle.response_complete:
            self.heard += len(data)
        super().data_received(data)  # type: ignore[misc]

    def _is_idle(self) -> bool:
        return self.timeout_keep_alive_task is not None

    def _awaits_head(self) -> bool:
        from h11 import IDLE  # here, because a worker with httptools does not load h11

        return self.conn.their_state is IDLE

    def _has_begun_a_head(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def _awaits_body(self) -> bool:
        from h11 import SEND_BODY

        return self.conn.their_state is SEND_BODY


def heard(protocol: type) -> type:
    """The mix-in for one of uvicorn's protocols of HTTP."""
    return HeardByHttptools if hasattr(protocol, "on_message_begin") else HeardByH11


@define(eq=False)
class UvicornDeadlines:
    """Looks at the connections of a `UvicornServer` for as long as the loop runs."""

    connections: Collection[Any]
    """uvicorn's set of open connections, of HTTP and of websockets."""
    deadlines: Deadlines
    duty: Duty
    timed: RequestTimeout
    log: FullLog = Factory(FullLog)

    def start(self, loop: Any) -> None:
        """Begin to look.  Called in the loop of asyncio or uvloop."""
        loop.call_later(self.deadlines.period, self._look, loop)

    def _look(self, loop: Any) -> None:
        clients = [client for client in self.connections if isinstance(client, _Heard) or is_unread(client)]
        full = self.log.is_full(self.duty, self.deadlines)
        overdue = self.deadlines.look(clients, loop.time(), full)
        self.log.looked(full, self.duty, self.deadlines, len(overdue), loop.time())
        for client, waiting in overdue:
            expire(client, waiting)
        self.timed.look()
        loop.call_later(self.deadlines.period, self._look, loop)


def expire(client: Any, waiting: Waiting) -> None:
    """Close a connection whose time is over, with 408 where that can be said; its application learns that it is gone.

    A connection without a byte is closed in silence: browsers make some in advance, and would take 408 for the answer
    to the request that they send at the same moment.  One that does not read would not read that either.
    """
    if waiting is Waiting.READING:
        drop_unread(client.transport.get_extra_info("socket"))
        client.transport.abort()  # it may be closing already, and wait for its client
        return
    if client.transport.is_closing():
        return
    if waiting is Waiting.HEAD or (waiting is Waiting.BODY and not client.cycle.response_started):
        client.transport.write(too_late())
    client.transport.close()


def cut(connections: Collection[Any], scope: Message) -> bool:
    """Reset the connection of a request, if its client does not read.  Returns whether it was."""
    for client in connections:
        if isinstance(client, _Heard) and client.serves(scope) and is_unread(client):
            expire(client, Waiting.READING)
            return True
    return False


def timed_on_asyncio(app: ASGI, timed: RequestTimeout, threaded: bool) -> ASGI:
    """The application, each of whose requests `timed` can cancel; `threaded`: only find.

    An application that has loaded anyio is cancelled by anyio, which does not cancel what waits for one of its threads
    (Starlette's `def` endpoints).  asyncio would give up the wait and leave the thread behind, stuck and unseen.
    """
    if timed.limit and not threaded and (anyio := sys.modules.get("anyio")) is not None:
        return timed_by_scopes(app, timed, anyio.CancelScope)
    if not timed.limit:
        return app

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        request = timed.begin(scope, None if threaded or task is None else task.cancel)
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError as error:
            if request is None or not request.cancelled:
                raise
            raise TooLong(timed.words(request)) from error
        finally:
            timed.end(request)

    return call
