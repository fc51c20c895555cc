"""One client's connection, read by httptools: uvicorn's protocol, with what it leaves open mended.

========================= ============================================================================================
a request that            is
========================= ============================================================================================
asks for another protocol answered as if it did not (RFC 9110, 7.8), and has its body; uvicorn loses the body
is sent ahead             parsed in pieces of `PIECE` bytes; the rest waits unparsed, and nothing more is read
is malformed, sent ahead  refused when those before it are answered
opens a websocket, ahead  begun when those before it are answered
has an unread body        answered, and the client reads the answer though it still sends (`endings`)
ends with the stream      answered, if it is complete: a client may close its own direction (`endings`)
has trailers              answered without them: uvicorn adds them to the header that the application has already got
========================= ============================================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .endings import Lingers, abort_when_silent
from .handshake import is_handshake
from .reading import LONGEST_HEAD, Corked, Flow

if TYPE_CHECKING:
    from ...parking.lot import Lot
    from .reading import State

PIECE = 16384
"""Bytes that are parsed at once.  A read has up to 256 KiB, which can hold 14,000 requests, of 2.5 KB each once they
are parsed; a piece can hold 900.  A body of a megabyte is fed to the parser in 64 pieces, of 0.3 us each."""

MALFORMED = "Invalid HTTP request received."


class HttptoolsClient(Lingers, HttpToolsProtocol):
    """uvicorn's protocol with httptools, mended."""

    head = LONGEST_HEAD
    """Bytes that an unfinished head may have, with up to `PIECE` that came before it in the same piece."""

    _unread: memoryview | bytes = b""
    """What has been read and is not parsed yet."""
    _grown = 0
    """Bytes parsed since the end of a head or a piece of a body: those of a head, or of trailers."""
    _ended = False
    """Whether the client has closed its direction."""
    idle_since: float | None = None
    """When the last answer ended, by the clock of the loop.  None while a request arrives or is answered."""
    served = 0
    """Requests answered here."""
    lot: Lot | None = None
    """Where connections are parked, if they are."""
    _last: Callable[[], None] | None = None
    """What comes after the last answer: the refusal of what cannot be parsed, or a websocket."""
    _running: Any = None
    """While requests wait behind it, the cycle that the application serves; `cycle` is the one that was parsed last."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.out = Corked(self.transport, cast("State", self.server_state), self.loop)
        self.flow = Flow(self.transport, self._holds_back, self.server_state)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.pipeline:
            self.pipeline.clear()
            self.cycle = self._running  # uvicorn tells `cycle` alone that the client has left
        self._unread, self._last = b"", None
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it to run after a reset, and it holds the connection
        self.flow.let_go()

    # --- reading

    def data_received(self, data: bytes) -> None:
        if self.lingers:
            self.drop(data)
            return
        idle_since, self.idle_since = self.idle_since, None
        if self._unread or len(data) > PIECE:
            self._unread = memoryview(bytes(self._unread) + data if self._unread else data)
        elif self._last is None:
            self._feed(data)
        if self._unread:
            self._feed_unread()
        cycle = self.cycle
        if cycle is None or self.lingers:
            return
        if cycle.more_body:
            self.expect_body()
        elif cycle.response_complete and cycle.scope is self.scope:
            # A blank line, which old clients send after a body, begins nothing, and gives no more time.
            self.idle_since = self.loop.time() if idle_since is None else idle_since
            if self.timeout_keep_alive_task is None:  # it has looked while the rest of an unread body came
                self._time_idle(self.timeout_keep_alive)

    def _feed_unread(self) -> None:
        while self._unread and not self.pipeline and self._last is None and not self.transport.is_closing():
            piece, self._unread = self._unread[:PIECE], self._unread[PIECE:]
            self._feed(piece)
        if self._unread:
            self.flow.pause_reading()

    def _feed(self, data: bytes | memoryview) -> None:
        self._grown += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError:
            self._refuse(MALFORMED)
        else:
            if self._grown > self.head + PIECE:
                self._refuse("Request head too large.")

    def _holds_back(self) -> bool:
        return bool(self.pipeline or self._unread or self._ended or self._last)

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _rests(self) -> bool:
        # A head that has begun has a scope, and no cycle yet.
        return self.cycle.keep_alive and self.scope is self.cycle.scope and not self._holds_back()

    def _is_untouched(self) -> bool:
        return self.scope is None and not self._grown

    # --- what the parser tells

    def on_headers_complete(self) -> None:
        if self.url[:1] != b"/":
            self.url = _with_path(self.url)
        if not self.pipeline:
            self._running = self.cycle
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.transport is self.transport:  # not so if it asks for an upgrade
            self.cycle.transport = self.out
            self.out.await_head()
        self.headers, self._grown = [], 0  # trailers go there, and not to the application

    def on_body(self, body: bytes) -> None:
        self._grown = 0
        super().on_body(body)

    def _should_upgrade(self) -> bool:
        """Always: uvicorn then makes no cycle of the request, and the parser raises, so that `_upgraded` decides."""
        return True

    # --- other protocols

    def _upgraded(self, rest: bytes) -> None:
        """The request asks for another protocol, or for a tunnel; the parser has stopped behind its head."""
        scope = self.scope
        self.headers = list(scope["headers"])
        if scope["method"] == "CONNECT":
            self._refuse(MALFORMED)  # its client would take any 200 for a tunnel
        elif self.ws_protocol_class is None or not is_handshake(
            scope["method"], scope["http_version"], self._get_upgrade(), self.headers
        ):
            self._ignore_upgrade(rest)
        elif rest:
            self._refuse(MALFORMED)  # a websocket's client waits for the answer (RFC 6455, 4.1)
        elif self._is_busy():
            self._last = self.handle_websocket_upgrade
            self.flow.pause_reading()
        else:
            self.handle_websocket_upgrade()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read the request again as one that asks for no upgrade; what follows its head is left to the caller."""
        headers = self.headers
        first = f"{self.scope['method']} {{}} HTTP/{self.scope['http_version']}\r\n".encode()
        fields = [b"%b: %b\r\n" % (name, _without_upgrade(name, value)) for name, value in headers]
        head = first.replace(b"{}", self.url) + b"".join(fields) + b"\r\n"
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
        self._unread = memoryview(rest + bytes(self._unread))
        self._feed(head)
        self.scope["headers"] = headers  # the application sees what the client has sent

    def _refuse(self, message: str) -> None:
        """Answer 400 behind the answers to the requests before this one, and read nothing more."""
        self.logger.warning(message)
        self._unread = b""
        if self.pipeline and self.cycle.more_body:  # the request whose body is malformed does not begin
            self.pipeline.popleft()
            self.cycle = self._running
        if not self._is_busy():
            self.send_400_response(message)
        elif not self.cycle.more_body:
            self._last = partial(self.send_400_response, message)
            self.flow.pause_reading()
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self.send_400_response(message)

    # --- after an answer

    def on_response_complete(self) -> None:
        """The application has answered `_running`.  In the place of uvicorn's, which makes a timer for each request."""
        if self.out.held:
            self.out.uncork()  # the answer to HEAD has no body
        if self.lingers or self.transport.is_closing():
            return
        if self.pipeline:
            self._running, app = self.pipeline.pop()
            self._start_asgi_task(self._running, app)
        else:
            self.idle_since = self.loop.time()
            if self.lot is not None:
                self.served += 1
                if self.lot.at_once:
                    self.lot.park(self)  # type: ignore[arg-type]  # it is a `Parks`, too
                    if self.transport.is_closing():
                        return
            if self.timeout_keep_alive_task is None:
                self._time_idle(self.timeout_keep_alive)
        if self.flow.read_paused or self._ended or self._last is not None:
            self._go_on()

    def _time_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle for the keep-alive time.

        A connection has one timer, which looks when the last answer ended: to cancel a timer and make another costs a
        request 0.6 us.
        """
        self.timeout_keep_alive_task = None
        if self.idle_since is None:
            return  # the next answer makes a timer
        rest = self.idle_since + self.timeout_keep_alive - self.loop.time()
        if rest > 0:
            self._time_idle(rest)
        else:
            super().timeout_keep_alive_handler()

    def _go_on(self) -> None:
        """After an answer, when something waits behind it; what is unread has paused the reading."""
        if self.transport.is_closing():
            return
        if self._unread and not self.pipeline:
            self.idle_since = None
            self._feed_unread()
        if self._is_busy():
            self.flow.resume_reading()
            return
        last, self._last = self._last or (self.transport.close if self._ended else None), None
        self.flow.resume_reading()  # also for the websocket, whose protocol takes the transport as it is
        if last is not None:
            self.idle_since = None
            last()

    # --- half-closed

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection for the answers to complete requests.  TLS has no half-closed connections here."""
        if self.scheme == "https" or not self._is_busy():
            return None
        if self.cycle.more_body:
            if not self.pipeline:
                return None
            self.pipeline.popleft()
            self.cycle = self._running
        self._ended = True
        abort_when_silent(self.loop, self.transport)
        return True


def _with_path(url: bytes) -> bytes:
    """A target with a path: ``http://host?query`` has none, and means ``/`` (RFC 9112, 3.2.2; RFC 9110, 4.2.3)."""
    scheme, separator, rest = url.partition(b"://")
    authority, mark, query = rest.partition(b"?")
    return b"%b://%b/%b%b" % (scheme, authority, mark, query) if separator and b"/" not in authority else url


def _without_upgrade(name: bytes, value: bytes) -> bytes:
    """The value of a field; that of ``Connection`` without the option ``upgrade``."""
    if name != b"connection":
        return value
    return b", ".join(option for option in value.split(b",") if option.strip().lower() != b"upgrade")
