"""Serve a WSGI application in threads, with uvicorn and a2wsgi.

a2wsgi turns the application into an ASGI one that streams both ways.  `watched` repairs what a2wsgi leaves open (seen
in 1.10.10): the application does not learn that a client has left in the middle of a response, so that a stream without
end holds its thread for ever; after an error of the server in the middle of a response the thread waits for ever on a
queue without a reader; a request that was cut short looks complete; `readline` with a limit returns nothing;
``wsgi.errors`` is stdout; and the environment lacks what gunicorn's has beyond PEP 3333.

The environment writes a hyphen as an underscore, so that ``X_Remote_User`` of a client and ``X-Remote-User`` of a proxy
are one name in it.  `_Headers` decides what becomes of the client's, with gunicorn's ``--header-map``.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.util import FileWrapper

from a2wsgi import WSGIMiddleware
from attrs import define, evolve, frozen

from ...protocol.launch import Launch
from ..duty import Duty
from ..loading import Application
from .asgi import ASGI, ClientGone, Message, Receive, Send
from .http_limits import refuse
from .on_uvicorn import serve
from .on_uvicorn import warm_up as warm_up  # runtimes finds it here

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_REQUEST = "rrmaster.request"

_HOST = re.compile(r"(\[[^\]]*\]|[^:]+)(?::(\d+))?")
"""A name or an address, which is in brackets if it has colons, and maybe a port."""


def run(application: Application, duty: Duty, launch: Launch) -> None:
    """Serve until the master sends no more and all connections are closed."""
    # WSGI has no lifespan and no websockets.
    threads = _Threads(launch.threads)
    duty.limiters.watch(threads)
    if launch.asked_to_park_after is not None and launch.worker_connections is None:
        launch = evolve(launch, worker_connections=launch.threads)
    app = watched(application.target, threads, launch.header_map)
    serve(app, duty, evolve(launch, lifespan="off"), threaded=True, ws="none")


@define(eq=False)
class _Threads:
    """The threads that call the application, as a `worker.load.limiters.Limiter`."""

    total_tokens: int
    borrowed_tokens: int = 0
    """Requests that have a thread, or wait for one."""

    def begin(self) -> None:
        """A request begins."""
        self.borrowed_tokens += 1

    def end(self) -> None:
        """It has ended."""
        self.borrowed_tokens -= 1


def watched(app: WSGI, threads: _Threads, header_map: str) -> ASGI:
    """An ASGI application that calls a WSGI one in at most this number of threads."""
    headers, workers = _Headers(header_map), threads.total_tokens
    inner: Any = WSGIMiddleware(_CompleteApp(app), workers=workers)  # type: ignore[arg-type]  # it has types of its own

    async def call(scope: Message, receive: Receive, send: Send) -> None:
        if (complaint := headers.complaint(scope)) is not None:
            await refuse(scope, send, 400, complaint)
            return
        scope = headers.mapped(scope)
        request = _Request(receive, send, _has_body(scope))
        threads.begin()
        try:
            await inner({**scope, _REQUEST: request}, request.receive, request.send)
        finally:
            threads.end()
            request.end()
        if request.error is not None:
            raise request.error

    return call


@frozen
class _Headers:
    """What becomes of header fields whose names have an underscore."""

    map: str
    """One of `protocol.launch.HEADER_MAPS`."""

    def complaint(self, scope: Message) -> str | None:
        """Why a request is refused; None: it is not."""
        if self.map == "refuse" and _underscored(scope):
            return "a header field with an underscore in its name"
        return None

    def mapped(self, scope: Message) -> Message:
        """The scope with the header fields that the application sees."""
        if self.map == "dangerous" or not _underscored(scope):
            return scope
        return {**scope, "headers": [(name, value) for name, value in scope["headers"] if b"_" not in name]}


def _underscored(scope: Message) -> bool:
    return any(b"_" in name for name, _ in scope.get("headers", ()))


def _has_body(scope: Message) -> bool:
    headers = dict(scope.get("headers", ()))
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


class CutShort(ClientGone, ConnectionResetError):
    """A request's client has left before its end: the application learns of it, and the log does not."""


@define(eq=False)
class _Request:
    """One request, between server and a2wsgi, in the loop's thread; the WSGI thread only reads `gone`."""

    server_receive: Receive
    server_send: Send
    more: bool
    """Whether more of the request's body may come."""
    gone: bool = False
    """Whether the client has left, or the server has failed: the thread should stop."""
    error: Exception | None = None
    """What the server raised."""
    _watch: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        if not self.more:
            return {"type": "http.request", "body": b"", "more_body": False}
        message = await self.server_receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise CutShort("the client has left before the end of its request")
        self.more = message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if self.gone:
            return
        if self._watch is None and not self.more and message.get("more_body", False):
            # A server drops what is sent to a client that has left, and reports the client's leaving only to `receive`.
            self._watch = asyncio.get_running_loop().create_task(self._until_gone())
        try:
            await self.server_send(message)
        except Exception as error:  # raised here, a2wsgi's thread would wait for ever; `call` raises it
            self.error, self.gone = error, True

    async def _until_gone(self) -> None:
        while (await self.server_receive())["type"] != "http.disconnect":
            pass  # the empty body of a request without one
        self.gone = True

    def end(self) -> None:
        """The application has returned."""
        if self._watch is not None:
            self._watch.cancel()


@define(eq=False)
class _CompleteApp:
    """The WSGI application with a complete environment, and a stream that ends when the client has left."""

    app: WSGI

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        request: _Request = environ["asgi.scope"].pop(_REQUEST)
        environ["wsgi.input"] = _Input(environ["wsgi.input"])
        environ["wsgi.input_terminated"] = True  # `read` ends where the request does, chunked or not
        environ["wsgi.errors"] = sys.stderr
        environ["wsgi.file_wrapper"] = FileWrapper
        environ["SERVER_SOFTWARE"] = "rrmaster"
        scope = environ["asgi.scope"]
        environ["RAW_URI"] = _raw_uri(scope)
        if "\ufffd" in scope["path"]:
            environ["PATH_INFO"] = _path_in_bytes(scope)
        if scope["server"] is None or scope["server"][1] is None:  # a unix socket
            environ["SERVER_NAME"], environ["SERVER_PORT"] = _asked_for(environ)
        environ.setdefault("REMOTE_ADDR", "")  # a client of a unix socket has no address; gunicorn writes the same
        chunks = self.app(environ, start_response)
        try:
            for chunk in chunks:
                yield chunk
                if request.gone:
                    return
        finally:
            getattr(chunks, "close", lambda: None)()


@define(eq=False)
class _Input:
    """The request's body, with a `readline` that knows a limit."""

    body: Any
    _rest: bytes = b""
    """The rest of a line that was longer than the limit."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            found, self._rest = self._rest, b""
            return found + bytes(self.body.read())
        found, self._rest = self._rest[:size], self._rest[size:]
        return found + bytes(self.body.read(size - len(found))) if len(found) < size else found

    def readline(self, limit: int | None = -1) -> bytes:
        line, self._rest = self._rest or bytes(self.body.readline()), b""
        if limit is not None and 0 <= limit < len(line):
            line, self._rest = line[:limit], line[limit:]
        return line

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


def _path_in_bytes(scope: Message) -> str:
    """The path of a request that is no UTF-8: in WSGI a character is a byte (PEP 3333), so nothing of it is lost."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return unquote_to_bytes(raw[len(scope.get("root_path", "")) :]).decode("latin-1")


def _asked_for(environ: dict[str, Any]) -> tuple[str, str]:
    """The name and the port that a client of a unix socket has asked for, as gunicorn: the socket has neither."""
    found = _HOST.fullmatch(environ.get("HTTP_HOST", ""))
    name, port = found.groups() if found else (None, None)
    return name or "localhost", port or ("443" if environ["wsgi.url_scheme"] == "https" else "80")


def _raw_uri(scope: Message) -> str:
    """The target of the request as the client wrote it, in gunicorn's variable."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path[len(scope.get("root_path", "")) :] + (b"?" + query if query else b"")).decode("latin-1")
