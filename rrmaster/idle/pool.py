"""Which connections rest, and what ends their rest?  The loop of the idle pool.

::

    lanes of the workers ── take ──► held, in an epoll ── the client speaks ──► the master
                                        │    └── the client leaves ──► closed
                                        └── the keep-alive time is over, or there are too many ──► closed

*Events do not decide.*  Data with FIN and FIN alone give the same event, and so do RST and data with RST, where the
data can still be read.  So the kernel is asked how many bytes wait (FIONREAD).  If any do, the connection is handed
over: a client that has closed its own direction still wants its answer.

Each event is reported once (edge-triggered), so a blank line that wakes nothing makes no loop spin.  While the master
takes nothing, because no worker has room, what has spoken waits here in its order, and the kernel's queue to the master
is bounded.
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from errno import EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS

from ..protocol.parking import lane as wire
from ..protocol.parking.admission import Left, Refused, admit, discard, let_go, restore
from .known import Lane, Rest, descriptors
from .places import places

_FIONREAD = 0x541B
_LEVEL, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_RECEIVE = int(socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_CONTROL = 4 * 256 + 64
"""Bytes for the descriptors of one message, as many as the kernel lets through, and for credentials."""

_WATCHED = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_FULL = (EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS)

ALL = 1024
"""Messages that are read of a lane at the end, when it is closed already: a lane holds a few hundred."""

BEAT_S = 1.0
"""Seconds between two beats."""

RETRY_S = 0.01
"""Seconds to wait when the master cannot be sent a descriptor for another reason than a full line."""

LONGEST_S = 86_400.0
"""Seconds that a connection rests at most, whatever a worker has written."""

SHARE = 2
"""Where all places are taken, a worker with more than 1/SHARE of them loses its own: one that sends rubbish leaves some
to the others.  While a place is free none is closed: two workers never park exactly alike."""

TAKEN, RETURNED, LEFT, EXPIRED, EVICTED, REFUSED, LOST, HELD, BEAT = range(len(wire.COUNTS))


class Pool:
    """All that rests, by descriptor, the oldest first."""

    def __init__(self, master: socket.socket, counts: memoryview, most: int) -> None:
        self.master, self.counts = master, counts
        self.most = most
        self.resting: dict[int, Rest] = {}
        self.identities: set[bytes] = set()
        self.lanes: dict[int, Lane] = {}
        self.largest: Lane | None = None
        """The lane of more than 1/SHARE of all places, if there is one; its worker may be dead."""
        self.spoken: deque[Rest] = deque()
        """What the master could not be sent yet."""
        self.ended: list[tuple[int, int]] = []
        """Lanes that have ended, of which the master has not heard: the number, and how many came through it."""
        self.buckets: dict[int, set[int]] = {}
        """What expires within each second."""
        self.epoll = select.epoll()
        self.epoll.register(master.fileno(), select.EPOLLIN)
        self.waits_for_room = False
        self.retry = False
        self.over = False
        self._waiting = bytearray(4)

    # --- the loop

    def run(self) -> None:
        """Hold connections until the master says that it is enough, or has died."""
        looked = int(time.monotonic())
        while not self.over:
            self.counts[BEAT] += 1
            for fd, what in self.epoll.poll(RETRY_S if self.retry else BEAT_S, 512):
                if (rest := self.resting.get(fd)) is not None:
                    self.heard(fd, rest, what)
                elif (lane := self.lanes.get(fd)) is not None:
                    self.read_lane(fd, lane)
                elif fd == self.master.fileno():
                    self.hear_master(what)
            if self.ended:
                self.tell_ended()
            if self.spoken and (self.retry or not self.waits_for_room):
                self.send_spoken()
            now = int(time.monotonic())
            while looked < now:
                for fd in list(self.buckets.get(looked, ())):
                    self.expire(fd)
                self.buckets.pop(looked, None)
                looked += 1

    # --- what rests

    def heard(self, fd: int, rest: Rest, what: int) -> None:
        """The kernel has an event of a connection."""
        if what == select.EPOLLIN or self.bytes_of(fd):  # nothing but bytes makes this event alone
            self.wake(fd, rest)
        elif what & _ENDED:
            self.forget(fd, rest)
            self.counts[LEFT] += 1  # before the deed, here as elsewhere: if this is killed now, it is done all the same
            let_go(rest.sock)

    def bytes_of(self, fd: int) -> int:
        """How many bytes can be read."""
        try:
            fcntl.ioctl(fd, _FIONREAD, self._waiting)
        except OSError:
            return 0
        return int.from_bytes(self._waiting, sys.byteorder)

    def wake(self, fd: int, rest: Rest) -> None:
        """Its client has spoken: send it to the master as soon as that takes it."""
        self.forget(fd, rest)
        with suppress(OSError):  # the next holder sees what is wrong with it
            restore(rest.sock, 1)
        if self.spoken or not self.send(rest):
            self.spoken.append(rest)

    def forget(self, fd: int, rest: Rest) -> None:
        """It rests no longer.  First of all it leaves the epoll: the open file lives on elsewhere."""
        self.epoll.unregister(fd)
        del self.resting[fd]
        self.identities.discard(rest.identity)
        rest.lane.held.pop(fd, None)
        if (bucket := self.buckets.get(rest.bucket)) is not None:
            bucket.discard(fd)
            if not bucket:
                del self.buckets[rest.bucket]
        self.counts[HELD] = len(self.resting) + len(self.spoken)

    def expire(self, fd: int) -> None:
        """Its time is over; if it has spoken meanwhile, be it a single byte, it is handed over all the same."""
        rest = self.resting[fd]
        if self.bytes_of(fd):
            self.wake(fd, rest)
            return
        self.forget(fd, rest)
        self.counts[EXPIRED] += 1
        let_go(rest.sock)

    def evict(self, lane: Lane) -> None:
        """Make room for what comes through this lane: close the oldest of a worker that has too many, or of all."""
        share = max(self.most // SHARE, 1)
        if len(lane.held) >= share:
            fd = next(iter(lane.held))
        elif self.largest is not None and len(self.largest.held) > share:
            fd = next(iter(self.largest.held))
        else:
            fd = next(iter(self.resting))
        rest = self.resting[fd]
        self.forget(fd, rest)
        self.counts[EVICTED] += 1
        let_go(rest.sock)

    # --- from the workers

    def read_lane(self, fd: int, lane: Lane, most: int = 1) -> None:
        """Take what a worker has sent: one message in a turn, so that no worker keeps the others waiting.

        The epoll tells again of what is left, which costs less than to be told by each lane that it is empty.
        """
        for _ in range(most):
            try:
                data, ancillary, flags, _ = lane.sock.recvmsg(wire.MAX_PARK, _CONTROL, _RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                continue  # ECONNRESET: the worker has died; what it had sent is still to be read
            fds = descriptors(ancillary)
            if not data and not fds:
                self.epoll.unregister(fd)
                del self.lanes[fd]
                lane.sock.close()  # what it has parked stays
                self.ended.append((lane.number, lane.taken))
                return
            self.take(lane, data, fds, bool(flags & socket.MSG_CTRUNC))

    def take(self, lane: Lane, data: bytes, fds: list[int], cut: bool) -> None:
        """Take the connections of one message, in the order of their descriptors."""
        promised = 0
        try:
            for until, listener, wakes, memo in wire.records(data):
                promised += 1
                if promised <= len(fds):
                    self.admit(lane, fds[promised - 1], until, listener, wakes, memo)
        except wire.Malformed:
            self.counts[REFUSED] += 1
        for fd in fds[promised:]:
            discard(fd)
            self.counts[REFUSED] += 1
        missing = promised - len(fds)
        if missing > 0:
            self.counts[LOST if cut else REFUSED] += missing
            if cut:
                self.count_taken(lane, missing)

    def admit(self, lane: Lane, fd: int, until: float, listener: int, wakes: int, memo: bytes) -> None:
        """Hold this connection, if it is one."""
        try:
            sock, identity = admit(fd, wakes)
        except Refused:
            self.counts[REFUSED] += 1
            return
        except Left:
            self.count_taken(lane)
            self.counts[LEFT] += 1
            return
        if identity in self.identities:
            sock.close()
            self.counts[REFUSED] += 1
            return
        self.count_taken(lane)
        if len(self.resting) >= self.most:
            self.evict(lane)
        now = time.monotonic()
        bucket = int(min(until, now + LONGEST_S) if until > now else now) + 1  # NaN is not greater
        self.resting[fd] = Rest(sock, identity, lane, (listener, memo, bucket))
        self.identities.add(identity)
        lane.held[fd] = None
        if len(lane.held) > self.most // SHARE:
            self.largest = lane
        self.buckets.setdefault(bucket, set()).add(fd)
        self.counts[HELD] = len(self.resting) + len(self.spoken)
        self.epoll.register(fd, _WATCHED)  # it reports at once what has come since

    def count_taken(self, lane: Lane, count: int = 1) -> None:
        lane.took(count)
        self.counts[TAKEN] += count

    # --- to the master, and from it

    def send_spoken(self) -> None:
        """Send the master what waits for it."""
        self.retry = False
        while self.spoken and self.send(self.spoken[0]):
            self.spoken.popleft()
        self.counts[HELD] = len(self.resting) + len(self.spoken)
        if not self.spoken:
            self.watch_room(False)

    def send(self, rest: Rest) -> bool:
        """Send the master one connection, and close it here.  False: not now."""
        head = wire.RETURN.pack(rest.listener, rest.sock.family) + rest.memo
        right = struct.pack("i", rest.sock.fileno())
        try:
            self.master.sendmsg((head,), ((_LEVEL, _RIGHTS, right),), _SEND)
        except OSError as error:
            if error.errno not in _FULL:
                self.over = True  # the master has died
                return False
            self.retry = error.errno != EAGAIN
            self.watch_room(error.errno == EAGAIN)
            return False
        rest.sock.close()
        self.counts[RETURNED] += 1
        return True

    def tell_ended(self) -> None:
        """Tell the master how many came through the lanes that have ended; if its line is full, with the next turn."""
        with suppress(OSError):
            while self.ended:
                self.master.send(wire.ENDED.pack(*self.ended[-1]), _SEND)
                self.ended.pop()

    def watch_room(self, needed: bool) -> None:
        """Have the kernel say when the line to the master has room, or no longer."""
        if needed != self.waits_for_room:
            self.waits_for_room = needed
            self.epoll.modify(self.master.fileno(), select.EPOLLIN | (select.EPOLLOUT if needed else 0))

    def hear_master(self, what: int) -> None:
        """The master has something to say, or takes more."""
        if what & select.EPOLLOUT:
            self.send_spoken()
        while True:
            try:
                data, ancillary, _, _ = self.master.recvmsg(64, _CONTROL, _RECEIVE)
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            if len(data) < wire.ORDER.size:
                self.over = True
                return
            kind, number = wire.ORDER.unpack_from(data)
            if kind == wire.LANE:
                self.open_lane(number, descriptors(ancillary))
            elif kind == wire.LIMIT:
                self.most = places(number)
            elif kind == wire.END:
                self.end()
                return

    def open_lane(self, number: int, fds: list[int]) -> None:
        """Read this lane from now on."""
        for fd in fds:
            self.lanes[fd] = Lane(socket.socket(fileno=fd), number)
            self.epoll.register(fd, select.EPOLLIN)
        if not fds:
            self.ended.append((number, 0))  # no descriptor was free; the master closes it

    def end(self) -> None:
        """Hand over what has spoken, close the rest, and go."""
        for fd, lane in list(self.lanes.items()):
            self.read_lane(fd, lane, ALL)
        for fd in list(self.resting):
            self.expire(fd)
        self.master.setblocking(True)
        self.master.settimeout(BEAT_S)
        while self.spoken:
            rest = self.spoken.popleft()
            head = wire.RETURN.pack(rest.listener, rest.sock.family) + rest.memo
            try:
                socket.send_fds(self.master, [head], [rest.sock.fileno()])
                self.counts[RETURNED] += 1
            except OSError:
                self.counts[EXPIRED] += 1
                let_go(rest.sock)
            rest.sock.close()
        self.counts[HELD] = 0
        self.over = True
