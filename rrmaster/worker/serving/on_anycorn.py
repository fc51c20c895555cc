"""Serve an ASGI application on trio, by anycorn: HTTP/1.1, HTTP/2 and websockets.

anycorn, and not hypercorn whose fork it is: hypercorn has had one release in eighteen months, and anycorn 0.20 has that
one's code with a dozen of its open bugs repaired (a response lost at a keep-alive limit, errors that left their
connection, leaks of reset streams); it costs 4.7 MiB more.  Its protocols, task group and lifespan are used, and its
`TCPServer` is not: that has one way to end, which drops whoever has not spoken.  What stands here instead is `AnycornConnection`,
and the drain:

========== ================================================ ===========================================================
connection what it is                                       in the drain
========== ================================================ ===========================================================
virgin     no byte has come                                 has `VIRGIN` seconds for its first request
idle       between two requests                             its next answer says ``Connection: close``
busy       a request is in progress                         finished; says ``Connection: close`` if not begun to answer
HTTP/2     idle, or busy with its last answer               GOAWAY, behind the answer; at `IDLE_SHARE` in any case
websocket                                                   closed with 1012 at `IDLE_SHARE` of the graceful timeout
========== ================================================ ===========================================================

At `IDLE_SHARE` those that are idle or virgin are closed too.  A busy connection of HTTP/2 is not told GOAWAY at once: what
Python has for clients (h2, httpx) then gives up the requests that are in progress.  Told in one write with the end of
the last answer, it loses nothing; told to an idle one it may cross the next request, which a client may then send again
elsewhere, for GOAWAY says that it was not begun.  So only those are told so that have been idle for `SETTLED`.

Of anycorn this uses names that its documentation does not promise, all of them here: `ProtocolWrapper`, `H2Protocol`
and its `.connection`, `.idle`, `.streams`, `.stream_buffers` and `.priority`, `TaskGroup`, `Lifespan`, `WorkerContext`,
the events, `read_file_chunks` and `build_tls_extension`.  Tried with 0.20.1.
"""

from __future__ import annotations

import logging
import math
import sys
from typing import Any, cast

import anyio
import trio
from anycorn.config import Config
from anycorn.events import Closed, Event, RawData, SendFile, Updated
from anycorn.lifespan import Lifespan
from anycorn.protocol import ProtocolWrapper
from anycorn.protocol.h2 import H2Protocol
from anycorn.sendfile import read_file_chunks
from anycorn.task_group import TaskGroup
from anycorn.typing import ConnectionState
from anycorn.utils import LifespanFailureError, build_tls_extension, parse_socket_addr
from anycorn.worker_context import WorkerContext
from anyio.streams.tls import TLSAttribute
from attrs import Factory, define, field
from h2.errors import ErrorCodes
from hyperframe.frame import GoAwayFrame

from ...protocol import tls
from ...protocol.launch import Launch
from .. import Duty, Taken, header_of
from ..intake import GOODBYE_S, VIRGIN, Arrival
from ..loading import Application, CannotLoad
from .asgi import ASGI, CountedApp, Message, Receive, Send
from .http_limits import HttpLimits
from .on_trio import TrioServer

IDLE_SHARE = 0.5
"""The part of the graceful timeout after which nobody is waited for who does nothing, as in `on_uvicorn`."""

SETTLED = 0.1
"""Seconds after which an idle connection of HTTP/2 will hardly ask in the very moment in which it is told to go."""

LOOK = 0.05
"""Seconds between two looks at the connections in a drain."""

MAX_RECEIVE = 65_536
"""Bytes that are read at once, anycorn's own."""

CLOSE = (b"connection", b"close")


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and what was taken is done.  Raises CannotLoad before it is ready."""
    failed = trio.run(AnycornServer(application.target, duty, launch).run, strict_exception_groups=True)
    if failed is not None:
        raise CannotLoad(failed)


def configured(launch: Launch) -> Config:
    """anycorn's configuration."""
    config = Config()
    config.root_path = launch.root_path
    config.errorlog = logging.getLogger("anycorn.error")
    # After so many requests it says GOAWAY before it has answered the last, which is then lost.
    config.keep_alive_max_requests = sys.maxsize
    # The master minds both.
    config.startup_timeout = config.shutdown_timeout = math.inf
    if head := HttpLimits.of(launch).head:
        config.h11_max_incomplete_size = config.h2_max_header_list_size = head
    return config


@define(eq=False)
class AnycornServer:
    """Serves connections by anycorn's protocols."""

    app: ASGI
    duty: Duty
    launch: Launch
    service: TrioServer = field(init=False)
    counted: CountedApp = field(init=False)
    uncounted: CountedApp = field(init=False)
    """For probes."""
    config: Config = field(init=False)
    context: WorkerContext = Factory(lambda: WorkerContext(None))
    state: dict[str, Any] = Factory(dict)
    clients: set[AnycornConnection] = Factory(set)
    _for_clients: Any = field(init=False)
    _for_probes: Any = field(init=False)
    _lifespan: Lifespan = field(init=False)
    _failed: bool = False

    def __attrs_post_init__(self) -> None:
        log = self.launch.access_log
        self.config = configured(self.launch)
        app = HttpLimits.of(self.launch).around(self.app)
        self.counted, self.uncounted = CountedApp(app, self.duty, log), CountedApp(app, self.duty, log)
        self.duty.requests = self.counted.requests
        self._for_clients = self._for_anycorn(self.counted.serve)
        self._for_probes = self._for_anycorn(self.uncounted.serve)
        self._lifespan = Lifespan(self._for_clients, self.config, self.state)
        self.service = TrioServer(self.duty, serve=self.serve, arrival=Arrival.of(self.duty, self.launch, tls.HTTP_2))

    async def run(self) -> str | None:
        """Serve until the last connection is done.  Why it could not begin, or nothing."""
        self.service.enter()
        async with trio.open_nursery() as nursery:
            if self.launch.lifespan != "off":
                await self._start(nursery)
                if self._failed:
                    nursery.cancel_scope.cancel()
                    return self.counted.startup
            nursery.start_soon(self._drain)
            await self.service.run()
            if self.launch.lifespan != "off":
                await self._end()
            nursery.cancel_scope.cancel()
        return None

    # --- the application's life

    async def _start(self, nursery: trio.Nursery) -> None:
        logger = logging.getLogger("anycorn.error")
        logger.disabled, before = True, logger.disabled  # its words go into the error
        try:
            await nursery.start(self._live)
            await self._lifespan.wait_for_startup()
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # the application has returned without a word, and so it does not care
        finally:
            logger.disabled = before
        self._failed |= self.launch.lifespan == "on" and not self._lifespan.supported

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
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
            pass  # the application has left its lifespan long ago

    # --- connections

    async def serve(self, stream: Any, taken: Taken) -> None:
        """Serve a connection.  What it raises is only its own affair."""
        secure = isinstance(stream, trio.SSLStream)
        sock = stream.transport_stream.socket if secure else stream.socket
        client, server = _ends(sock)
        facts = build_tls_extension(self.config, cast("Any", _TLSAttributes(stream))) if secure else None
        alpn = stream.selected_alpn_protocol() if secure else None
        async with TaskGroup() as group:
            app = self._for_probes if taken.probe else self._for_clients
            state = ConnectionState(self.state)
            served = AnycornConnection(self.launch.keep_alive, stream, self.service.draining)
            served.protocol = ProtocolWrapper(
                app, self.config, self.context, group, state, client, server, served.send, facts, alpn
            )
            self.clients.add(served)
            try:
                await served.serve()
            finally:
                self.clients.discard(served)

    def _for_anycorn(self, app: ASGI) -> Any:
        """As anycorn calls an application: with two ways to threads, which WSGI alone would need."""
        if self.launch.proxy_headers:
            # uvicorn's, for both servers to believe the same; 2 MiB and 50 ms beside all else.
            from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

            app = ProxyHeadersMiddleware(app, self.launch.forwarded_allow_ips)  # type: ignore[arg-type, assignment]

        async def called(scope: Message, receive: Receive, send: Send, *threads: object) -> None:
            if scope["type"] != "lifespan":
                scope["path"] = scope["root_path"] + scope["path"]
                scope["raw_path"] = scope["root_path"].encode("latin-1") + scope["raw_path"]
            if scope["type"] == "http" and scope["http_version"] < "2":
                send = self._closing(send)
            try:
                await app(scope, receive, send)
            except SystemExit as error:  # it would go past anycorn and end the worker
                raise RuntimeError(f"the application called sys.exit({error.code!r}) in a request") from error

        return called

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.service.draining.is_set():
                message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
            await send(message)

        return closing

    # --- the drain

    async def _drain(self) -> None:
        await self.service.draining.wait()
        latest = trio.current_time() + IDLE_SHARE * self.launch.graceful_timeout
        fresh_until = min(trio.current_time() + VIRGIN, latest)
        async with trio.open_nursery() as nursery:  # nobody waits for a client that does not read
            while (now := trio.current_time()) < latest:
                for client in self.clients:
                    over = now >= fresh_until if client.is_fresh else client.has_settled(now)
                    if over:
                        nursery.start_soon(client.leave)
                await trio.sleep(LOOK)
            for client in self.clients:
                nursery.start_soon(client.last_call)
            for websocket in self.counted.websockets | self.uncounted.websockets:
                nursery.start_soon(_leave, websocket)


async def _leave(websocket: Any) -> None:
    try:
        await websocket.leave()
    except Exception:
        pass  # it was about to end by itself, and anycorn has many words for that


def _ends(sock: Any) -> tuple[Any, Any]:
    """The addresses of the client and of us; a unix socket's path, too, as uvicorn has it."""
    header = header_of(sock)
    if header is not None and header.source is not None:
        return header.source, header.destination
    address = sock.getsockname()
    ours = (address[0], address[1]) if isinstance(address, tuple) else (str(address), None)
    return parse_socket_addr(sock.family, sock.getpeername()), ours


@define(eq=False)
class AnycornConnection:
    """One connection."""

    keep_alive: float
    stream: Any
    draining: trio.Event
    silent: bool = True
    """It has not said a byte."""
    idle: bool = True
    left: bool = False
    """GOAWAY was said, and what comes after it is not heard."""
    protocol: ProtocolWrapper = field(init=False)
    _reading: trio.CancelScope = Factory(trio.CancelScope)
    _sending: trio.Lock = Factory(trio.Lock)
    _rested_at: float = 0.0

    async def serve(self) -> None:
        """Serve it until either side ends it."""
        await self.protocol.initiate()
        await self._read()
        await self.protocol.handle(Closed())
        await self._close()

    async def _read(self) -> None:
        self._reading.deadline = trio.current_time() + self.keep_alive
        with self._reading:
            while data := await self._receive():
                self.silent = False
                if not self.left:
                    await self.protocol.handle(RawData(data))
                if self.h2 is not None and self.h2.idle and not self.idle:
                    self._rest(True)  # prior knowledge: anycorn takes the preface for a request that is never answered

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.stream.receive_some(MAX_RECEIVE))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def send(self, event: Event) -> None:
        """What the protocol wants."""
        match event:
            case RawData():
                await self._transmit(event.data + self._farewell())
            case SendFile():
                async for chunk in read_file_chunks(event.file, event.offset, event.count):
                    await self._transmit(chunk)
            case Updated():
                self._rest(event.idle)
                if self.h2 is not None:
                    await self._reset_broken(self.h2)
            case Closed():
                self.close_soon()

    async def _reset_broken(self, h2: H2Protocol) -> None:
        """Tell the client of an answer that broke off: anycorn forgets it, and the client would wait for the rest."""
        broken = [number for number, buffer in h2.stream_buffers.items() if number not in h2.streams]
        for number in broken:
            if not h2.stream_buffers[number].complete:
                del h2.stream_buffers[number]
                h2.priority.remove_stream(number)
                h2.connection.reset_stream(number, ErrorCodes.INTERNAL_ERROR)
                await self._transmit(h2.connection.data_to_send())

    def _rest(self, idle: bool) -> None:
        self.idle, self._rested_at = idle, trio.current_time()
        if not self.left:
            self._reading.deadline = trio.current_time() + (self.keep_alive if idle else math.inf)

    async def _transmit(self, data: bytes) -> None:
        try:
            # An application that gives up waiting must not leave half a frame behind.
            async with self._sending:
                with trio.CancelScope(shield=True):
                    await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close_soon()  # the client is gone; who reads will tell the protocol

    async def _close(self) -> None:
        try:
            with trio.move_on_after(GOODBYE_S):
                await self.stream.aclose()
        except (OSError, trio.BrokenResourceError, trio.BusyResourceError):
            pass  # the client is gone; the socket is closed in any case

    # --- the drain

    @property
    def h2(self) -> H2Protocol | None:
        """Its protocol, if that is HTTP/2."""
        return self.protocol.protocol if isinstance(self.protocol.protocol, H2Protocol) else None

    @property
    def is_fresh(self) -> bool:
        """Whether its first request is still to come."""
        return self.silent or (self.h2 is not None and not self.h2.connection.highest_inbound_stream_id)

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress, and no answer on its way."""
        return self.idle and (self.h2 is None or not self.h2.stream_buffers)

    def has_settled(self, now: float) -> bool:
        """Whether it speaks HTTP/2 and has been idle for some time."""
        return self.h2 is not None and self.is_idle and now - self._rested_at >= SETTLED

    def close_soon(self) -> None:
        """Read no more, and close it when all that it has begun is done."""
        self._reading.cancel()

    async def leave(self) -> None:
        """Close it; with GOAWAY first, and then by the client, if it speaks HTTP/2."""
        if self.h2 is None:
            self.close_soon()
        elif not self.left:
            await self._transmit(self._go_away(self.h2))

    async def last_call(self) -> None:
        """Close it if it does nothing; else have it close itself when it can."""
        if self.is_idle:
            await self.leave()
        elif self.h2 is not None and not self.left:
            await self._transmit(GoAwayFrame(0, self.h2.connection.highest_inbound_stream_id).serialize())

    def _farewell(self) -> bytes:
        """GOAWAY, if what is just written is the end of the last answer of a connection that is to go."""
        h2 = self.h2
        if h2 is None or self.left or not self.draining.is_set() or self.is_fresh or h2.connection.open_inbound_streams:
            return b""
        return self._go_away(h2)

    def _go_away(self, h2: H2Protocol) -> bytes:
        self.left = True
        self._reading.deadline = trio.current_time() + GOODBYE_S
        h2.connection.close_connection()
        return h2.connection.data_to_send()


class _TLSAttributes:
    """What anycorn asks of an anyio stream about TLS, of one of trio."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._found = {TLSAttribute.tls_version: stream.version, TLSAttribute.peer_certificate: stream.getpeercert}

    def extra(self, attribute: Any) -> Any:
        """One of them.  Raises what anyio has for those that are not there."""
        if attribute not in self._found:
            raise anyio.TypedAttributeLookupError(attribute)
        return self._found[attribute]()
