"""How does a stream handler give its connection back between a request and the next one?

Only the handler knows its protocol, and when it is between two requests: it says so by `CurrentWorker.park`.  A
`trio.SocketStream` reads nothing ahead, so what the client has sent since is in the kernel, and comes along.  A
StreamReader of asyncio reads ahead: where it has done so, the connection stays.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from attrs import Factory, define

from ...protocol.channel import SEND
from ...protocol.family.children import keep_from_children
from ...protocol.parking.lane import PARK, record
from ..duty import Duty, Taken
from .memo import Memo

if TYPE_CHECKING:
    from asyncio import StreamReader

_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)

WAKES = 1
"""Bytes that wake a resting connection: what a blank line means is for its protocol to say."""


@define(eq=False)
class StreamLot:
    """The worker's end of its lane, where handlers park."""

    duty: Duty
    seconds: float
    """For how long a connection may rest: `--keep-alive`."""
    _lane: socket.socket | None = None
    _taken: dict[int, Taken] = Factory(dict)
    """The handlers' connections, by descriptor."""

    def take_lane(self, fd: int) -> None:
        """The master has sent a lane, which is this object's now."""
        if self._lane is not None:
            self._lane.close()
        self._lane = socket.socket(fileno=fd)
        keep_from_children(self._lane)

    def came(self, taken: Taken) -> None:
        """A handler begins with this connection."""
        if not taken.probe:
            self._taken[taken.fd] = taken

    def has_parked(self, stream: Any) -> bool:
        """Whether the connection of this stream was parked before.  One with TLS, which has no socket, never is."""
        sock = getattr(stream, "socket", None)
        taken = self._taken.get(sock.fileno()) if sock is not None else None
        return taken is not None and taken.memo is not None

    def left(self, taken: Taken) -> None:
        """It has ended; another connection may have the descriptor by now."""
        if self._taken.get(taken.fd) is taken:
            del self._taken[taken.fd]

    async def park(self, stream: Any) -> bool:
        """Carry out `CurrentWorker.park` for a stream of trio."""
        if hasattr(stream, "transport_stream"):
            raise ValueError("a stream with TLS cannot be parked: its state is in this worker")
        if not self._send(stream.socket.fileno()):
            return False
        await stream.aclose()
        return True

    def _send(self, fd: int) -> bool:
        """Send this connection to the idle pool.  False: it stays, because no pool takes it now."""
        taken = self._taken.get(fd)
        if taken is None or self._lane is None:
            return False
        now = time.monotonic()
        memo = taken.memo or Memo(now)
        _, header = self.duty.clients.get(fd, (None, memo.header))
        told = Memo(memo.accepted, memo.requests + 1, header)
        message = PARK.pack(1) + record(now + self.seconds, taken.listener, WAKES, told.encode())
        try:
            # The end of a lane is seen here, too: nothing can be sent through it.
            self._lane.sendmsg((message,), ((_LEVEL, _RIGHTS, struct.pack("i", fd)),), SEND)
        except OSError:
            return False
        self.duty.gave_away(taken)
        del self._taken[fd]
        return True


@define(eq=False)
class WriterLot(StreamLot):
    """The same on asyncio and uvloop."""

    _readers: dict[int, StreamReader] = Factory(dict)

    def reads(self, taken: Taken, reader: StreamReader) -> None:
        """A handler reads this connection by this reader."""
        self.came(taken)
        if not taken.probe:
            self._readers[taken.fd] = reader

    def left(self, taken: Taken) -> None:
        if self._taken.get(taken.fd) is taken:
            del self._readers[taken.fd]
        super().left(taken)

    async def park_writer(self, writer: Any) -> bool:
        """Carry out `CurrentWorker.park` for a StreamWriter."""
        transport = writer.transport
        if transport.get_extra_info("sslcontext") is not None:
            raise ValueError("a stream with TLS cannot be parked: its state is in this worker")
        if transport.get_write_buffer_size():
            transport.set_write_buffer_limits(0)  # so that `drain` waits for all of it
            await writer.drain()
            transport.set_write_buffer_limits()
        fd = transport.get_extra_info("socket").fileno()
        reader = self._readers.get(fd)
        # Nothing public tells what a reader holds.
        if reader is None or reader._buffer or reader.at_eof() or transport.is_closing():  # type: ignore[attr-defined]
            return False
        if not self._send(fd):
            return False
        del self._readers[fd]
        transport.abort()  # closes this process's descriptor, and says nothing to the client
        return True
