"""When can a connection be parked, and how does it leave?  The same for both of uvicorn's protocols.

It can where nothing is in progress, nothing is buffered in either direction, and nothing was sent ahead.  Each protocol
says so itself (`_rests`), because each keeps what it has read in a place of its own.

*Decide in the callback*: what the parser says of a request (`should_keep_alive`) is not to be asked once further bytes
are fed to it, so the answer's end decides by what the cycle has kept.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ...access.line import PARKED
from ...duty import Taken

if TYPE_CHECKING:
    from ...parking.lot import Lot
    from ..asgi import ASGI, Message, Receive, Send


def _marked(app: ASGI) -> ASGI:
    """The application, for a connection that was parked before: the access log can tell (`access.line.PARKED`)."""

    async def called(scope: Message, receive: Receive, send: Send) -> None:
        scope[PARKED] = True
        await app(scope, receive, send)

    return called


class _Marks:
    """A mix-in for the protocol of a websocket on such a connection."""

    app: ASGI

    def __init__(self, **known: Any) -> None:
        super().__init__(**known)
        self.app = _marked(self.app)


@cache
def _marking(kind: type[Any]) -> type[Any]:
    return type(kind.__name__, (_Marks, kind), {})


class Parks:
    """A mix-in for a protocol of HTTP/1.1 whose connections can be parked."""

    lot: Lot
    taken: Taken | None = None
    """How the connection came.  None: it is not parked (a probe)."""
    app: Any
    ws_protocol_class: Any
    transport: Any
    cycle: Any
    idle_since: float | None
    served: int

    def came(self, taken: Taken) -> None:
        """The connection was taken from the letterbox."""
        self.taken = taken
        if taken.memo is not None:
            self.app = _marked(self.app)
            if self.ws_protocol_class is not None:
                self.ws_protocol_class = _marking(self.ws_protocol_class)

    def rested(self, now: float) -> float | None:
        """Seconds for which it has rested; None: it cannot be parked now."""
        if self.taken is None or self.transport.is_closing() or self.transport.get_write_buffer_size():
            return None
        cycle = self.cycle
        if cycle is None:  # no request has come yet: such a connection leaves only in a drain
            return 0.0 if self.lot.law.draining and self._is_untouched() else None
        if self.idle_since is None or cycle.more_body or not (cycle.response_complete and self._rests()):
            return None
        return max(now - self.idle_since, 0.0)

    def _rests(self) -> bool:
        """Whether the connection is kept, and no byte of another request has come."""
        raise NotImplementedError

    def _is_untouched(self) -> bool:
        """Whether no byte has come at all."""
        raise NotImplementedError

    def ticket(self, now: float) -> tuple[int, bytes]:
        """Its descriptor, and its record for the idle pool."""
        assert self.taken is not None
        idle = 0.0 if self.idle_since is None else max(now - self.idle_since, 0.0)
        return self.taken.fd, self.lot.record_of(self.taken, self.served, idle, now)

    def parked(self) -> None:
        """It is the pool's.  The transport closes this process's descriptor, and says nothing to the client."""
        self.transport.abort()
