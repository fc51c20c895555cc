"""Which connections does a program take, and for which of its addresses?

::

    the program          Port                      Ports                      the master
    accept() ─ wants ──► queue ◄── deliver ── take ◄── letterbox ◄── Handoff (listener)
    open ──────────────────────────── request ──────► Listen ──► ... ──► Listening
    close ─────────────────────────── close ────────► Attend (listener, no more)

A connection is taken only when an `accept` waits for it: an unwanted connection stays in the kernel, where the master
can take it back and give it to another worker.  A letterbox is a queue, so it has a head, and the connection there may
be for a listener that no `accept` waits on:

- If no `accept` waits on any other listener, the connection is left there.  When it has been there for
  `--recall-after`, reports say that this worker takes no more.
- If one does, the connection is put into its own listener's queue.  When that queue is full, the master is told that
  this worker does not attend to that listener, until its queue is empty again.
- If its listener was closed here, the connection is left for `LEAVE_S`, in which the master takes it back for workers
  that still serve that listener.

This module knows no async library: a *host* (see `hosts`) calls `take` and `deliver` in its loop, and `wake_host` tells
it that there may be something to take.  All other methods may be called from any thread.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import Factory, define, evolve, field

from ...protocol import wire
from ..duty import BATCH, Duty, Taken
from .letterbox import EdgeTriggeredLetterbox
from .port import AddressRequest, Port

LEAVE_S = 0.5
"""Seconds for which the connections of a listener closed here are left to the master.  The master may read that it is
closed a quarter of a second later, if nothing else happens."""

MORE_S = 0.01
"""Seconds after an answer in which a program may ask for its next address before it counts as ready: so it is ready
with all of them.  (The master is told of later ones as well, a quarter of a second later if nothing else happens.)"""


@define(eq=False)
class Ports(Duty):
    """The duty of a worker whose program opens its own addresses."""

    recall_after: float = field(kw_only=True)
    """Seconds for which a connection may wait unwanted before this worker asks for no more: `--recall-after`, the time
    after which the master calls a worker late."""
    wake_host: Callable[[], None] = lambda: None
    """Set by the host: there may be something to take.  Called from any thread."""
    on_end: Callable[[], None] = lambda: None
    """Called when the master sends no more and the last connection is closed.  From any thread."""
    clock: Callable[[], float] = time.monotonic
    open_ports: dict[int, Port] = Factory(dict)
    """The listeners of this program, by number."""
    hung_up: bool = False
    """The master sends no more."""
    reported_ready: bool = False
    lock: Any = Factory(threading.RLock)
    _wants_ready: bool = False
    """The program has an address, or has called ``set_ready(True)``: Ready follows."""
    _ready_from: float = 0.0
    _held_back: bool = False
    """The program has called ``set_ready(False)`` before it was ready, so a listener does not make it ready."""
    _pending: dict[int, AddressRequest] = Factory(dict)
    """Requests without an answer, by seq."""
    _seq: int = 0
    _free_ports: dict[str, int] = Factory(dict)
    """How many free ports (port 0) were requested, by host."""
    _left: dict[int, float] = Factory(dict)
    """Listeners closed here, and until when their connections are left to the master."""
    _held: deque[Taken] = Factory(deque)
    """Connections of such listeners that had to be taken, for they stood before a wanted one.  The program may open the
    listener again."""
    _detached: dict[int, tuple[int, Taken]] = Factory(dict)
    """Connections whose descriptor another object owns: each is open for as long as this descriptor is this inode."""
    _unsent: deque[wire.Up] = Factory(deque)
    _unwanted_since: float | None = None

    # --- addresses

    def request(self, wish: wire.Listen, on_answer: Callable[[], None]) -> AddressRequest:
        """Ask the master for an address; `seq` and `index` of the wish are set here.  Raises OSError for too many."""
        with self.lock:
            if len(self.open_ports) + len(self._pending) >= wire.MAX_LISTENERS:
                raise OSError(errno.EMFILE, f"a worker may open {wire.MAX_LISTENERS} addresses")
            if len(wish.path) > wire.MAX_PATH:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), wish.path)
            index = 0
            if not wish.path and wish.port == 0:
                index = self._free_ports.get(wish.host, 0)
                self._free_ports[wish.host] = index + 1
            self._seq = (self._seq + 1) % 65536
            request = AddressRequest(evolve(wish, seq=self._seq, index=index), on_answer)
            if self.hung_up:
                self._settle(request, wire.Listening(self._seq, errno.ESHUTDOWN))
            else:
                self._pending[self._seq] = request
                self._send(request.wish)
        self.wake_host()
        return request

    def abandon(self, request: AddressRequest) -> None:
        """Give up a request: its caller was cancelled.  If the master grants it, the port is closed at once."""
        with self.lock:
            request.abandon()
            if request.port is not None:
                self.close(request.port)

    def handle(self, message: wire.Nudge | wire.Listening) -> None:
        request = self._pending.pop(message.seq, None) if isinstance(message, wire.Listening) else None
        if request is not None and isinstance(message, wire.Listening):
            self._settle(request, message)

    def _settle(self, request: AddressRequest, answer: wire.Listening) -> None:
        number = answer.listener
        if answer.errno == 0 and number in self.open_ports:
            # Requested again while this worker did not attend to it, which the master takes for a listener closed.
            answer = wire.Listening(answer.seq, errno.EADDRINUSE)
            self._send(wire.Attend(number, self.open_ports[number].attended))
        request.settle(answer)
        if answer.errno == 0:
            port = self.open_ports[number] = request.make_port(answer)
            self._left.pop(number, None)
            self._deliver_held()
            if request.abandoned:
                self.close(port)
            elif not self._held_back:
                self._wants_ready = True
                self._ready_from = self.clock() + MORE_S
                self.report_soon()
        request.on_answer()

    def close(self, port: Port) -> None:
        """Take no more connections of it.  Those in its queue are closed, as the kernel does with a backlog."""
        with self.lock:
            if self.open_ports.get(port.number) is not port:
                return
            del self.open_ports[port.number]
            self._left[port.number] = self.clock() + LEAVE_S
            if port.attended:
                self._send(wire.Attend(port.number, False))
            while port.queue:
                self._drop(port.queue.popleft())
        self.wake_host()

    def _deliver_held(self) -> None:
        """Give held connections to the listener that is open again; close those whose time is over."""
        held, self._held = self._held, deque()
        for taken in held:
            self.deliver(taken)

    def _drop(self, taken: Taken) -> None:
        self.finished(taken)
        os.close(taken.fd)

    # --- which connections are wanted

    def on_accept(self) -> None:
        """Note an `accept` call: connections are wanted again."""
        with self.lock:
            neglected, self._unwanted_since = not self.taking, None
            if neglected:
                self.report_soon()

    @property
    def taking(self) -> bool:
        since = self._unwanted_since
        neglected = since is not None and self.clock() - since > self.recall_after
        return self.accepting and self.has_descriptors and not neglected

    def wants_next(self) -> bool:
        if self._wants_everything() or self._wants(self.letterbox.oldest()):
            return True
        assert isinstance(self.letterbox, EdgeTriggeredLetterbox)
        # Look once more: for what came between the look and the clearing of the edge there is no other event.
        self.letterbox.clear_edge()
        return self._wants(self.letterbox.oldest())

    def _wants_everything(self) -> bool:
        """Whether any message is wanted.  Mostly so, and it spares a look into the letterbox (a system call)."""
        if self._left:
            return False
        return bool(self._pending) or all(port.wants() for port in self.open_ports.values())

    def _wants(self, message: wire.Down | None) -> bool:
        if not isinstance(message, wire.Handoff):
            return True
        port = self._port_of(message)
        if port is None:
            return message.probe or bool(self._pending) or not self._is_left(message.listener)
        if port.wants() or self._pending:
            return True
        if any(other.wants() for other in self.open_ports.values()):
            return self._makes_way(port)
        port.on_waiting()
        if self._unwanted_since is None:
            self._unwanted_since = self.clock()
        return False

    def _is_left(self, number: int) -> bool:
        """Whether the connections of this listener, closed here, are still left to the master."""
        return self.clock() < self._left.get(number, 0.0)

    def _makes_way(self, port: Port) -> bool:
        """Whether to take an unwanted connection of this port, because a wanted one waits behind it."""
        if len(port.queue) < BATCH:
            return True
        if port.attended:
            port.leave_until(self.clock() + LEAVE_S)
            self._send(wire.Attend(port.number, False))
        return self.clock() >= port.left_until

    def _port_of(self, message: wire.Handoff | Taken) -> Port | None:
        if message.probe:  # a probe is for the worker, whatever it serves
            return next(iter(self.open_ports.values()), None)
        return self.open_ports.get(message.listener)

    def is_next(self, port: Port) -> bool:
        """Whether the next message in the letterbox is a connection of this port."""
        message = self.letterbox.oldest()
        return isinstance(message, wire.Handoff) and self._port_of(message) is port

    def deliver(self, taken: Taken) -> None:
        """Put a connection into its port's queue, which owns it from now on; without a port, hold or close it."""
        with self.lock:
            self._unwanted_since = None
            port = self._port_of(taken)
            if port is not None:
                port.queue.append(taken)
            elif not taken.probe and self._is_left(taken.listener):
                self._held.append(taken)
            else:
                self._drop(taken)
        if port is not None:
            port.on_arrival()

    def pop(self, port: Port) -> Taken | None:
        """The next connection in its queue, the caller's from now on; None if there is none."""
        with self.lock:
            if not port.queue:
                return None
            taken = port.queue.popleft()
            if not port.attended and not port.queue and self.open_ports.get(port.number) is port:
                port.attend()
                self._send(wire.Attend(port.number, True))
        return taken

    # --- as in Duty, and from several threads

    def take(self) -> Taken | None:
        with self.lock:
            return super().take()

    def finished(self, taken: Taken) -> None:
        with self.lock:
            super().finished(taken)
            over = self.hung_up and self.open <= 0
        if over:
            self.on_end()

    def watch_detached(self, fd: int, taken: Taken) -> None:
        """Count a connection as open although another object, such as an SSLSocket, owns its descriptor.

        That object does not tell when it closes it, so each beat looks: the descriptor is gone, or is another inode.
        """
        with self.lock:
            self._detached[fd] = (os.fstat(fd).st_ino, taken)

    def _check_detached(self) -> None:
        for fd, (inode, taken) in list(self._detached.items()):
            try:
                over = os.fstat(fd).st_ino != inode
            except OSError:
                over = True
            if over:
                del self._detached[fd]
                self.finished(taken)

    def hang_up(self) -> None:
        """Note that the master sends no more: the host has read the line to its end."""
        with self.lock:
            self.hung_up = True
            self._left.clear()
            self._deliver_held()
            requests, self._pending = self._pending, {}
            for request in requests.values():
                self._settle(request, wire.Listening(request.wish.seq, errno.ESHUTDOWN))
            over = self.open <= 0
        if over:
            self.on_end()

    def beat(self) -> None:
        with self.lock:
            now = self.clock()
            self._left = {number: until for number, until in self._left.items() if until > now}
            self._deliver_held()
            self._check_detached()
            super().beat()
        self.wake_host()

    def set_host(self, wake: Callable[[], None], wake_host: Callable[[], None]) -> None:
        """A host serves the ports from now on: how it is woken for a report, and for anything else."""
        self.wake, self.wake_host = wake, wake_host

    def set_on_end(self, on_end: Callable[[], None]) -> None:
        self.on_end = on_end

    def set_ready(self, ready: bool) -> None:
        """Carry out `CurrentWorker.set_ready`; the first True makes the worker ready."""
        with self.lock:
            self.accepting = ready
            self._wants_ready = self._wants_ready or ready
            self._held_back = not ready and not self.reported_ready
        self.report_soon()

    def report(self) -> bool:
        with self.lock:
            while self._unsent and self.letterbox.send(self._unsent[0]):
                self._unsent.popleft()
            unready = self._wants_ready and not self.reported_ready and not self._held_back
            if unready and self._is_settled():
                unready = not self.letterbox.send(self._readiness())
                self.reported_ready = not unready
            sent = super().report() and not self._unsent and not unready
            self.report_due = not sent
            return sent

    def _is_settled(self) -> bool:
        """Whether no more listeners are expected just now: a worker is ready with all of them."""
        return not self._pending and not self._unsent and self.clock() >= self._ready_from

    def _readiness(self) -> wire.Ready:
        served = tuple(number for number, port in self.open_ports.items() if port.attended)
        return wire.Ready(os.getpid(), listeners=served)

    def _send(self, message: wire.Up) -> None:
        """Send a message, or keep it for the next report if the line is full.  The order is kept."""
        if self._unsent or not self.letterbox.send(message):
            self._unsent.append(message)
            self.report_soon()
