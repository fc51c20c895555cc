"""Serve an ASGI application on asyncio or uvloop, with uvicorn.

rrmaster uses uvicorn's protocols, lifespan and middleware, and not its `Server`, which binds addresses, waits for
signals and drops connections when it shuts down.  In its place this module connects a protocol to each connection from
the letterbox, and drains:

========== ================================================ ===========================================================
connection what it is                                       in the drain
========== ================================================ ===========================================================
fresh      no byte has come                                 has `FIRST_BYTE_S` seconds for its first request
idle       between two requests                             its next answer says ``Connection: close``; it is closed
                                                            after `NEXT_REQUEST_S` seconds
busy       a request is in progress                         finished; says ``Connection: close`` if not begun to answer
websocket                                                   closed with 1012 at `IDLE_SHARE` of the graceful timeout,
                                                            and cut at `CUT_SHARE` if its client has not answered
========== ================================================ ===========================================================

Where connections are parked, that happens instead, for busy ones after their answer, unless the whole fleet stops.  At
`IDLE_SHARE` all that are idle or fresh are closed.  A streaming response has the whole graceful timeout, and then
the master ends the worker.  Answers say ``Connection: close`` by a default header, which uvicorn obeys itself.

rrmaster uses names that uvicorn's documentation does not promise, all of them here and in `http1`,
whose classes derive from uvicorn's protocols and say what they mend:

- `Config.http_protocol_class`, `.ws_protocol_class`, `.lifespan_class`, `.encoded_headers` (its default headers).
- The constructor of protocols; their `shutdown` (close now if idle, else after the answer) and `transport`.  What
  tells what a connection waits for is in `deadlines.of_uvicorn`.  In `http1`: what their names without an underscore
  mean, and `_get_upgrade`, `_should_upgrade`.
- `ServerState.connections`, `.tasks` and `.default_headers`: what `Server` shares with its protocols.
- `lifespan.startup`, `.shutdown`, `.should_exit`, `.state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from attrs import Factory, define, field

from ...protocol import tls
from ...protocol.launch import Launch
from ..access.log import AccessLog
from ..connection import Connection
from ..deadlines.law import Deadlines
from ..deadlines.of_uvicorn import UvicornDeadlines, cut, heard, is_fresh, is_idle, timed_on_asyncio
from ..deadlines.requests import RequestTimeout
from ..duty import Duty, Taken
from ..intake import FIRST_BYTE_S, NEXT_REQUEST_S, Intake
from ..load.requests import Requests
from ..loading import Application, CannotLoad
from ..parking.opening import lot_of, parks_of
from .asgi import ASGI, CountedApp, counted_app, uncounted_app
from .asyncio_worker import AsyncioWorker, run_server
from .http1.forwarded import trusted
from .http1.mixins import CLOSE, Counted, WebSocket, WithProxyHeader
from .http1.reading import LONGEST_HEAD, State
from .http_limits import HttpLimits
from .on_asyncio import admit

if TYPE_CHECKING:
    from ..parking.lot import Lot

IDLE_SHARE = 0.5
"""The share of the graceful timeout after which idle connections and websockets are closed.  The rest is for requests
in progress, and for clients of websockets to connect again."""

CUT_SHARE = 0.75
"""The share of the graceful timeout after which websockets are cut.  Between the two shares their clients answer Close
(7.5 s with the default; uvicorn allows 10); in the rest the application ends, so that the drain is done in time."""


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and all connections are closed.  Raises CannotLoad before it is ready."""
    serve(application.target, duty, launch)


def warm_up(application: Application, launch: Launch) -> None:
    """Import the protocols that uvicorn chooses: it does so when it loads its configuration."""
    with _quiet():
        configured(application.target, launch, {})


def serve(app: ASGI, duty: Duty, launch: Launch, threaded: bool = False, **more: Any) -> None:
    """Serve any ASGI application, as `run` does.  `more` is passed to uvicorn's Config.

    `threaded`: each request has a thread, so none can be cancelled.
    """
    run_server(lambda service: UvicornServer(service, app, launch, more, threaded), duty, launch)


def configured(app: ASGI, launch: Launch, more: dict[str, Any], lot: Lot | None = None) -> uvicorn.Config:
    """uvicorn's configuration, loaded, with protocol classes that know the PROXY header, the limits, and the lot."""
    head = HttpLimits.of(launch).head
    config = uvicorn.Config(
        app,
        interface="asgi3",
        lifespan=launch.lifespan,  # type: ignore[arg-type]  # one of its words: see `launch.LIFESPANS`
        log_config=None,
        access_log=False,
        proxy_headers=launch.proxy_headers,
        forwarded_allow_ips=trusted(launch.forwarded_allow_ips),
        workers=1,  # said, or uvicorn reads $WEB_CONCURRENCY, in which it knows numbers alone
        root_path=launch.root_path,
        timeout_keep_alive=launch.keep_alive,  # type: ignore[arg-type]  # call_later takes fractions
        h11_max_incomplete_event_size=head or None,
        **more,
    )
    config.load()
    proxied = (WithProxyHeader,) if launch.proxy_protocol != "off" else ()
    mended = _mended(config)
    bases = (*proxied, heard(mended), mended, *parks_of(lot))
    config.http_protocol_class = type("Client", bases, {"head": head or LONGEST_HEAD, "lot": lot})
    if config.ws_protocol_class is not None:
        config.ws_protocol_class = type("WebSocket", (WebSocket, *proxied, config.ws_protocol_class), {})
    return config


def _mended(config: uvicorn.Config) -> type[Any]:
    """Our protocol for HTTP, with the parser that uvicorn has chosen; a worker loads the one that it uses."""
    if hasattr(config.http_protocol_class, "on_message_begin"):
        from .http1.httptools_client import HttptoolsClient

        return HttptoolsClient
    from .http1.h11_client import H11Client

    return H11Client


def _count_orphans(config: uvicorn.Config, requests: Requests) -> uvicorn.Config:
    """Have the protocols say which requests have lost their connection."""
    known: Any = {"requests": requests}
    config.http_protocol_class = type("Client", (Counted, config.http_protocol_class), known)
    if config.ws_protocol_class is not None:
        config.ws_protocol_class = type("WebSocket", (Counted, config.ws_protocol_class), known)
    return config


@define(eq=False)
class UvicornServer:
    """Serves connections with uvicorn's protocols.  It lives as long as the worker serves."""

    service: AsyncioWorker
    app: ASGI
    launch: Launch
    more: dict[str, Any]
    threaded: bool = False
    state: State = Factory(State)
    timed: RequestTimeout = field(init=False)
    counted: CountedApp = field(init=False)
    uncounted: CountedApp = field(init=False)
    """The application for the master's probes, which are served and not counted."""
    intake: Intake | None = field(init=False)
    lot: Lot | None = None
    """Where connections are parked; None: they stay."""
    _arriving: set[asyncio.Task[Any]] = Factory(set)
    """The tasks of connections that have no protocol yet; no byte of their request has come either."""
    _config: uvicorn.Config = field(init=False)
    _for_probes: uvicorn.Config | None = None
    """Made when the first probe comes: most fleets have none."""
    _lifespan: Any = field(init=False)
    _closing: list[tuple[bytes, bytes]] = Factory(list)
    """``Connection: close`` in a drain, otherwise empty."""
    _tasks: set[asyncio.Task[Any]] = Factory(set)
    """Kept here, because asyncio keeps no reference to a task."""

    def __attrs_post_init__(self) -> None:
        duty = self.service.duty
        app, log = HttpLimits.of(self.launch).around(self.app), AccessLog.of(self.launch, duty.identity)
        self.timed = RequestTimeout(self.launch.request_timeout, duty, cut=partial(cut, self.state.connections))
        timed = timed_on_asyncio(app, self.timed, self.threaded)
        self.counted = counted_app(timed, duty, log, one_at_a_time=True)
        self.uncounted = uncounted_app(app, duty, log)
        duty.count(self.counted.requests)
        self.intake = Intake.of(duty, self.launch, tls.HTTP_1)
        self.lot = lot_of(duty, self.launch, self.service.loop, self.state.connections, self._say_close, self.threaded)
        with _quiet():
            config = configured(self.counted.serve, self.launch, self.more, self.lot)
            self._config = _count_orphans(config, self.counted.requests)

    async def start(self) -> None:
        """Start the application.  Raises CannotLoad if its lifespan startup fails."""
        self._update_date()
        deadlines = Deadlines.of(self.launch)
        UvicornDeadlines(self.state.connections, deadlines, self.service.duty, self.timed).start(self.service.loop)
        self._lifespan = self._config.lifespan_class(self._config)
        with _quiet():  # the error holds the same words
            await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise CannotLoad(self.counted.startup)

    def _update_date(self) -> None:
        """Make the default headers anew each second, with the time: uvicorn's `Server` would do so."""
        # In place: protocols and answers in progress hold this very list.
        date = (b"date", formatdate(time.time(), usegmt=True).encode())
        self.state.default_headers[:] = [date, *self._config.encoded_headers, *self._closing]
        self.service.loop.call_later(1.0, self._update_date)

    def begin(self, connection: Connection, taken: Taken) -> None:
        config = self._config_for_probes() if taken.probe else self._config
        if self.lot is not None:
            self.lot.begin()
        task = self._spawn(self._begin(connection, taken, config))
        if self.intake is not None:
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    def _config_for_probes(self) -> uvicorn.Config:
        if self._for_probes is None:
            with _quiet():
                self._for_probes = configured(self.uncounted.serve, self.launch, self.more)
        return self._for_probes

    async def _begin(self, connection: Connection, taken: Taken, config: uvicorn.Config) -> None:
        def protocol() -> asyncio.Protocol:
            made: Any = config.http_protocol_class(
                config=config, server_state=self.state, app_state=self._lifespan.state, _loop=self.service.loop
            )  # type: ignore[call-arg]
            if self.lot is not None and not taken.probe:
                made.came(taken)
            return made  # type: ignore[no-any-return]

        await admit(protocol, connection, taken, self.intake)

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self.service.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- the end

    def drain(self) -> None:
        """Park connections, or have answers say ``Connection: close``; schedule the end of what cannot be parked."""
        self.counted.watch_idle(self._idle)
        self.uncounted.watch_idle(self._idle)
        self.state.drain()
        if self.lot is None or not self.lot.drain():
            self._say_close()
        latest = IDLE_SHARE * self.launch.graceful_timeout
        self.service.loop.call_later(min(FIRST_BYTE_S, latest), self._close_fresh)
        self.service.loop.call_later(min(NEXT_REQUEST_S, latest), self._close_idle)
        self.service.loop.call_later(latest, self._close_rest)
        self.service.loop.call_later(CUT_SHARE * self.launch.graceful_timeout, self._cut_websockets)

    def _say_close(self) -> None:
        """No connection can be parked any longer: in a drain answers say ``Connection: close``."""
        if self.state.draining and not self._closing:
            self._closing.append(CLOSE)
            self.state.default_headers.append(CLOSE)

    def _close_fresh(self) -> None:
        for task in self._arriving:
            task.cancel()  # `admit` closes the connection
        for client in self._clients():
            if is_fresh(client):
                client.shutdown()

    def _close_idle(self) -> None:
        for client in self._clients():
            if is_idle(client):
                client.shutdown()

    def _close_rest(self) -> None:
        for client in self._clients():
            if not client.transport.is_closing():  # with h11 a second `shutdown` raises
                client.shutdown()  # uvicorn closes one with a request in progress after its answer
        for counted in (self.counted, self.uncounted):
            for websocket in list(counted.websockets):
                self._spawn(websocket.leave())

    def _cut_websockets(self) -> None:
        """End those whose client does not answer Close, or does not read it: uvicorn waits for its buffer to empty."""
        for connection in list(self.state.connections):
            if isinstance(connection, WebSocket):
                connection.transport.abort()

    def _clients(self) -> list[Any]:
        return [connection for connection in self.state.connections if not isinstance(connection, WebSocket)]

    def is_done(self) -> bool:
        """Whether no call of the application is in progress; its background tasks count too."""
        return not self.counted.active and not self.uncounted.active

    def _idle(self) -> None:
        # Later, because this is called from within the application's call, which has not returned.
        self.service.loop.call_soon(self.service.finished)

    def abort(self) -> Iterable[asyncio.Task[Any]]:
        for client in list(self.state.connections):
            client.transport.abort()
        tasks = [*self.state.tasks, *self._tasks]
        for task in tasks:
            task.cancel()
        return tasks

    async def end(self) -> None:
        """Run the application's lifespan shutdown."""
        await self._lifespan.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence uvicorn's log: it reports its start, and why a startup failed, which the master logs too."""
    logger = logging.getLogger("uvicorn.error")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)  # what it logs at INFO the master logs too
    logger.disabled, before = True, logger.disabled
    try:
        yield
    finally:
        logger.disabled = before
