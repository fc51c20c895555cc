"""Which addresses has this program asked for, and who wants their connections?

::

    the program          Port                      Ports                      the master
    accept() ─ wants ──► queue ◄── deliver ── take ◄── letterbox ◄── Handoff (listener)
    open ──────────────────────────── ask ──────────► Listen ──► ... ──► Listening
    close ─────────────────────────── close ────────► Attend (listener, no more)

A connection is taken only when somebody wants it: what nobody asks for stays in the kernel, where the master can take
it back and give it to a worker that does.  A letterbox is a queue, so it has a head, and what lies there may be for a
listener that nobody asks for now:

- if nobody asks for any other, it is left there; if it lies there for `NEGLECT`, reports say that no more are wanted;
- if somebody does, it is put into its own listener's queue; and when that is full, the master is told that this worker
  does not attend to that listener, until its queue is empty again;
- for a listener closed here it is left for `GRACE`, in which the master takes it back for those who still serve it.

This module knows no async library: a *host* (`ports_on_trio`, `ports_on_asyncio`, `ports_on_threads`) calls `take` and
`deliver` in its loop, and is kicked when there may be something to take.  Everything else may be called from any
thread.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import Factory, define, evolve

from ...protocol import wire
from ...protocol.channel import Letterbox
from .. import BATCH, Duty, Taken

NEGLECT = 0.003
"""Seconds for which a connection may lie unwanted before this worker asks for no more; the master's own for late."""

GRACE = 0.5
"""Seconds for which the connections of a listener closed here are left to the master.  It may read that it is closed a
quarter of a second later, if nothing else happens."""


SETTLED = 0.01
"""Seconds after an answer in which a program may ask for its next address, before it counts as ready: so it is ready
with all of them.  (It is told of later ones as well, a quarter of a second later if nothing else happens.)"""


@define(eq=False)
class Watched(Letterbox):
    """A letterbox whose descriptor is readable once for what has come, not for as long as it lies there unwanted."""

    _epoll: select.epoll

    @classmethod
    def over(cls, letterbox: Letterbox) -> Watched:
        """It owns the line from now on."""
        epoll = select.epoll()
        epoll.register(letterbox.line.fileno(), select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        return cls(letterbox.line, epoll)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        self._epoll.close()
        super().close()

    def seen(self) -> None:
        """What lies there now is not to be told again."""
        self._epoll.poll(0)


@define(eq=False)
class Port:
    """A listener of this program."""

    number: int
    family: int
    address: Any
    """As `getsockname` of a listening socket says it."""
    arrived: Callable[[], None] = lambda: None
    """Called, in whatever thread, when there is something in the queue."""
    lies_there: Callable[[], None] = lambda: None
    """Called when a connection of it lies in the letterbox, and is taken only when somebody asks."""
    wanted: int = 0
    """How many ask for a connection."""
    queue: deque[Taken] = Factory(deque)
    attended: bool = True
    """What the master has been told."""
    left_until: float = 0.0
    """When it is not attended to: until then its connections are left to the master."""

    def wants(self) -> bool:
        """Whether one more is to be taken for it."""
        return self.wanted > 0 and len(self.queue) < BATCH


@define(eq=False)
class ListeningSocket:
    """What programs ask of a server's listening socket, of one that stands in the master."""

    _port: Port
    type: int = int(socket.SOCK_STREAM)
    proto: int = 0

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._port.family)

    def getsockname(self) -> Any:
        """The address; of port 0, with the port that was found."""
        return self._port.address


@define(eq=False)
class Request:
    """An address has been asked for."""

    wish: wire.Listen
    settled: Callable[[], None]
    """Called, in whatever thread, when there is an answer."""
    abandoned: bool = False
    answer: wire.Listening | None = None
    port: Port | None = None

    def result(self) -> Port:
        """The port.  Raises OSError as the master met it."""
        if self.port is not None:
            return self.port
        assert self.answer is not None
        number, wish = self.answer.errno, self.wish
        host = f"[{wish.host}]" if ":" in wish.host else wish.host
        raise OSError(number, f"{os.strerror(number)}: the master cannot open {wish.path or f'{host}:{wish.port}'}")


@define(eq=False)
class Ports(Duty):
    """What a worker owes its master whose program opens its own addresses."""

    kick: Callable[[], None] = lambda: None
    """The host's: there may be something to take.  From any thread."""
    ended: Callable[[], None] = lambda: None
    """Called when there will be no more, and the last connection is closed."""
    clock: Callable[[], float] = time.monotonic
    open_ports: dict[int, Port] = Factory(dict)
    hung_up: bool = False
    """The master sends no more."""
    said_ready: bool = False
    lock: Any = Factory(threading.RLock)
    _to_be_ready: bool = False
    _ready_from: float = 0.0
    _held_back: bool = False
    """The program has said that it is not ready, so a listener does not make it so."""
    _pending: dict[int, Request] = Factory(dict)
    _seq: int = 0
    _indices: dict[str, int] = Factory(dict)
    """How many free ports were asked for, by host."""
    _left: dict[int, float] = Factory(dict)
    """Listeners closed here, and until when their connections are left to the master."""
    _stranded: deque[Taken] = Factory(deque)
    """Of those, what stood before something that was wanted; for who opens again."""
    _followed: dict[int, tuple[int, Taken]] = Factory(dict)
    """Connections that are open for as long as this descriptor is this inode."""
    _unsaid: deque[wire.Up] = Factory(deque)
    _unwanted_since: float | None = None

    # --- addresses

    def ask(self, wish: wire.Listen, settled: Callable[[], None]) -> Request:
        """Ask for an address; its seq and its index are set here.  Raises OSError if there are too many."""
        with self.lock:
            if len(self.open_ports) + len(self._pending) >= wire.MAX_LISTENERS:
                raise OSError(errno.EMFILE, f"a worker may open {wire.MAX_LISTENERS} addresses")
            if len(wish.path) > wire.MAX_PATH:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), wish.path)
            index = 0
            if not wish.path and wish.port == 0:
                index = self._indices.get(wish.host, 0)
                self._indices[wish.host] = index + 1
            self._seq = (self._seq + 1) % 65536
            request = Request(evolve(wish, seq=self._seq, index=index), settled)
            if self.hung_up:
                self._settle(request, wire.Listening(self._seq, errno.ESHUTDOWN))
            else:
                self._pending[self._seq] = request
                self._say(request.wish)
        self.kick()
        return request

    def abandon(self, request: Request) -> None:
        """Nobody waits for it any more."""
        with self.lock:
            request.abandoned = True
            if request.port is not None:
                self.close(request.port)

    def hear(self, message: wire.Nudge | wire.Listening) -> None:
        request = self._pending.pop(message.seq, None) if isinstance(message, wire.Listening) else None
        if request is not None and isinstance(message, wire.Listening):
            self._settle(request, message)

    def _settle(self, request: Request, answer: wire.Listening) -> None:
        number = answer.listener
        if answer.errno == 0 and number in self.open_ports:
            # Asked for again while we did not attend to it, so the master took us for one who had closed it.
            answer = wire.Listening(answer.seq, errno.EADDRINUSE)
            self._say(wire.Attend(number, self.open_ports[number].attended))
        request.answer = answer
        if answer.errno == 0:
            request.port = Port(number, *_address(request.wish, answer.port))
            self.open_ports[number] = request.port
            self._left.pop(number, None)
            self._sort_the_stranded()
            if request.abandoned:
                self.close(request.port)
            elif not self._held_back:
                self._to_be_ready = True
                self._ready_from = self.clock() + SETTLED
                self.news()
        request.settled()

    def close(self, port: Port) -> None:
        """Take no more connections of it.  Those in its queue are closed, as the kernel does with a backlog."""
        with self.lock:
            if self.open_ports.get(port.number) is not port:
                return
            del self.open_ports[port.number]
            self._left[port.number] = self.clock() + GRACE
            if port.attended:
                self._say(wire.Attend(port.number, False))
            while port.queue:
                self._drop(port.queue.popleft())
        self.kick()

    def _sort_the_stranded(self) -> None:
        """Those of a listener that is open again are its; those that nobody has come for are closed."""
        stranded, self._stranded = self._stranded, deque()
        for taken in stranded:
            self.deliver(taken)

    def _drop(self, taken: Taken) -> None:
        os.close(taken.fd)
        self.finished(taken)

    # --- who wants what

    def asked(self) -> None:
        """Somebody asks for a connection."""
        with self.lock:
            neglected, self._unwanted_since = not self.taking, None
            if neglected:
                self.news()

    @property
    def taking(self) -> bool:
        since = self._unwanted_since
        neglected = since is not None and self.clock() - since > NEGLECT
        return self.willing and self.able and not neglected

    def wants_next(self) -> bool:
        if self._wants_everything() or self._wants(self.letterbox.oldest()):
            return True
        assert isinstance(self.letterbox, Watched)
        # And looked at once more: of what has come in between nobody would tell us again.
        self.letterbox.seen()
        return self._wants(self.letterbox.oldest())

    def _wants_everything(self) -> bool:
        """Mostly so, and then nobody has to look at what lies there."""
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
        port.lies_there()
        if self._unwanted_since is None:
            self._unwanted_since = self.clock()
        return False

    def _is_left(self, number: int) -> bool:
        """Whether the connections of this listener, closed here, are still left to the master."""
        return self.clock() < self._left.get(number, 0.0)

    def _makes_way(self, port: Port) -> bool:
        """Somebody waits for what lies behind a connection of this port."""
        if len(port.queue) < BATCH:
            return True
        if port.attended:
            port.attended = False
            port.left_until = self.clock() + GRACE
            self._say(wire.Attend(port.number, False))
        return self.clock() >= port.left_until

    def _port_of(self, message: wire.Handoff | Taken) -> Port | None:
        if message.probe:  # it is for the worker, whatever it serves
            return next(iter(self.open_ports.values()), None)
        return self.open_ports.get(message.listener)

    def is_next(self, port: Port) -> bool:
        """Whether the next in the letterbox is a connection of this port."""
        message = self.letterbox.oldest()
        return isinstance(message, wire.Handoff) and self._port_of(message) is port

    def deliver(self, taken: Taken) -> None:
        """Put a connection where it belongs."""
        with self.lock:
            self._unwanted_since = None
            port = self._port_of(taken)
            if port is not None:
                port.queue.append(taken)
            elif not taken.probe and self._is_left(taken.listener):
                self._stranded.append(taken)
            else:
                self._drop(taken)
        if port is not None:
            port.arrived()

    def pick(self, port: Port) -> Taken | None:
        """The next connection in its queue, if there is one; it is the caller's."""
        with self.lock:
            if not port.queue:
                return None
            taken = port.queue.popleft()
            if not port.attended and not port.queue and self.open_ports.get(port.number) is port:
                port.attended = True
                self._say(wire.Attend(port.number, True))
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
            self.ended()

    def follow(self, fd: int, taken: Taken) -> None:
        """Somebody else has the descriptor now, such as an SSLSocket: see with each beat whether it is still open."""
        with self.lock:
            self._followed[fd] = (os.fstat(fd).st_ino, taken)

    def _look_after_the_followed(self) -> None:
        for fd, (inode, taken) in list(self._followed.items()):
            try:
                over = os.fstat(fd).st_ino != inode
            except OSError:
                over = True
            if over:
                del self._followed[fd]
                self.finished(taken)

    def hang_up(self) -> None:
        """There will be no more: the host has read it to the end."""
        with self.lock:
            self.hung_up = True
            self._left.clear()
            self._sort_the_stranded()
            requests, self._pending = self._pending, {}
            for request in requests.values():
                self._settle(request, wire.Listening(request.wish.seq, errno.ESHUTDOWN))
            over = self.open <= 0
        if over:
            self.ended()

    def beat(self) -> None:
        with self.lock:
            now = self.clock()
            self._left = {number: until for number, until in self._left.items() if until > now}
            self._sort_the_stranded()
            self._look_after_the_followed()
            super().beat()
        self.kick()

    # --- what is said

    def set_ready(self, ready: bool) -> None:
        """The program says whether it wants connections; the first yes makes it ready."""
        with self.lock:
            self.willing = ready
            self._to_be_ready = self._to_be_ready or ready
            self._held_back = not ready and not self.said_ready
        self.news()

    def report(self) -> None:
        with self.lock:
            while self._unsaid and self.letterbox.send(self._unsaid[0]):
                self._unsaid.popleft()
            unready = self._to_be_ready and not self.said_ready and not self._held_back
            if unready and self._is_settled():
                unready = not self.letterbox.send(self._readiness())
                self.said_ready = not unready
            super().report()
            if self._unsaid or unready:
                self.has_news = True

    def _is_settled(self) -> bool:
        """Whether no more listeners are to be expected just now: a worker is ready with all of them."""
        return not self._pending and not self._unsaid and self.clock() >= self._ready_from

    def _readiness(self) -> wire.Ready:
        served = tuple(number for number, port in self.open_ports.items() if port.attended)
        return wire.Ready(os.getpid(), listeners=served)

    def _say(self, message: wire.Up) -> None:
        """Say it, or say it with the next report if the line is full."""
        if self._unsaid or not self.letterbox.send(message):
            self._unsaid.append(message)
            self.news()


def literal(family: int, address: Any) -> tuple[str, int]:
    """Host and port of a resolved address, as the master is asked for it."""
    host, port, *more = address
    zone = f"%{more[1]}" if family == socket.AF_INET6 and more[1] and "%" not in host else ""
    return host + zone, port


def _address(wish: wire.Listen, port: int) -> tuple[int, Any]:
    if wish.path:
        return int(socket.AF_UNIX), wish.path
    if ":" in wish.host:
        host, _, zone = wish.host.partition("%")
        return int(socket.AF_INET6), (host, port, 0, int(zone) if zone.isdigit() else 0)
    return int(socket.AF_INET), (wish.host, port)
