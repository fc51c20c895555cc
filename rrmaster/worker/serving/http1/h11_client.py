"""One client's connection, read by h11: uvicorn's protocol, with what it leaves open mended.

h11 parses one request at a time and reads the body of one that asks for another protocol, so less is to mend than with
httptools (see `httptools_client`).  It is used where httptools is not installed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .endings import Lingers, abort_when_silent
from .h11_requests import Connection, has_begun
from .handshake import is_handshake
from .reading import Flow

if TYPE_CHECKING:
    from ...parking.lot import Lot

_AT_REST = {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}

LONGEST_HEAD = 16384
"""Bytes of an unfinished head where no option bounds it: h11's own bound."""


class H11Client(Lingers, H11Protocol):
    """uvicorn's protocol with h11, mended."""

    _ended = False
    """Whether the client has closed its direction."""
    idle_since: float | None = None
    """When the last answer ended."""
    served = 0
    """Requests answered here."""
    lot: Lot | None = None
    """Where connections are parked, if they are."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = Connection(h11.SERVER, config.h11_max_incomplete_event_size or LONGEST_HEAD)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.out = self.transport
        self.flow = Flow(self.transport, self._holds_back, self.server_state)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it to run after a reset, and it holds the connection
        self.flow.let_go()

    def data_received(self, data: bytes) -> None:
        if self.lingers:
            self.drop(data)
            return
        idle, cycle, now = self.timeout_keep_alive_task is not None, self.cycle, self.loop.time()
        super().data_received(data)
        if self.cycle is not None and self.cycle.more_body:
            self.expect_body()
        if self.timeout_keep_alive_task is None and self._is_at_rest() and not self.transport.is_closing():
            # A blank line, which old clients send after a body, begins nothing, and gives no more time.
            if not idle or self.idle_since is None or cycle is not self.cycle:
                self.idle_since = now
            rest = self.idle_since + self.timeout_keep_alive - now
            self.timeout_keep_alive_task = self.loop.call_later(max(rest, 0.0), self.timeout_keep_alive_handler)

    def _is_at_rest(self) -> bool:
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.conn.states == _AT_REST and not has_begun(self.conn)

    def _holds_back(self) -> bool:
        if self._ended:
            return True
        return self._is_busy() and not self.cycle.more_body and bool(self.conn.trailing_data[0])

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _should_upgrade(self) -> bool:
        scope = self.scope
        upgrade = self._get_upgrade()
        return self.ws_protocol_class is not None and is_handshake(
            scope["method"], scope["http_version"], upgrade, self.headers
        )

    def on_response_complete(self) -> None:
        if self.lingers:
            return
        super().on_response_complete()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()  # uvicorn does so before it has begun what waits
        self.idle_since = self.loop.time()
        if self._ended and not self._is_busy():
            self._unset_keepalive_if_required()
            self.transport.close()
        elif self.lot is not None and not self._is_busy():
            self.served += 1
            if self.lot.at_once:
                self.lot.park(self)  # type: ignore[arg-type]  # it is a `Parks`, too

    def _rests(self) -> bool:
        return self.timeout_keep_alive_task is not None and not self._ended and self._is_at_rest()

    def _is_untouched(self) -> bool:
        return self.scope is None and not self.conn.trailing_data[0]

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection for the answers to complete requests.  TLS has no half-closed connections here."""
        if self.scheme == "https" or not self._is_busy() or self.cycle.more_body:
            return None
        self._ended = True
        abort_when_silent(self.loop, self.transport)
        return True
