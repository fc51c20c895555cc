"""Through which lanes do workers park connections, and what becomes of what lies in one when the idle pool dies?

::

    worker's end ═══ SOCK_SEQPACKET pair ═══ the pool's end
                                              └── a copy of it: the master's *key*

A lane is a line like any other.  The master makes it when a worker that parks is ready and a pool stands, sends one end
down the worker's line and the other to the pool, and keeps a copy of that.  It carries no connection itself and reads
nothing, until the pool has ended: then what lies in the lanes is taken back by key and handed to workers, and the lanes
are closed, which tells the workers to keep what they have.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Callable

from attrs import Factory, define

from ...protocol import wire
from ...protocol.channel import DONTWAIT, SEND
from ...protocol.family.children import keep_from_children
from ...protocol.pages.figures import clock_us
from ...protocol.parking import lane
from ...waiting import close
from ..link import Link

SPREAD = b"s"
"""What the master says to a worker through its lane: park for a moment whatever rests, for there is a new worker."""

_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_FD = struct.Struct("i")
_FIONREAD = 0x541B
_CONTROL = 4 * 256 + 64
"""Bytes for the descriptors of a whole message."""


@define(eq=False)
class Lanes:
    """The lanes of all workers that park.  It owns the keys."""

    redeliver: Callable[[wire.Handoff, int], None]
    """Hands a connection to a worker.  It owns the descriptor from then on."""
    pool: socket.socket | None = None
    """The line to the idle pool; None while none stands.  Its keeper's."""
    wanted: Callable[[], None] = lambda: None
    """Called when a worker is ready that parks: from now on there should be a pool."""
    found_alive: int = 0
    """Connections that dead workers had parked, and not reported: they looked lost, and are not."""
    _dead: dict[int, int] = Factory(dict)
    """By number, what dead workers with a lane have reported as parked, ..."""
    _taken: dict[int, int] = Factory(dict)
    """... and what the pool has taken from them."""
    taken_back: int = 0
    """Connections that lay in lanes when a pool ended."""
    _keys: dict[Link, socket.socket] = Factory(dict)
    _parking: set[Link] = Factory(set)
    """The workers that park."""
    _leaving: list[socket.socket] = Factory(list)
    """The keys of workers that are dead, as long as something lies there."""

    def call_when_wanted(self, wanted: Callable[[], None]) -> None:
        """Have this called when a worker is ready that parks."""
        self.wanted = wanted

    # --- workers

    def add(self, link: Link) -> None:
        """A worker is ready, and it parks."""
        self._parking.add(link)
        self.wanted()
        self.open(link)

    def open(self, link: Link) -> None:
        """Give a worker a lane, or another one, if a pool stands."""
        if self.pool is None or link not in self._parking:
            return
        self._close(link)
        try:
            its_end, pools_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return  # no descriptor is free: this worker keeps its connections
        keep_from_children(its_end, pools_end)
        order = lane.ORDER.pack(lane.LANE, link.load.id & 0xFFFFFFFF)
        try:
            self.pool.sendmsg((order,), ((_LEVEL, _RIGHTS, _FD.pack(pools_end.fileno())),), SEND)
        except OSError:
            its_end.close()
            pools_end.close()
            return  # the pool does not read, and its keeper will end it; the next one gets a lane for this worker
        self._keys[link] = pools_end
        link.give_lane(its_end)

    def remove(self, link: Link) -> None:
        """A worker has died.  The pool has its end of the lane, and reads what lies there."""
        self._parking.discard(link)
        if (key := self._keys.pop(link, None)) is not None:
            self._leaving.append(key)
            self._compare(link.load.id & 0xFFFFFFFF, link.load.parked, self._dead, self._taken)
        for old in [old for old in self._leaving if not _has_messages(old)]:
            self._leaving.remove(old)
            old.close()

    def ended(self, worker: int, taken: int) -> None:
        """The pool has read a dead worker's lane to its end."""
        self._compare(worker, taken, self._taken, self._dead)

    def _compare(self, worker: int, number: int, ours: dict[int, int], others: dict[int, int]) -> None:
        """Count what was parked and not reported, as soon as both numbers are known, whichever comes first."""
        ours[worker] = number
        if worker in others:
            self.found_alive += max(self._taken.pop(worker) - self._dead.pop(worker), 0)

    def spread(self, newcomer: Link) -> None:
        """A worker serves from now on: the others park for a moment what rests, so that it gets its share."""
        for link, key in self._keys.items():
            if link is not newcomer:
                try:
                    key.send(SPREAD, SEND)
                except OSError:
                    pass  # a worker that reads nothing has more to do than to park

    # --- the pool

    def stand(self, line: socket.socket) -> None:
        """A pool stands, and this is the line to it: give each worker that parks a lane."""
        self.pool = line
        for link in list(self._parking):
            self.open(link)

    def fall(self) -> None:
        """The pool has ended: take back what lies in the lanes, and close them."""
        self.pool = None
        keys, self._keys = [*self._keys.values(), *self._leaving], {}
        self._leaving = []
        self._dead.clear()
        self._taken.clear()
        for key in keys:
            try:
                key.shutdown(socket.SHUT_RDWR)  # from here on no worker parks; what lies there can still be read
            except OSError:
                pass  # the worker has closed its end
            self._take_back(key)
            key.close()

    def hang_up(self) -> None:
        """No worker parks from now on; the pool still reads what lies in the lanes."""
        for link in list(self._keys):
            self._close(link)
        self._parking.clear()

    def close(self) -> None:
        """Close what is left."""
        self.hang_up()
        for key in self._leaving:
            key.close()
        self._leaving.clear()

    def _close(self, link: Link) -> None:
        if (key := self._keys.pop(link, None)) is not None:
            try:
                key.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the worker has closed its end
            key.close()

    def _take_back(self, key: socket.socket) -> None:
        while True:
            try:
                data, ancillary, _, _ = key.recvmsg(lane.MAX_PARK, _CONTROL, _RECEIVE)
            except ConnectionResetError:
                continue  # the worker has died, too; what it had sent is still to be read
            except OSError:
                return
            fds = [fd for level, kind, rights in ancillary for (fd,) in _FD.iter_unpack(rights) if kind == _RIGHTS]
            if not data and not fds:
                return
            self._redeliver(data, fds)

    def _redeliver(self, data: bytes, fds: list[int]) -> None:
        handed = 0
        try:
            for (_, listener, _, memo), fd in zip(lane.records(data), fds, strict=False):
                handed += 1
                self.taken_back += 1
                self.redeliver(wire.Handoff(listener, accepted_at=clock_us(), memo=memo), fd)
        except lane.Malformed:
            pass  # a worker has written it; what it did not describe is closed
        for fd in fds[handed:]:
            close(fd)


def _has_messages(key: socket.socket) -> bool:
    waiting = bytearray(4)
    try:
        fcntl.ioctl(key.fileno(), _FIONREAD, waiting)
        return any(waiting) or bool(key.recv(1, DONTWAIT | socket.MSG_PEEK))
    except OSError:
        return False
