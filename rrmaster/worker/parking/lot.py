"""How does a worker park connections of HTTP/1.1?  By its lane, one or many in a message.

::

    a request ends ── at once? ── yes ──► parked, in that very callback
                               └─ no ───► stays; each `--park-after` / 2 all that have rested so long leave together

The kernel has a copy of the descriptor once it is in the lane; the transport then closes its own without a word to the
client.  Without a lane, because no pool stands or the fleet stops, all connections stay.  A look at the loop each
`LOOK_S` tells how long requests hold it, while there are connections (see `law`).

This module knows no async library: `on_asyncio` and `on_trio` wait for the lane and for the next look.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

from attrs import Factory, define, field

from ...protocol.channel import SEND
from ...protocol.family.children import keep_from_children
from ...protocol.parking.lane import MOST, PARK, record
from ..duty import Duty
from .law import ParkingLaw
from .memo import Memo

LOOK_S = 0.01
"""Seconds between two looks at the loop while there are connections.  A look costs 3 us."""

WAKES = 3
"""Bytes that wake a resting connection: a blank line, which old clients send after a body, is no request."""

LEAST_S = 0.001
"""Seconds between two sweeps at least."""

_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_CLOCK = time.monotonic


class Guest(Protocol):
    """A connection that can be parked."""

    taken: Any
    """How it came."""

    def rested(self, now: float) -> float | None:
        """Seconds since which it can be parked; None: it cannot be now."""

    def ticket(self, now: float) -> tuple[int, bytes]:
        """Its descriptor, and its record for the idle pool."""

    def parked(self) -> None:
        """It is the pool's: let go of it."""


@define(eq=False)
class Lot:
    """The worker's end of its lane."""

    duty: Duty
    law: ParkingLaw
    guests: Collection[Any]
    """All connections of the server; those that are no `Guest` are left alone."""
    keep_alive: float
    """Seconds that a connection may rest in all."""
    on_away: Callable[[], None] = lambda: None
    """Called when the lane has ended."""
    at_once: bool = False
    """What the law said at the last look; requests ask here, and pay nothing while it is false."""
    lane: socket.socket | None = None
    _looking: bool = False
    _due: float = 0.0
    _ended: int = 0
    """Requests that had ended at the last look."""
    _thread: OnProcessor = field(factory=lambda: OnProcessor())
    _sweep_at: float = 0.0

    def take_lane(self, fd: int) -> None:
        """The master has sent a lane, which is this object's now."""
        self._drop_lane()
        self.lane = lane = socket.socket(fileno=fd)
        lane.setblocking(False)
        keep_from_children(lane)
        self._watch(lane)
        self.begin()

    def _drop_lane(self) -> None:
        if self.lane is not None:
            self._unwatch(self.lane)
            self.lane.close()
            self.lane, self.at_once = None, False

    def _watch(self, lane: socket.socket) -> None:
        """Call `_hear` when something can be read from this lane."""
        raise NotImplementedError

    def _unwatch(self, lane: socket.socket) -> None:
        """... and no longer."""
        raise NotImplementedError

    def _look_in(self, seconds: float) -> None:
        """Call `_look` after this time, and again after each time that it returns, until that is 0."""
        raise NotImplementedError

    def _hear(self) -> None:
        """The master has said something, or the lane has ended."""
        if self.lane is None:
            return
        try:
            said = self.lane.recv(16)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._drop_lane()
            self.on_away()
            return
        self.law.spread(_CLOCK())
        self._decide(_CLOCK())
        self._sweep(0.0)

    # --- looking

    def begin(self) -> None:
        """There is a connection: look at the loop, and at what rests, until there is none."""
        if not self._looking and self.lane is not None:
            self._looking = True
            now = _CLOCK()
            self._due, self._ended = now + LOOK_S, self._requests()
            self._sweep_at = now + self._period
            self._thread.since_last()
            self._look_in(LOOK_S)
        elif self.law.threaded:
            self._decide(_CLOCK())

    @property
    def _period(self) -> float:
        return max(self.law.after / 2, LEAST_S)

    def _requests(self) -> int:
        return self.duty.requests.ended if self.duty.requests is not None else 0

    def _look(self) -> float:
        """Seconds until the next look; 0: there is none."""
        now, ended = _CLOCK(), self._requests()
        waited, ran = self._thread.since_last()
        self.law.looked(now - self._due, waited, ran, ended - self._ended, now)
        self._ended = ended
        self._decide(now)
        if now >= self._sweep_at or self.at_once:
            self._sweep(0.0 if self.at_once else self.law.after)
            self._sweep_at = now + self._period
        if self.lane is None or not self.duty.open:
            self._looking = False
            return 0.0
        # Where connections are parked at once, a sweep finds those alone that could not leave then.
        pause = LOOK_S if self.at_once else min(LOOK_S, max(self._sweep_at - now, LEAST_S))
        self._due = _CLOCK() + pause
        return pause

    def _decide(self, now: float) -> None:
        before, duty = self.at_once, self.duty
        self.at_once = self.lane is not None and self.law.at_once(now, duty.limiters.all_taken(), duty.open)
        if self.at_once and not before and self.law.threaded:
            self._sweep(0.0)  # what rests here holds places that others wait for

    def drain(self) -> bool:
        """This worker leaves: park what rests now, and the others as soon as they do.  False: there is no lane."""
        if self.lane is None:
            return False
        self.law.drain()
        self._decide(_CLOCK())
        self._sweep(0.0)
        self.begin()
        return True

    # --- parking

    def park(self, guest: Guest) -> None:
        """A request has ended, and connections are parked at once."""
        now = _CLOCK()
        if guest.rested(now) is not None:
            self._send([guest], now)
            if self.law.threaded:
                self._decide(now)

    def _sweep(self, after: float) -> None:
        """Park all that have rested for so long."""
        now = _CLOCK()
        ripe = [guest for guest in self._guests() if (rested := guest.rested(now)) is not None and rested >= after]
        for first in range(0, len(ripe), MOST):
            if not self._send(ripe[first : first + MOST], now):
                return

    def _guests(self) -> list[Guest]:
        return [guest for guest in self.guests if hasattr(guest, "rested")]

    def _send(self, guests: list[Any], now: float) -> bool:
        """Give these connections to the pool.  False: it takes none now, and they stay."""
        if self.lane is None:
            return False
        tickets = [guest.ticket(now) for guest in guests]
        message = PARK.pack(len(tickets)) + b"".join(written for _, written in tickets)
        rights = struct.pack(f"{len(tickets)}i", *(fd for fd, _ in tickets))
        taken = [guest.taken for guest in guests]
        try:
            self.lane.sendmsg((message,), ((_LEVEL, _RIGHTS, rights),), SEND)
        except OSError:
            return False  # the lane is full, or has ended, which `_hear` finds out
        self.duty.gave_away(*taken)  # counted first: this process may be killed in the midst of what follows
        for guest in guests:
            guest.parked()
        return True

    def record_of(self, taken: Any, served: int, idle: float, now: float) -> bytes:
        """A connection's record, when it has rested for `idle` seconds, after `served` requests here."""
        memo = taken.memo or Memo(now)
        _, header = self.duty.clients.get(taken.fd, (None, memo.header))
        told = Memo(memo.accepted, memo.requests + served, header)
        return record(now + self.keep_alive - idle, taken.listener, WAKES, told.encode())


@define(eq=False)
class OnProcessor:
    """How long has this thread waited for a processor, and run on one?  ``schedstat`` in proc(5)."""

    _fd: int = -1
    _waited: int = 0
    _ran: int = 0
    _thread: int = Factory(threading.get_native_id)

    def since_last(self) -> tuple[float, float]:
        """Seconds of both since the last call; 0 where the kernel does not say."""
        try:
            if self._fd < 0:
                self._fd = os.open(f"/proc/self/task/{self._thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            ran, waited = map(int, os.pread(self._fd, 64, 0).split()[:2])
        except (OSError, IndexError, ValueError):
            return 0.0, 0.0
        since = (waited - self._waited) / 1e9, (ran - self._ran) / 1e9
        self._waited, self._ran = waited, ran
        return since
