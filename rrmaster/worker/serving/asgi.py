"""How busy is an ASGI application, and how do its websockets end in a drain?  The same for every server.

`CountedApp` stands between the server and the application: it counts requests and websockets in progress, whatever the
server is, and remembers the websockets, so that they can be closed with 1012 (service restart) while there is time for
a client to come back.  It knows no async library: all it awaits is the application's and the server's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from attrs import Factory, define

from .. import Duty, Requests

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Message, Receive, Send], Awaitable[None]]

SERVICE_RESTART = 1012
"""The close code (IANA's registry for RFC 6455) that has clients come back, to another worker."""


class WorkerDraining(OSError):
    """The websocket was closed because its worker is to go.  ASGI has servers raise an OSError at a send after the
    end, and frameworks take it for the client's leaving."""


@define(eq=False)
class CountedApp:
    """An application whose requests and websockets are counted."""

    app: ASGI
    duty: Duty
    access_log: bool = False
    requests: Requests = Factory(Requests)
    """Calls of the application in progress, its background tasks included, and over."""
    idle: Callable[[], None] | None = None
    """Called when nothing is in progress any more; set it when somebody waits for that."""
    startup: str = ""
    """What the application said when its startup failed."""
    websockets: set[_CountedWebSocket] = Factory(set)

    @property
    def active(self) -> int:
        """Calls of the application in progress."""
        return self.requests.begun - self.requests.ended

    async def serve(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request, one websocket, or the application's life: this is the ASGI application."""
        # A method and not `__call__`, which costs more; and all written out, for this is the only thing of ours that a
        # request on a kept connection passes through.
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        requests, duty = self.requests, self.duty
        requests.begun += 1
        if not duty.stirred:
            duty.changed()
        try:
            if kind == "websocket":
                await self._hold(scope, receive, send)
            elif self.access_log:
                await self._log(scope, receive, send)
            else:
                await self.app(scope, receive, send)
        finally:
            requests.ended += 1
            if not duty.stirred:
                duty.changed()
            if self.idle is not None and requests.begun == requests.ended:
                self.idle()

    async def _hold(self, scope: Message, receive: Receive, send: Send) -> None:
        websocket = _CountedWebSocket(send)
        self.websockets.add(websocket)
        began = time.monotonic()
        try:
            await self.app(scope, receive, websocket.send)
        finally:
            self.websockets.discard(websocket)
            if self.access_log:
                print_access(scope, websocket.status, 0, time.monotonic() - began)

    async def _log(self, scope: Message, receive: Receive, send: Send) -> None:
        status, size, began = 500, 0, time.monotonic()

        async def seen(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, seen)
        finally:
            print_access(scope, status, size, time.monotonic() - began)

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        async def heard(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                self.startup = message.get("message", "") or "the application says that its startup has failed"
            await send(message)

        try:
            await self.app(scope, receive, heard)
        except Exception as error:
            import traceback

            self.startup = self.startup or "".join(traceback.format_exception(error)).rstrip()
            raise


@define(eq=False)
class _CountedWebSocket:
    """One websocket, as the application sends to it."""

    server: Send
    status: int = 403
    """Of the handshake; what becomes of one that is never accepted."""
    ours: bool = False
    """We have closed it."""
    over: bool = False

    async def send(self, message: Message) -> None:
        if self.ours:
            if message["type"] == "websocket.close":
                return  # it is what the application wants, too
            raise WorkerDraining("the websocket was closed, because its worker is to go")
        if message["type"] == "websocket.accept":
            self.status = 101
        elif message["type"] == "websocket.http.response.start":
            self.status = message["status"]
        self.over = self.over or message["type"] == "websocket.close"
        await self.server(message)

    async def leave(self) -> None:
        """Close it because the worker goes; the application then receives the disconnect from the server."""
        if not self.ours and not self.over:
            self.ours = True
            try:
                await self.server({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "the worker goes"})
            except (OSError, RuntimeError):
                pass  # it was about to end by itself, and the server has not told the application yet


def print_access(scope: Message, status: int, size: int, seconds: float) -> None:
    """One line: who, what, the answer, its bytes, the time.  The master puts the worker's name before it."""
    client = scope.get("client")
    who = f"{client[0]}:{client[1]}" if client else "-"
    path = scope.get("raw_path") or scope["path"].encode()
    query = b"?" + scope["query_string"] if scope.get("query_string") else b""
    what = f"{scope.get('method', 'WEBSOCKET')} {(path + query).decode('latin-1')} HTTP/{scope.get('http_version')}"
    sys.stdout.write(f'{who} "{what}" {status} {size} {seconds * 1000:.1f} ms\n')
