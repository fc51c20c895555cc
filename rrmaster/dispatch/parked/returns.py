"""How do connections come back from the idle pool?  As from a listener: each is given to a worker chosen for it.

The master reads a connection from the pool's line only while a worker has room for it, as it accepts one only then.
What waits there is in the kernel, and what waits behind that is in the pool, which knows the clients' order.  A
connection belongs to the listener that it was accepted from.  Where workers serve different listeners, the one at the
head of the line keeps the others waiting until it can be given to a worker.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import trio
from attrs import define

from ...logs.log import logger
from ...protocol import wire
from ...protocol.channel import DONTWAIT, PEEK
from ...protocol.pages.figures import clock_us
from ...protocol.parking.lane import ENDED, MAX_MEMO, MAX_RETURN, RETURN
from ...waiting import unwatch
from ..acceptor import AcceptLoop
from ..membership import Delivery, Membership

AT_ONCE = 8
"""Connections between two looks at the clock, as the accept loop."""

_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_RIGHTS = int(socket.SCM_RIGHTS)
_FD = struct.Struct("i")
_CONTROL = 64
"""Bytes for one descriptor, and for credentials beside it."""


@define(eq=False)
class Returns:
    """The line from the idle pool.  It holds no connection between two calls."""

    epoll: select.epoll
    """Where the line is registered; the dispatcher's."""
    accept_loop: AcceptLoop
    membership: Membership
    delivery: Delivery
    on_full: Callable[[float], None]
    """Called with the time when connections wait and no worker has room for them."""
    on_ended: Callable[[int, int], None]
    """Called with the number of a lane that was read to its end, and how many connections have come through it."""
    resumed: int = 0
    """Connections that have come back."""
    lost: int = 0
    """Connections that the kernel closed, because this process had no place for a descriptor."""
    pending: bool = False
    """Whether one may wait: epoll said so, and a read has not denied it."""
    _line: socket.socket | None = None

    def open(self, line: socket.socket) -> None:
        """Take connections from this line from now on; it stays the caller's.  Raises OSError."""
        self.epoll.register(line.fileno(), select.EPOLLIN | select.EPOLLET)
        self._line, self.pending = line, True

    def look(self) -> None:
        """Look again in the next turn, for the pool has ended: `take` reads to the end, and then `is_open` is false."""
        self.pending = self._line is not None

    def close(self) -> None:
        """Read nothing more."""
        if self._line is not None:
            unwatch(self.epoll, self._line.fileno())
            self._line, self.pending = None, False

    @property
    def is_open(self) -> bool:
        """Whether there may still come connections."""
        return self._line is not None

    def take(self, events: list[tuple[int, int]], now: float, end: float) -> bool:
        """Take what waits, as far as workers have room.  Whether anything was done."""
        line = self._line
        if line is None:
            return False
        fd = line.fileno()
        self.pending = self.pending or any(one == fd for one, _ in events)
        if not self.pending or now < self.accept_loop.paused_until:
            return False
        worked = False
        while self.pending:
            for _ in range(AT_ONCE):
                if not self._has_receiver(line):
                    self.on_full(now)
                    return worked
                if not self._take_one(line):
                    return worked
                worked = True
            now = trio.current_time()
            if now >= end or now < self.accept_loop.paused_until:
                break
        return worked

    def _has_receiver(self, line: socket.socket) -> bool:
        acceptors = self.membership.acceptors
        if len(acceptors) == 1:
            return acceptors[0].policy.ready()
        try:
            head = line.recv(RETURN.size, DONTWAIT | PEEK)  # without a control buffer: no descriptor is duplicated
        except OSError:
            return True  # there is none, which `_take_one` finds out
        return len(head) < RETURN.size or self.delivery.has_receiver(RETURN.unpack(head)[0])

    def _take_one(self, line: socket.socket) -> bool:
        try:
            data, ancillary, flags, _ = line.recvmsg(MAX_RETURN, _CONTROL, _RECEIVE)
        except ConnectionResetError:
            return True  # the pool has died; what it had sent before is still to be read
        except OSError:
            self.pending = False
            return False
        if not data:
            self.close()
            return False
        fds = [fd for _, kind, rights in ancillary if kind == _RIGHTS for (fd,) in _FD.iter_unpack(rights)]
        if not fds and not flags & socket.MSG_CTRUNC:
            self.on_ended(*ENDED.unpack_from(data))
            return True
        if not fds:  # a Return, whose descriptor found no place: its memo, a worker's, may be as long as an Ended
            self.lost += 1
            logger.error("a parked connection was lost: the master is out of descriptors")
            return True
        listener, family = RETURN.unpack_from(data)
        self.resumed += 1
        memo = data[RETURN.size : RETURN.size + MAX_MEMO]
        handoff = wire.Handoff(listener, family=family, accepted_at=clock_us(), memo=memo)
        acceptor = self.membership.acceptor(listener)
        peer = _peer(fds[0]) if acceptor is not None and acceptor.policy.by_peer else ""
        self.delivery.deliver(handoff, fds[0], peer)
        return True


def _peer(fd: int) -> Any:
    """The address of the client, as accept has given it."""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            return sock.getpeername()
    except OSError:
        return ""  # it has left, or the descriptor table is full: only stickiness is lost
