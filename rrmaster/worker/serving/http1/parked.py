"""When can a connection be parked, and how does it leave?  The same for both of uvicorn's protocols.

It can where nothing is in progress, nothing is buffered in either direction, and nothing was sent ahead.  Each protocol
says so itself (`_rests`), because each keeps what it has read in a place of its own.

*Decide in the callback*: what the parser says of a request (`should_keep_alive`) is not to be asked once further bytes
are fed to it, so the answer's end decides by what the cycle has kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...duty import Taken

if TYPE_CHECKING:
    from ...parking.lot import Lot

WAKES = 3
"""Bytes that wake a resting connection: a blank line, which old clients send after a body, is no request."""


class Parks:
    """A mix-in for a protocol of HTTP/1.1 whose connections can be parked."""

    lot: Lot
    taken: Taken | None = None
    """How the connection came.  None: it is not parked (a probe)."""
    transport: Any
    cycle: Any
    idle_since: float | None
    served: int

    def came(self, taken: Taken) -> None:
        """The connection was taken from the letterbox."""
        self.taken = taken

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
        return self.taken.fd, self.lot.record_of(self.taken, self.served, idle, now, WAKES)

    def parked(self) -> None:
        """It is the pool's.  The transport closes this process's descriptor, and says nothing to the client."""
        self.transport.abort()
