"""Which pages does the admin server have?

============  ==================================================================================
/             the fleet at a glance, for a person; live with JavaScript, as it was without
/metrics      for Prometheus
/livez        200 if the master answers, for a liveness probe
/readyz       200 if the fleet would serve a new connection, for a readiness probe
/status       the snapshot as JSON: what `rrmaster status --json` prints
/live         the changing part of the page once a second, as server-sent events
/do/...       with a token: see `actions`
============  ==================================================================================

Nothing else here changes anything.  However many clients ask, and whether they read or not, the master is asked once a
second for all scrapes and pages together, and by probes one at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from attrs import Factory, define, field, frozen
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..config.readiness import ReadyWhen
from ..status.model import Snapshot, to_json
from ..status.readiness import why_not_ready
from .actions import Actions
from .headers import HEADERS
from .metrics import LatestMetrics
from .page.assets import asset
from .page.glance import Glance, content, whole_page
from .page.history import History
from .source import Source, Unreachable

SHARED_S = 1.0
"""Seconds for which an answer of the master's is good for scrapes and pages; a probe gets a fresh one.  With 32 workers
an answer takes two milliseconds of the master's time, as much as 7 connections at 400 a second and 15 at 1,500."""

TICK_S = 1.0
"""Seconds between two samples of the history, and between two changes of the page."""

MOST_LIVE = 100
"""Pages that may be open at once.  One that is not read keeps some 110 KiB here, and 130 KiB in the kernel."""

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]", "::1")
"""Names by which a loopback address may be asked for.  A site whose name an attacker has pointed at 127.0.0.1 runs its
scripts in an operator's browser, and would read everything here (DNS rebinding)."""


@define(eq=False)
class Pages:
    """The pages of one admin server."""

    source: Source
    ready_when: ReadyWhen
    actions: Actions | None = None
    """None: nothing can be changed."""
    history: History = Factory(History)
    open_pages: int = field(default=0, init=False)
    _shown: str = field(default="", init=False)
    """The content of the page, as of the last tick."""
    _tick: asyncio.Event = field(factory=asyncio.Event, init=False)
    """Set at the next tick; each tick makes another one."""
    _closed: bool = field(default=False, init=False)
    _exposed: LatestMetrics = field(factory=LatestMetrics, init=False)

    def application(self, any_host: bool) -> Starlette:
        """The ASGI application.

        `any_host`: it may be asked for by any name.  That is right for a unix socket, and for addresses that other
        machines reach.
        """
        routes = [
            Route("/", self.page),
            Route("/page.css", _style),
            Route("/page.js", _script),
            Route("/live", self.live),
            Route("/metrics", self.metrics),
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/status", self.status),
        ]
        if self.actions is not None:
            routes += self.actions.routes()
        hosts = ["*"] if any_host else list(LOCAL_HOSTS)
        guard = Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
        return Starlette(routes=routes, middleware=[guard], lifespan=self._sampling)

    # --- for programs

    async def metrics(self, request: Request) -> Response:
        """All counters and gauges.  A master that does not answer is a metric, not an error."""
        body, kind = self._exposed.of(await self._latest(SHARED_S), request.headers.get("accept", ""))
        return Response(body, headers={**HEADERS, "content-type": kind})

    async def livez(self, request: Request) -> Response:
        """Whether the master answers."""
        try:
            await self.source.snapshot()
        except Unreachable as error:
            return _probe(request, {"master": str(error)})
        return _probe(request, {"master": ""})

    async def readyz(self, request: Request) -> Response:
        """Whether the fleet would serve a new connection."""
        try:
            snapshot = await self.source.snapshot()
        except Unreachable as error:
            return _probe(request, {"master": str(error)})
        return _probe(request, {"master": "", "workers": why_not_ready(snapshot, self.ready_when)})

    async def status(self, request: Request) -> Response:
        """The snapshot."""
        snapshot = await self._latest(SHARED_S)
        if snapshot is None:
            return JSONResponse({"error": "the master does not answer"}, 503, headers=HEADERS)
        return JSONResponse(to_json(snapshot), headers=HEADERS)

    # --- for people

    async def page(self, request: Request) -> Response:
        """The page as it is now."""
        return HTMLResponse(whole_page(await self._glance(SHARED_S)), headers=HEADERS)

    async def live(self, request: Request) -> Response:
        """The content of the page, each second, for as long as the page is open."""
        if self.open_pages >= MOST_LIVE:
            return PlainTextResponse(f"{MOST_LIVE} pages are open already\n", 503, headers=HEADERS)
        headers = {**HEADERS, "content-type": "text/event-stream"}
        return _OpenPage(StreamingResponse(self._ticks(), headers=headers), self)

    async def _ticks(self) -> AsyncIterator[str]:
        while not self._closed:
            await self._tick.wait()
            yield "".join(f"data: {line}\n" for line in self._shown.splitlines()) + "\n"

    def close(self) -> None:
        """Let probes know that the master has ended, and the open pages end."""
        self.source.master.end()
        self._closed = True
        self._tick.set()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Count an open page for the time of the block."""
        self.open_pages += 1
        try:
            yield
        finally:
            self.open_pages -= 1

    @contextlib.asynccontextmanager
    async def _sampling(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._sample())
        yield
        task.cancel()

    async def _sample(self) -> None:
        """Keep a sample each second, and make the content of the page anew while one is open."""
        while True:
            began = asyncio.get_running_loop().time()
            glance = await self._glance(SHARED_S / 2) if self.open_pages else None
            snapshot = await self._latest(SHARED_S / 2) if glance is None else glance.snapshot
            if snapshot is not None:
                self.history.add(snapshot)
            if glance is not None:
                self._shown = content(glance)
                self._tick.set()
                self._tick = asyncio.Event()
            await asyncio.sleep(max(began + TICK_S - asyncio.get_running_loop().time(), TICK_S / 10))

    async def _glance(self, max_age: float) -> Glance:
        snapshot = await self._latest(max_age)
        events = await self.source.entries("events", max_age) if snapshot is not None else []
        output = await self.source.entries("logs", max_age) if snapshot is not None else []
        return Glance(snapshot, self.history, events, output, self.ready_when, self.actions is not None)

    async def _latest(self, max_age: float) -> Snapshot | None:
        try:
            return await self.source.snapshot(max_age)
        except Unreachable:
            return None


@frozen
class _OpenPage(Response):
    """A stream that is counted from the moment that it is answered: its first line comes a second later."""

    stream: StreamingResponse
    pages: Pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.pages.opened():
            await self.stream(scope, receive, send)


async def _style(request: Request) -> Response:
    return Response(asset("page.css"), media_type="text/css", headers=HEADERS)


async def _script(request: Request) -> Response:
    return Response(asset("page.js"), media_type="text/javascript", headers=HEADERS)


def _probe(request: Request, checks: dict[str, str]) -> Response:
    """The answer to a probe: each check with the reason why it fails, or an empty text.  As Kubernetes words it."""
    failed = {name: why for name, why in checks.items() if why}
    if "verbose" in request.query_params:
        lines = [f"[-]{name} failed: {why}" if why else f"[+]{name} ok" for name, why in checks.items()]
        lines.append("check failed" if failed else "check passed")
    else:
        lines = [f"{name}: {why}" for name, why in failed.items()] or ["ok"]
    return PlainTextResponse("".join(f"{line}\n" for line in lines), 503 if failed else 200, headers=HEADERS)
