"""Serve an ASGI application on trio, with anycorn: HTTP/1.1, HTTP/2 and websockets.

anycorn is a fork of hypercorn.  It is used because hypercorn has had one release in eighteen months, and anycorn 0.20
has hypercorn's code with a dozen of its open bugs repaired (a response lost at a keep-alive limit, errors that left
their connection, leaks of reset streams); it costs 4.7 MiB more.  rrmaster uses its protocols, task group and lifespan,
and not its `TCPServer`, whose only way to end drops every connection without a request.  `AnycornConnection` stands in
its place, and this drain:

========== ================================================ ===========================================================
connection what it is                                       in the drain
========== ================================================ ===========================================================
fresh      no byte has come                                 has `FIRST_BYTE_S` seconds for its first request
idle       between two requests                             its next answer says ``Connection: close``; it is closed
                                                            after `NEXT_REQUEST_S` seconds
busy       a request is in progress                         finished; says ``Connection: close`` if not begun to answer
HTTP/2     idle, or busy with its last answer               GOAWAY, behind the answer; at `IDLE_SHARE` in any case
websocket                                                   closed with 1012 at `IDLE_SHARE` of the graceful timeout
========== ================================================ ===========================================================

Where connections of HTTP/1.1 are parked, that happens instead, for busy ones after their answer, unless the whole fleet
stops.  At `IDLE_SHARE` all that are idle or fresh are closed.

A busy connection of HTTP/2 does not get GOAWAY at once, because Python's clients (h2, httpx) then give up the requests
in progress.  In one write with the end of the last answer it costs no request.  Sent to an idle connection it may
cross the client's next request, which the client may then send again elsewhere, because GOAWAY says that it was not
begun; so only connections that have been idle for `SETTLED` get it.

rrmaster uses names that anycorn's documentation does not promise, all of them here and in `anycorn_connection`:
`H11Protocol` and `H2Protocol` (see `http1.anycorn_targets` for the choice), the latter's `.connection`,
`.idle`, `.streams`, `.stream_buffers` and `.priority` (whether it is idle, and which answers are unfinished),
`TaskGroup`, `Lifespan` and `WorkerContext` (which `TCPServer` would make), the events between a protocol and its
server, `read_file_chunks` and `build_tls_extension`.  Tested with 0.20.1.
"""

from __future__ import annotations

import logging
import math
import sys
from typing import TYPE_CHECKING, Any, cast

import anyio
import trio
from anycorn.config import Config
from anycorn.lifespan import Lifespan
from anycorn.typing import ConnectionState
from anycorn.utils import LifespanFailureError, build_tls_extension, parse_socket_addr
from anycorn.worker_context import WorkerContext
from anyio.streams.tls import TLSAttribute
from attrs import Factory, define, field

from ...protocol import tls
from ...protocol.launch import Launch
from ..access.log import AccessLog
from ..api import header_of
from ..deadlines.law import Deadlines
from ..deadlines.of_anycorn import keep_deadlines, timed_on_trio
from ..deadlines.requests import CANCEL_S, RequestTimeout
from ..duty import Duty, Taken
from ..intake import FIRST_BYTE_S, NEXT_REQUEST_S, Intake
from ..loading import Application, CannotLoad
from ..parking.opening import guest_of, trio_lot_of
from .anycorn_calls import Tasks
from .anycorn_connection import AnycornConnection
from .asgi import ASGI, CountedApp, Message, Receive, Send, counted_app, is_clients_leaving, uncounted_app
from .http1.anycorn_targets import Protocol, unwrap
from .http1.forwarded import trusted
from .http_limits import HttpLimits, refuse
from .on_trio import TrioServer, without_cancelled

if TYPE_CHECKING:
    from ..parking.on_trio import TrioLot

IDLE_SHARE = 0.5
"""The share of the graceful timeout after which idle connections are closed, as in `on_uvicorn`."""

LOOK = 0.05
"""Seconds between two looks at the connections in a drain."""

CLOSE = (b"connection", b"close")


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and all connections are closed.  Raises CannotLoad before it is ready."""
    failed = trio.run(AnycornServer(application.target, duty, launch).run, strict_exception_groups=True)
    if failed is not None:
        raise CannotLoad(failed)


def configured(launch: Launch) -> Config:
    """anycorn's configuration."""
    config = Config()
    config.root_path = launch.root_path
    config.errorlog = logging.getLogger("anycorn.error")
    # At this number of requests anycorn sends GOAWAY before it has answered the last, which is then lost.
    config.keep_alive_max_requests = sys.maxsize
    # The master has timeouts for both.
    config.startup_timeout = config.shutdown_timeout = math.inf
    if head := HttpLimits.of(launch).head:
        config.h11_max_incomplete_size = config.h2_max_header_list_size = head
    return config


@define(eq=False)
class AnycornServer:
    """Serves connections with anycorn's protocols.  It lives as long as the worker serves."""

    app: ASGI
    duty: Duty
    launch: Launch
    service: TrioServer = field(init=False)
    timed: RequestTimeout = field(init=False)
    counted: CountedApp = field(init=False)
    uncounted: CountedApp = field(init=False)
    """For probes."""
    config: Config = field(init=False)
    context: WorkerContext = Factory(lambda: WorkerContext(None))
    state: dict[str, Any] = Factory(dict)
    clients: set[AnycornConnection] = Factory(set)
    lot: TrioLot | None = field(init=False)
    """Where connections are parked; None: they stay."""
    _for_clients: Any = field(init=False)
    _for_probes: Any = field(init=False)
    _lifespan: Lifespan = field(init=False)
    _failed: bool = False

    def __attrs_post_init__(self) -> None:
        log = AccessLog.of(self.launch, self.duty.identity)
        self.config = configured(self.launch)
        app = _framed(HttpLimits.of(self.launch).around(self.app))
        self.timed = RequestTimeout(self.launch.request_timeout, self.duty, cut=self._cut)
        self.counted = counted_app(timed_on_trio(app, self.timed), self.duty, log)
        self.uncounted = uncounted_app(app, self.duty, log)
        self.duty.count(self.counted.requests)
        self._for_clients = self._for_anycorn(self.counted.serve)
        self._for_probes = self._for_anycorn(self.uncounted.serve)
        self.lot = trio_lot_of(self.duty, self.launch, self.clients)
        self._lifespan = Lifespan(self._for_clients, self.config, self.state)
        self.service = TrioServer(self.duty, serve=self.serve, intake=Intake.of(self.duty, self.launch, tls.HTTP_2))

    async def run(self) -> str | None:
        """Serve until the last connection is closed.  Returns why the application could not start, or None."""
        self.service.enter()
        async with trio.open_nursery() as nursery:
            if self.launch.lifespan != "off":
                await self._start(nursery)
                if self._failed:
                    nursery.cancel_scope.cancel()
                    return self.counted.startup
            nursery.start_soon(self._drain)
            if self.lot is not None:
                nursery.start_soon(self.lot.run)
            nursery.start_soon(keep_deadlines, self.clients, Deadlines.of(self.launch), self.duty, self.timed)
            await self.service.run()
            if self.launch.lifespan != "off":
                await self._end()
            nursery.cancel_scope.cancel()
        return None

    # --- the application's life

    async def _start(self, nursery: trio.Nursery) -> None:
        logger = logging.getLogger("anycorn.error")
        logger.disabled, before = True, logger.disabled  # the error holds the same words
        try:
            await nursery.start(self._run_lifespan)
            await self._lifespan.wait_for_startup()
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # the application returned without an answer: it does not use the lifespan
        finally:
            logger.disabled = before
        self._failed |= self.launch.lifespan == "on" and not self._lifespan.supported

    async def _run_lifespan(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self._lifespan.handle_lifespan(task_status=task_status)
        except* LifespanFailureError as group:
            self._failed = True
            if self.service.draining.is_set():
                sys.stderr.write(f"the application's shutdown has failed: {group.exceptions[0]}\n")

    async def _end(self) -> None:
        try:
            await self._lifespan.wait_for_shutdown()
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # the application has returned from its lifespan before

    # --- connections

    async def serve(self, stream: Any, taken: Taken) -> None:
        """Serve a connection.  An error costs this connection only."""
        secure = isinstance(stream, trio.SSLStream)
        sock = stream.transport_stream.socket if secure else stream.socket
        try:
            client, server = _ends(sock)
        except OSError:  # the client has reset the connection already
            return
        facts = build_tls_extension(self.config, cast("Any", _TLSAttributes(stream))) if secure else None
        alpn = stream.selected_alpn_protocol() if secure else None
        app = self._for_probes if taken.probe else self._for_clients
        served = AnycornConnection(self.launch.keep_alive, stream, self.service.draining, app)
        served.guest = guest_of(self.lot, taken, served, stream)
        with served.life:
            await self._converse(served, client, server, facts, alpn)

    async def _converse(self, served: AnycornConnection, client: Any, server: Any, facts: Any, alpn: Any) -> None:
        call, state = cast("Any", served.calls.call), ConnectionState(self.state)
        async with Tasks() as group:
            made_with = (call, self.config, self.context, group, state, client, server, served.send, facts)
            served.speak(Protocol(made_with, is_http2=alpn == "h2"))
            self.clients.add(served)
            try:
                await served.serve()
            finally:
                self.clients.discard(served)

    def _for_anycorn(self, app: ASGI) -> Any:
        """The application as anycorn calls it: with two functions for threads, which only WSGI would need."""
        if self.launch.proxy_headers:
            # uvicorn's, so that both servers trust the same headers.  Imported here: it costs 2 MiB and 50 ms.
            from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

            app = ProxyHeadersMiddleware(app, trusted(self.launch.forwarded_allow_ips))  # type: ignore[arg-type, assignment]

        async def called(scope: Message, receive: Receive, send: Send, *threads: object) -> None:
            if scope["type"] != "lifespan":
                unwrap(scope)
                scope["path"] = scope["root_path"] + scope["path"]
                scope["raw_path"] = scope["root_path"].encode("latin-1") + scope["raw_path"]
            if scope["type"] == "http" and scope["http_version"] < "2":
                send = self._closing(send)
            try:
                await app(scope, receive, send)
            except BaseException as error:
                if (fault := without_cancelled(error)) is None:
                    raise
                if is_clients_leaving(fault):
                    return  # the answer has ended, as it should
                if isinstance(fault, Exception):
                    raise
                # anycorn does not catch it, and the worker would end.
                raise RuntimeError(f"the application raised {fault!r} in a request") from error

        return called

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.service.draining.is_set() and self._must_close():
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        return closing

    def _must_close(self) -> bool:
        """Whether a connection ends with this worker, for it cannot be parked."""
        return self.lot is None or self.lot.lane is None

    def _cut(self, scope: Message) -> bool:
        """Reset the connection of this request, if its client does not read."""
        for client in self.clients:
            since = client.outgoing.waiting_since
            if client.calls.serves(scope) and since is not None and trio.current_time() - since >= CANCEL_S:
                client.outgoing.cut()
                return True
        return False

    # --- the drain

    async def _drain(self) -> None:
        await self.service.draining.wait()
        if self.lot is not None:
            self.lot.drain()
        began = trio.current_time()
        latest = began + IDLE_SHARE * self.launch.graceful_timeout
        async with trio.open_nursery() as nursery:  # in tasks: a client that does not read must delay no other
            while (now := trio.current_time()) < latest:
                for client in self.clients:
                    if _is_over(client, now, now - began):
                        nursery.start_soon(client.leave)
                await trio.sleep(LOOK)
            for client in self.clients:
                nursery.start_soon(client.last_call)
            for websocket in self.counted.websockets | self.uncounted.websockets:
                nursery.start_soon(_leave, websocket)


def _is_over(client: AnycornConnection, now: float, drained: float) -> bool:
    """Whether a connection is closed, in a drain that has lasted so long."""
    if client.is_fresh:
        return drained >= FIRST_BYTE_S
    if client.h2 is not None:
        return client.has_settled(now)
    return client.resting and drained >= NEXT_REQUEST_S


def _framed(app: ASGI) -> ASGI:
    """An application that gets no request with two lengths.

    h11 obeys Transfer-Encoding and goes on.  A proxy in front that obeys Content-Length takes the rest of the body for
    its next request, so RFC 9112 (6.1) wants the connection closed; uvicorn's parsers answer 400, too.
    """

    async def framed(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            names = [name for name, _ in scope["headers"]]
            if b"transfer-encoding" in names and b"content-length" in names:
                await refuse(scope, send, 400, "Content-Length beside Transfer-Encoding")
                return
        await app(scope, receive, send)

    return framed


async def _leave(websocket: Any) -> None:
    try:
        await websocket.leave()
    except Exception:
        pass  # it was ending by itself, and anycorn raises various errors for that


def _ends(sock: Any) -> tuple[Any, Any]:
    """The addresses of the client and of the server; for a unix socket its path, as uvicorn does."""
    header = header_of(sock)
    if header is not None and header.source is not None:
        return header.source, header.destination
    address = sock.getsockname()
    server = (address[0], address[1]) if isinstance(address, tuple) else (str(address), None)
    return parse_socket_addr(sock.family, sock.getpeername()), server


class _TLSAttributes:
    """Gives anycorn, which expects a stream of anyio, the TLS attributes of a stream of trio."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._found = {TLSAttribute.tls_version: stream.version, TLSAttribute.peer_certificate: stream.getpeercert}

    def extra(self, attribute: Any) -> Any:
        """One attribute.  Raises anyio's error for any other."""
        if attribute not in self._found:
            raise anyio.TypedAttributeLookupError(attribute)
        return self._found[attribute]()
