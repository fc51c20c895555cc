"""When does a worker on trio look after what it parks, and how does a connection of anycorn's leave?

::

    the reading task ── waits for bytes ── are there ──► reads them
                              └── meanwhile: parked ──► finds its socket closed, and ends

A connection can be parked only while its task waits in `until_readable`: what it has read by then is anycorn's, and
what comes later is still in the kernel, and goes along.  trio's ``receive_some`` has a checkpoint behind the read, when
the bytes are in no buffer yet, so it is not what a task may wait in.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import trio
from attrs import define

from ..duty import Taken
from .lot import Guest, Lot

if TYPE_CHECKING:
    from ..serving.anycorn_connection import AnycornConnection


@define(eq=False, kw_only=True)
class TrioLot(Lot):
    """The worker's end of its lane, on trio."""

    _tasks: trio.Nursery | None = None

    async def run(self) -> None:
        """Do what is to be done later, until cancelled."""
        async with trio.open_nursery() as self._tasks:
            await trio.sleep_forever()

    def _start(self, do: Any, *arguments: Any) -> None:
        assert self._tasks is not None, "it runs before connections come"
        self._tasks.start_soon(do, *arguments)

    def _watch(self, lane: socket.socket) -> None:
        self._start(self._listen, lane)

    async def _listen(self, lane: socket.socket) -> None:
        try:
            while self.lane is lane:
                await trio.lowlevel.wait_readable(lane)
                self._hear()
        except trio.ClosedResourceError:
            pass  # it has been dropped

    def _unwatch(self, lane: socket.socket) -> None:
        trio.lowlevel.notify_closing(lane)

    def _look_in(self, seconds: float) -> None:
        self._start(self._look_again, seconds)

    def _guests(self) -> list[Guest]:
        return [connection.guest for connection in self.guests if connection.guest is not None]

    async def _look_again(self, seconds: float) -> None:
        while seconds:
            await trio.sleep(seconds)
            seconds = self._look()


@define(eq=False)
class AnycornGuest:
    """A connection of HTTP/1.1 that can be parked."""

    lot: Lot
    taken: Taken
    connection: AnycornConnection
    stream: trio.SocketStream
    _waits: bool = False
    """Whether the reading task waits, and has read nothing."""

    async def until_readable(self) -> None:
        """Wait for bytes.  Raises ClosedResourceError if the connection is parked meanwhile."""
        self._waits = True
        if self.lot.at_once:
            self.lot.park(self)
        try:
            if self.stream.socket.fileno() < 0:
                raise trio.ClosedResourceError("it is parked")
            await trio.lowlevel.wait_readable(self.stream.socket)
        finally:
            self._waits = False

    def rested(self, now: float) -> float | None:
        """Seconds for which it has rested; None: it cannot be parked now."""
        if self.connection.silent:  # no request has come yet: such a connection leaves only in a drain
            return 0.0 if self.lot.law.draining and self._rests() else None
        return self._idle() if self.connection.resting and self._rests() else None

    def _rests(self) -> bool:
        """Whether nothing is in progress, in neither direction; HTTP/2 stays."""
        one = self.connection
        return self._waits and one.h2 is None and not one.left and one.outgoing.waiting_since is None

    def _idle(self) -> float:
        return trio.current_time() - self.connection.rested_at  # another clock than the lot's

    def ticket(self, now: float) -> tuple[int, bytes]:
        """Its descriptor, and its record for the idle pool."""
        protocol: Any = self.connection.protocol.protocol
        idle = 0.0 if self.connection.silent else self._idle()
        return self.taken.fd, self.lot.record_of(self.taken, protocol.keep_alive_requests, idle, now)

    def parked(self) -> None:
        """It is the pool's.  This process's descriptor is closed, which says nothing to the client."""
        self._waits = False
        self.stream.socket.close()
