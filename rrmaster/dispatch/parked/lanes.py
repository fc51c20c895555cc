"""Through which lanes do workers park connections, and what becomes of what lies in one when the idle pool dies?

::

    worker's end ═══ SOCK_SEQPACKET pair ═══ the pool's end
                                              └── a copy of it: the master's *key*

A lane is a line like any other.  The master makes it when a worker that parks is ready and a pool stands, sends one end
down the worker's line and the other to the pool, and keeps a copy of that.  It carries no connection itself and reads
nothing, until the pool has ended: then what lies in the lanes is taken back by key and handed to workers, and the lanes
are closed, which tells the workers to keep what they have.

A lane that is given up is shut first.  From then on nothing is parked there, and what lies in it is read to its end: by
the pool, which then says how many have come through (Ended), or by the master if the pool has ended.  Only that makes
final how many connections a dead worker had in its hands: see `link`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from attrs import Factory, define, evolve

from ...protocol import wire
from ...protocol.channel import SEND
from ...protocol.family.children import keep_from_children
from ...protocol.pages.figures import clock_us
from ...protocol.parking import lane
from ...protocol.parking.admission import Left, Refused, admit, discard, restore
from ..link import Link

SPREAD = b"s"
"""What the master says to a worker through its lane: park for a moment whatever rests, for there is a new worker."""

_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_FD = struct.Struct("i")
_CONTROL = 4 * 256 + 64
"""Bytes for the descriptors of a whole message."""


@define(eq=False)
class Lane:
    """One worker's lane, from its opening until it has been read to its end."""

    link: Link
    key: socket.socket
    """The pool's end.  Owned."""
    before: int
    """Connections that the worker had parked through other lanes."""
    back: int = 0
    """Connections that the master has taken back out of it."""

    def shut(self) -> None:
        """Let nothing more in."""
        try:
            self.key.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the worker has closed its end

    def took_back(self, count: int) -> None:
        """The master has taken so many back out of it."""
        self.back += count


@define(eq=False)
class Lanes:
    """The lanes of all workers that park.  It owns the keys."""

    redeliver: Callable[[wire.Handoff, int], None]
    """Hands a connection to a worker.  It owns the descriptor from then on."""
    pool: socket.socket | None = None
    """The line to the idle pool; None while none stands.  Its keeper's."""
    wanted: Callable[[], None] = lambda: None
    """Called when a worker is ready that parks: from now on there should be a pool."""
    taken_back: int = 0
    """Connections that lay in lanes when a pool ended, and were handed to workers."""
    left: int = 0
    """Connections whose client had gone when they were taken back."""
    refused: int = 0
    """What lay there and was no connection, or came twice."""
    lost: int = 0
    """Connections there that the kernel closed, because this process had no place for a descriptor."""
    _lanes: dict[int, Lane] = Factory(dict)
    """All lanes that are not read to their end, by number."""
    _open: dict[Link, int] = Factory(dict)
    """The lanes through which workers park now."""
    _number: int = 0
    _parking: set[Link] = Factory(set)
    """The workers that park."""
    _senders: list[Link] = Factory(list)
    """All workers that have parked, as long as their counts may change, ..."""
    _of_the_dead: int = 0
    """... and what the others have parked."""

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
        self._shut(link)
        try:
            its_end, pools_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return  # no descriptor is free: this worker keeps its connections
        keep_from_children(its_end, pools_end)
        self._number = (self._number + 1) & 0xFFFFFFFF
        order = lane.ORDER.pack(lane.LANE, self._number)
        try:
            self.pool.sendmsg((order,), ((_LEVEL, _RIGHTS, _FD.pack(pools_end.fileno())),), SEND)
        except OSError:
            its_end.close()
            pools_end.close()
            return  # the pool does not read, and its keeper will end it; the next one gets a lane for this worker
        self._lanes[self._number] = Lane(link, pools_end, link.parked)
        self._open[link] = self._number
        if link not in self._senders:
            self._senders.append(link)
        link.lane_opened()
        link.give_lane(its_end)

    def _shut(self, link: Link) -> None:
        """Nothing more is parked through this worker's lane; what lies there is read all the same."""
        if (number := self._open.pop(link, None)) is not None:
            self._lanes[number].shut()

    def remove(self, link: Link) -> None:
        """A worker has died.  The pool has its end of the lane, and reads what lies there."""
        self._parking.discard(link)
        self._shut(link)

    def ended(self, number: int, taken: int) -> None:
        """The pool has read a lane to its end, and so many connections have come through it."""
        if (found := self._lanes.pop(number, None)) is None:
            return  # the pool has ended, and the lanes were read here
        if self._open.get(found.link) == number:
            del self._open[found.link]  # the worker has closed it, or the pool had no descriptor for it
        found.shut()
        self._take_back(found, set())  # nothing, unless the pool could not read it
        found.key.close()
        found.link.lane_read(found.before + taken + found.back)

    def parked(self) -> int:
        """Connections that all workers have parked.  A count that is late, of a worker that is stopped, comes later."""
        for link in [link for link in self._senders if link.settled]:
            self._senders.remove(link)
            self._of_the_dead += link.parked
        return self._of_the_dead + sum(link.parked for link in self._senders)

    def spread(self, newcomer: Link) -> None:
        """A worker serves from now on: the others park for a moment what rests, so that it gets its share."""
        for link, number in self._open.items():
            if link is not newcomer:
                try:
                    self._lanes[number].key.send(SPREAD, SEND)
                except OSError:
                    pass  # a worker that reads nothing has more to do than to park

    # --- the pool

    def stand(self, line: socket.socket) -> None:
        """A pool stands, and this is the line to it: give each worker that parks a lane."""
        self.pool = line
        for link in list(self._parking):
            self.open(link)

    def fall(self) -> None:
        """The pool has ended: shut the lanes, and take back what lies there."""
        self.pool = None
        self._open.clear()
        seen: set[bytes] = set()
        for fallen in self._lanes.values():
            fallen.shut()  # all of them first: what is handed to a worker here would soon lie in its lane
        for fallen in self._lanes.values():
            self._take_back(fallen, seen)
            fallen.key.close()

    def fallen(self) -> None:
        """What the pool had sent before it ended is read, too: it says nothing more of lanes."""
        while self._lanes:
            _, last = self._lanes.popitem()
            last.link.lane_read(last.before + last.back)

    def hang_up(self) -> None:
        """No worker parks from now on; the pool still reads what lies in the lanes."""
        for link in list(self._open):
            self._shut(link)
        self._parking.clear()

    def close(self) -> None:
        """Close what is left."""
        self.hang_up()
        for left in self._lanes.values():
            left.key.close()
        self.fallen()

    def _take_back(self, fallen: Lane, seen: set[bytes]) -> None:
        while True:
            try:
                data, ancillary, flags, _ = fallen.key.recvmsg(lane.MAX_PARK, _CONTROL, _RECEIVE)
            except ConnectionResetError:
                continue  # the worker has died, too; what it had sent is still to be read
            except OSError:
                return
            fds = [fd for level, kind, rights in ancillary for (fd,) in _FD.iter_unpack(rights) if kind == _RIGHTS]
            if not data and not fds:
                return
            before = self.taken_back + self.left + self.lost
            self._redeliver(data, fds, bool(flags & socket.MSG_CTRUNC), seen)
            fallen.took_back(self.taken_back + self.left + self.lost - before)

    def _redeliver(self, data: bytes, fds: list[int], cut: bool, seen: set[bytes]) -> None:
        promised = 0
        try:
            for _, listener, _, memo in lane.records(data):
                promised += 1
                if promised <= len(fds):
                    self._redeliver_one(fds[promised - 1], wire.Handoff(listener, memo=memo), seen)
        except lane.Malformed:
            self.refused += 1  # a worker has written it; what it did not describe is closed
        for fd in fds[promised:]:
            discard(fd)
            self.refused += 1
        if cut:
            self.lost += max(promised - len(fds), 0)

    def _redeliver_one(self, fd: int, handoff: wire.Handoff, seen: set[bytes]) -> None:
        """Judge a descriptor as the pool would have, and hand the connection to a worker."""
        try:
            sock, identity = admit(fd, 1)
        except Refused:
            self.refused += 1
            return
        except Left:
            self.left += 1
            return
        if identity in seen:
            sock.close()
            self.refused += 1
            return
        seen.add(identity)
        with suppress(OSError):  # the next holder sees what is wrong with it
            restore(sock, 1)
        self.taken_back += 1
        family = sock.family
        self.redeliver(evolve(handoff, family=family, accepted_at=clock_us()), sock.detach())
