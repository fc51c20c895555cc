"""How busy is an ASGI application, and how do its websockets end in a drain?  The same for every server.

`CountedApp` stands between a server (uvicorn or anycorn) and the application.  It counts requests and websockets in
progress, and keeps the websockets, so that a drain can close them with 1012 (service restart) while clients have time
to connect again.  `NotedApp` notes requests for the case of the worker's death, too, where the master wants it.  They
know no async library: they await only what the application and the server give them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, field

from ...protocol.pages.figures import Counting, Tally
from ..access.line import Exchange
from ..access.log import AccessLog
from ..duty import Duty
from ..load.requests import Requests

if TYPE_CHECKING:
    from ...protocol.pages.last_words import LastWords

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Message, Receive, Send], Awaitable[None]]

SERVICE_RESTART = 1012
"""The close code (IANA's registry for RFC 6455) upon which clients connect again, to another worker."""


class WorkerDraining(OSError):
    """The websocket was closed because its worker drains.

    Raised in the application when it sends on such a websocket.  An OSError, because ASGI has servers raise one at a
    send after the end, and frameworks treat it as a client that has left.
    """


class ClientGone(OSError):
    """The client has left before its answer was complete.

    An OSError, because ASGI has servers raise one.  Only an answer that goes on raises it, from its second part: what
    an application does after a whole answer, such as a background task, it does for a client that has left too.
    Starlette's BaseHTTPMiddleware makes of each whole answer one of a single part that seems to go on.
    """


def is_clients_leaving(error: BaseException) -> bool:
    """Whether an error, or each of a group, is `ClientGone`."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(ClientGone)[1] is None
    return isinstance(error, ClientGone)


@define(eq=False)
class CountedApp:
    """An ASGI application whose requests and websockets are counted."""

    app: ASGI
    duty: Duty
    access_log: AccessLog | None
    """Where each request becomes a line, if there is an access log."""
    durations: Tally
    """Where it is counted how long a request takes, from the call of the application to the last part of its answer:
    what follows, such as a background task, keeps no client waiting."""
    requests: Requests = Factory(Requests)
    """Calls of the application, begun and ended; a call includes the background tasks after its answer."""
    idle: Callable[[], None] | None = None
    """Called when the last call in progress ends; set by a server that waits for it in a drain."""
    startup: str = ""
    """The reason why the application's startup failed, in its own words; otherwise empty."""
    websockets: set[_CountedWebSocket] = Factory(set)
    """The websockets in progress."""

    def watch_idle(self, idle: Callable[[], None]) -> None:
        """Set what is called when the last call in progress ends."""
        self.idle = idle

    @property
    def active(self) -> int:
        """Calls of the application in progress."""
        return self.requests.begun - self.requests.ended

    # A method and not `__call__`, which costs more, and without helper functions: on a kept connection this is all that
    # rrmaster adds to a request.
    async def serve(self, scope: Message, receive: Receive, send: Send) -> None:  # noqa: C901
        """The ASGI application that the server calls: for a request, a websocket, or the lifespan."""
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        requests, duty = self.requests, self.duty
        requests.begun += 1
        if not duty.busy_report_due:
            duty.requests_changed()
        key = id(scope)
        app: ASGI
        began = 0.0  # and again when the answer is complete
        if kind == "websocket":
            requests.websockets.add(key)
            app, answer = self._serve_websocket, send
        else:
            requests.running[key] = duty.beat_at
            app, began = self._serve_logged if self.access_log is not None else self.app, perf_counter()

            def answer(message: Message) -> Awaitable[None]:
                nonlocal began
                if began and message["type"] == "http.response.body" and not message.get("more_body"):
                    self.durations.observe(perf_counter() - began)  # before it is sent: the client will have it
                    began = 0.0
                return send(message)

        try:
            await app(scope, receive, answer)
        except Exception as error:
            if not is_clients_leaving(error):
                raise  # the answer to a client that has left has ended, as it should
        finally:
            if requests.running.pop(key, None) is None:
                requests.websockets.discard(key)
            requests.ended += 1
            if began:
                self.durations.observe(perf_counter() - began)
            if requests.orphans:
                requests.orphans.discard(key)
            if not duty.busy_report_due:
                duty.requests_changed()
            if self.idle is not None and requests.begun == requests.ended:
                self.idle()

    async def _serve_websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, status=403)  # what a server answers if the application never accepts
        websocket = _CountedWebSocket(send, exchange)
        self.websockets.add(websocket)
        try:
            await self.app(scope, receive, websocket.send)
        finally:
            self.websockets.discard(websocket)
            if self.access_log is not None:
                self.access_log.write(exchange.end())

    async def _serve_logged(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange, log, written = Exchange(scope), self.access_log, False
        assert log is not None

        def noted(message: Message) -> Awaitable[None]:
            nonlocal written
            if exchange.note(message) and not written:
                written = True  # before the last part is sent: a client that has its answer is in the log
                log.write(exchange.end())
            return send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            if not written:
                log.write(exchange.end())

    async def _lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        async def note_failure(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                self.startup = message.get("message", "") or "the application says that its startup has failed"
            await send(message)

        try:
            await self.app(scope, receive, note_failure)
        except Exception as error:
            import traceback

            self.startup = self.startup or "".join(traceback.format_exception(error)).rstrip()
            raise


@define(eq=False)
class NotedApp(CountedApp):
    """One whose requests in progress are noted, too: what is in hand when the process dies is known then."""

    words: LastWords = field(kw_only=True)

    async def serve(self, scope: Message, receive: Receive, send: Send) -> None:
        """Note what the application is about to see, for as long as it is at it."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        path = scope.get("raw_path") or scope["path"].encode()
        number = self.words.begin(scope.get("method", "WEBSOCKET").encode() + b" " + path.partition(b"?")[0])
        try:
            await super().serve(scope, receive, send)
        finally:
            self.words.end(number)


def counted_app(app: ASGI, duty: Duty, access_log: AccessLog | None, one_at_a_time: bool = False) -> CountedApp:
    """The application as clients get it; `one_at_a_time`: each connection carries one request at a time."""
    requests = Requests(one_at_a_time=one_at_a_time)
    durations = duty.counting.durations
    if duty.words is None:
        return CountedApp(app, duty, access_log, durations, requests)
    duty.words.open()
    return NotedApp(app, duty, access_log, durations, requests, words=duty.words)


def uncounted_app(app: ASGI, duty: Duty, access_log: AccessLog | None) -> CountedApp:
    """The application as the master's probes get it: what they do is in no figure."""
    return CountedApp(app, duty, access_log, Counting.unread().durations)


@define(eq=False)
class _CountedWebSocket:
    """One websocket, as the application sends to it."""

    server: Send
    exchange: Exchange
    """What the access log tells of it."""
    closed_by_drain: bool = False
    """Whether `leave` has closed it."""
    closed: bool = False
    """Whether the application has closed it."""

    async def send(self, message: Message) -> None:
        if self.closed_by_drain:
            if message["type"] == "websocket.close":
                return  # it is closed already, as the application wants
            raise WorkerDraining("the websocket was closed, because its worker drains")
        self.exchange.note(message)
        self.closed = self.closed or message["type"] == "websocket.close"
        await self.server(message)

    async def leave(self) -> None:
        """Close it because the worker drains; the application then receives the disconnect from the server."""
        if not self.closed_by_drain and not self.closed:
            self.closed_by_drain = True
            try:
                await self.server({"type": "websocket.close", "code": SERVICE_RESTART, "reason": "the worker goes"})
            except (OSError, RuntimeError):
                pass  # it was ending by itself, and the server has not told the application yet
