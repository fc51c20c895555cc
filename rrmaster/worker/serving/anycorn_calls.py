"""What becomes of an application's calls on trio when their client leaves?

What a client leaves behind ends, as far as ASGI can tell an application: its `receive` brings a disconnect, its wait
for room in the client's window is over (see `AnycornConnection`), and a `send` that would go on raises `ClientGone`.  A
call that does neither runs to its end, because it may be writing to a database.

A client of HTTP/2 that resets its requests faster than `RESETS_PER_S`, or leaves more than `MAX_ABANDONED` of them
running, does harm: its connection ends and takes all its calls with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from anycorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from anycorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from anycorn.task_group import TaskGroup
from attrs import Factory, define
from wsproto.connection import ConnectionState

from .asgi import ClientGone, Message, Receive, Send

TOO_BIG = 1009
"""The close code for a message that is too big (RFC 6455, 7.4.1)."""

MAX_ABANDONED = 100
"""Calls of one connection that may run on for a client that has reset them: as many as it may have open."""

RESETS, RESETS_PER_S = 1000, 33
"""Requests that a client may reset at once, and in each second: the values of nghttp2 since the rapid-reset attack
(CVE-2023-44487).  A page that a browser leaves resets some dozens."""


_BODY = frozenset({b"content-length", b"transfer-encoding"})


class Tasks(TaskGroup):
    """anycorn's tasks of one connection, in which no application waits for itself.

    A call has a queue for ten messages.  At the end of an answer anycorn puts the disconnect there, and waits for room,
    within the application's own `send`: one that had not read a body of ten parts was stuck for ever, and its client
    with it.  Here a task of its own waits.
    """

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Callable[[Any], Awaitable[None]]:
        """Call the application; returns what puts a message into its queue."""
        put = await super().spawn_app(app, config, scope, send)
        bodiless = _BODY.isdisjoint(name for name, _ in scope["headers"])
        if scope["type"] == "http" and scope["http_version"] < "2" and bodiless:
            return put  # there is one message and the disconnect: such requests pay for no task

        async def put_or_leave(message: Any) -> None:
            if message["type"].endswith(".disconnect"):
                self.spawn(put, message)
            else:
                await put(message)

        return put_or_leave


@define(eq=False)
class ResetBudget:
    """A token bucket for the requests that a client resets."""

    _left: float = RESETS
    _at: float = 0.0

    def spend(self, now: float) -> bool:
        """Note a reset; returns whether the client may go on."""
        self._left = min(RESETS, self._left + (now - self._at) * RESETS_PER_S) - 1
        self._at = now
        return self._left >= 0


@define(eq=False)
class Calls:
    """The calls of the application that belong to one connection."""

    app: Any
    """The application, as anycorn calls it."""
    abort: Callable[[], None]
    """Called when the client does harm."""
    expect_close: Callable[[WSStream], None]
    """Called when Close was sent on a websocket."""
    gone: bool = False
    """Whether the client has left: nothing can be sent to it."""
    websockets: set[WSStream] = Factory(set)
    """Those in progress."""
    refused: set[WSStream] = Factory(set)
    """Websockets that were closed because of a message that is too big."""
    _running: set[HTTPStream | WSStream] = Factory(set)
    """anycorn's streams, one for each call."""
    _in_vain: set[HTTPStream] = Factory(set)
    """Those whose answer went on once since the client has left; anycorn counts its bytes and drops them."""
    _resets: ResetBudget = Factory(ResetBudget)

    async def call(self, scope: Message, receive: Receive, send: Send, *threads: object) -> None:
        """Call the application for one request or websocket."""
        stream = send.__self__  # type: ignore[attr-defined]  # anycorn's stream, whose method it is
        if stream.closed and not self.gone:
            self._count_reset()  # before it began
            return
        self._running.add(stream)
        if scope["type"] == "websocket":
            self.websockets.add(stream)
            receive = partial(self._receive, stream, receive)
        try:
            await self.app(scope, receive, partial(self._send, stream, send), *threads)
        finally:
            self._running.discard(stream)
            self._in_vain.discard(stream)
            self.websockets.discard(stream)
            if not self.gone and _is_abandoned(stream):
                self._count_reset()

    def serves(self, scope: Message) -> bool:
        """Whether the request with this scope is one of its calls."""
        return any(getattr(stream, "scope", None) is scope for stream in self._running)

    async def _send(self, stream: Any, send: Send, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            if message.get("more_body", False) and (self.gone or _is_abandoned(stream)):
                if stream in self._in_vain:
                    raise ClientGone("the client has left")
                self._in_vain.add(stream)
        elif kind == "websocket.send" and (self.gone or stream.closed):
            raise ClientGone("the client has left")
        await send(message)
        if kind == "websocket.close":
            self.expect_close(stream)

    async def _receive(self, websocket: WSStream, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "websocket.disconnect" and websocket in self.refused:
            return {**message, "code": TOO_BIG}
        return message

    def leave(self) -> None:
        """Nothing can be sent to the client any longer."""
        self.gone = True

    def refuse_too_big(self) -> list[WSStream]:
        """The websockets on which anycorn has just sent Close because of a message that is too big."""
        found = [websocket for websocket in self.websockets if _is_refused(websocket)]
        self.refused.update(found)
        return found

    def look_at_abandoned(self, open_streams: int) -> None:
        """Abort if the client has reset too many requests that still run.  It has this number of others."""
        if len(self._running) > MAX_ABANDONED + open_streams and sum(map(_is_abandoned, self._running)) > MAX_ABANDONED:
            self.abort()

    def _count_reset(self) -> None:
        if not self._resets.spend(trio.current_time()):
            self.abort()


def _is_abandoned(stream: HTTPStream | WSStream) -> bool:
    """Whether the client has left a request before its answer was complete."""
    if not stream.closed:
        return False
    if isinstance(stream, WSStream):
        unfinished = stream.state in (ASGIWebsocketState.HANDSHAKE, ASGIWebsocketState.CONNECTED)
        return unfinished and stream.close_code is None
    return stream.state is not ASGIHTTPState.CLOSED


def _is_refused(websocket: WSStream) -> bool:
    """Whether the server, and not the application, has closed it."""
    if websocket.closed or websocket.state is not ASGIWebsocketState.CONNECTED:
        return False
    return websocket.connection.state is ConnectionState.LOCAL_CLOSING
