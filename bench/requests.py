"""HTTP requests where there is no C compiler: the same requests at the same times as requests.c, at a higher cost.

``python -m bench.requests PORT SECONDS RATE CLIENTS KEPT BLOCKING THINKING PATIENCE SEED``; requests.c explains these,
and the output.  The time, the kind of connection and the path of each request are drawn from the same random numbers in
the same order, before the first is sent.  One thread, one epoll.
"""

from __future__ import annotations

import errno
import gc
import math
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator

from attrs import Factory, define

HEAD = 2048
"""Bytes of an answer, head and body, at most."""

OPENING = 0.5
"""Seconds before the beginning, in which the first connections are opened."""

LOOK = 0.1
"""Seconds between two searches for requests that hang."""

FAR = 1e9
"""Seconds, never."""

EVENTS = 256

TURN = 64
"""Requests that are sent before answers are read again, if the generator is late."""

ANSWERED, REFUSED, RESET, CUT, HUNG, WRONG, UNSENT = "arxchwu"

_WHY = {errno.ECONNREFUSED: REFUSED, errno.ECONNRESET: RESET, errno.EPIPE: RESET}

_UNTIL_IT_STANDS = (errno.EAGAIN, errno.ENOTCONN)

_64_BITS = 2**64 - 1


class Lot:
    """The random numbers of requests.c (xorshift)."""

    def __init__(self, seed: int) -> None:
        self._state = (seed * 2654435761 + 88172645463325252) & _64_BITS

    def draw(self) -> float:
        """A number from 0 to less than 1."""
        state = self._state
        state ^= (state << 13) & _64_BITS
        state ^= state >> 7
        state ^= (state << 17) & _64_BITS
        self._state = state
        return (state >> 11) / 9007199254740992.0


@define(eq=False)
class Request:
    """A request.  Times are seconds from the beginning; one before it opens a connection and is not recorded."""

    due: float
    kept: bool
    blocking: bool = False
    fresh: bool = False
    """Send it over a new connection, even if one is idle."""
    sent: float = 0.0
    done: float = 0.0
    outcome: str = ""

    def spelled(self) -> bytes:
        path = "/block" if self.blocking else "/"
        close = "" if self.kept else "Connection: close\r\n"
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{close}\r\n".encode()

    def line(self) -> str:
        times = (self.due, self.sent - self.due, self.done - self.due)
        microseconds = " ".join(f"{seconds * 1e6:.0f}" for seconds in times)
        return f"{microseconds} {self.kept:d} {self.blocking:d} {self.outcome}"


@define(eq=False)
class Connection:
    """An open connection."""

    sock: socket.socket
    request: Request | None = None
    """The request in progress."""
    thinks: bool = False
    asked: bool = False
    heard: bytes = b""


def schedule(seconds: float, rate: float, kept: float, blocking: float, lot: Lot) -> Iterator[Request]:
    """Requests of independent clients: the times between two are exponential (a Poisson process)."""
    due = 0.0
    while due < seconds:
        over_kept = lot.draw() < kept
        yield Request(due, over_kept, lot.draw() < blocking)
        due += -math.log(1 - lot.draw()) / rate


def opening(clients: int) -> Iterator[Request]:
    """Requests that open the connections to be kept."""
    for number in range(clients):
        yield Request(OPENING * number / clients - OPENING, kept=True, fresh=True)


def whole(heard: bytes) -> tuple[str, bool]:
    """The outcome of an answer so far ("": it is not whole), and whether its connection can be kept."""
    head, end, body = heard.partition(b"\r\n\r\n")
    full = "" if len(heard) < HEAD else WRONG
    if not end:
        return full, False
    fields = head.lower()
    _, named, value = fields.partition(b"\r\ncontent-length:")
    length = value.partition(b"\r\n")[0].strip()
    if not head.startswith(b"HTTP/1.1 200") or not named or not length.isdigit():
        return WRONG, False
    if len(body) < int(length):
        return full, False
    return ANSWERED, b"\r\nconnection: close" not in fields


@define(eq=False)
class Sender:
    """Sends requests, and records their outcomes."""

    port: int
    thinking: float
    patience: float
    beginning: float
    told: list[Request] = Factory(list)
    """All requests that were begun, in order."""
    open: dict[int, Connection] = Factory(dict)
    in_progress: int = 0
    _idle: deque[Connection] = Factory(deque)
    """Kept connections, the longest idle first, with those that have been closed since."""
    _thinkers: deque[tuple[float, Connection, Request]] = Factory(deque)
    _epoll: select.epoll = Factory(select.epoll)

    def now(self) -> float:
        return time.monotonic() - self.beginning

    # --- sending

    def begin(self, request: Request) -> None:
        """Send a request, or open its connection and wait for the time to think."""
        self.told.append(request)
        connection = self._longest_idle() if request.kept and not request.fresh else None
        thinks = connection is None and self.thinking > 0
        error = errno.EMFILE
        if connection is None:
            connection, error = self._connect()
        request.sent = self.now()
        if connection is None:
            request.outcome, request.done = REFUSED if error == errno.ECONNREFUSED else UNSENT, request.sent
            return
        self.in_progress += 1
        connection.request, connection.thinks, connection.asked, connection.heard = request, thinks, False, b""
        if thinks:
            self._thinkers.append((request.sent + self.thinking, connection, request))
        else:
            self._ask(connection)

    def _longest_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.sock.fileno() >= 0:
                return connection
        return None

    def _connect(self) -> tuple[Connection | None, int]:
        try:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            return None, error.errno or 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error_number = sock.connect_ex(("127.0.0.1", self.port))
        if error_number not in (0, errno.EINPROGRESS):
            sock.close()
            return None, error_number
        connection = self.open[sock.fileno()] = Connection(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        return connection, 0

    def _ask(self, connection: Connection) -> None:
        """Send at once if the connection stands, as it mostly does over loopback; else when it does."""
        assert connection.request is not None
        question = connection.request.spelled()
        try:
            sent = connection.sock.send(question)
        except OSError as error:
            if error.errno in _UNTIL_IT_STANDS:
                self._epoll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLOUT)
            else:
                self._finish(connection, _WHY.get(error.errno or 0, UNSENT), False)
            return
        if sent != len(question):
            self._finish(connection, UNSENT, False)
        connection.asked = True

    def ask_after_thought(self) -> float:
        """Send the requests whose time to think is over; returns the time of the next one."""
        while self._thinkers:
            until, connection, request = self._thinkers[0]
            if until > self.now():
                return until
            self._thinkers.popleft()
            if connection.request is request:
                connection.thinks = False
                self._ask(connection)
        return FAR

    # --- hearing

    def listen_until(self, time: float) -> None:
        """Wait for the first event, to the microsecond (the wait of an epoll counts milliseconds)."""
        if not select.select([self._epoll], [], [], max(time - self.now(), 0.0))[0]:
            return
        for fd, events in self._epoll.poll(0, EVENTS):
            connection = self.open.get(fd)
            if connection is None:
                continue  # closed since
            if events & select.EPOLLOUT:  # its request waited for the connection
                self._epoll.modify(fd, select.EPOLLIN | select.EPOLLRDHUP)
                self._ask(connection)
            elif events:
                self._hear(connection)

    def _hear(self, connection: Connection) -> None:
        try:
            more = connection.sock.recv(HEAD - len(connection.heard))
        except BlockingIOError:
            return
        except OSError as error:
            more, why = b"", _WHY.get(error.errno or 0, UNSENT)
        else:
            why = CUT
        request = connection.request
        if request is None:  # idle: any event is its end
            self._leave(connection)
        elif not more:
            self._finish(connection, why, False)
        else:
            connection.heard += more
            outcome, keep = whole(connection.heard)
            if outcome:
                self._finish(connection, outcome, keep and request.kept)

    def look_for_the_hung(self) -> None:
        now = self.now()
        for connection in list(self.open.values()):
            if connection.request is not None and now - connection.request.due > self.patience:
                self._finish(connection, HUNG, False)

    def _finish(self, connection: Connection, outcome: str, keep: bool) -> None:
        assert connection.request is not None
        connection.request.outcome, connection.request.done = outcome, self.now()
        connection.request = None
        self.in_progress -= 1
        if outcome == ANSWERED and keep:
            self._idle.append(connection)
        else:
            self._leave(connection)

    def _leave(self, connection: Connection) -> None:
        del self.open[connection.sock.fileno()]
        connection.sock.close()


def open_loop(sender: Sender, requests: list[Request]) -> None:
    """Send each request when it is due, whatever the outcome of those before."""
    looked, number = 0.0, 0
    while number < len(requests) or sender.in_progress:
        for _ in range(TURN):
            if number == len(requests) or requests[number].due > sender.now():
                break
            sender.begin(requests[number])
            number += 1
        due = requests[number].due if number < len(requests) else FAR
        sender.listen_until(min(sender.ask_after_thought(), due, looked + LOOK))
        if sender.now() - looked > LOOK:
            sender.look_for_the_hung()
            looked = sender.now()


def as_fast_as_can_be(sender: Sender, seconds: float, clients: int, kept: float, blocking: float, lot: Lot) -> None:
    """Send requests as fast as they are answered, `clients` at a time."""
    looked = 0.0
    while (now := sender.now()) < seconds or sender.in_progress:
        while now < seconds and sender.in_progress < clients:
            request = Request(0.0, kept > 0, lot.draw() < blocking)
            sender.begin(request)
            request.due = request.sent
            if request.outcome:
                break  # it could not begin: do not try faster
        sender.listen_until(min(sender.ask_after_thought(), looked + LOOK))
        if sender.now() - looked > LOOK:
            sender.look_for_the_hung()
            looked = sender.now()


def main(argv: list[str]) -> None:
    port, clients, seed = int(argv[0]), int(argv[3]), int(argv[8])
    seconds, rate, kept, blocking, thinking, patience = (float(argv[place]) for place in (1, 2, 4, 5, 6, 7))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lot = Lot(seed)
    requests = [*opening(clients), *schedule(seconds, rate, kept, blocking, lot)] if rate > 0 else []
    gc.disable()  # a collection's pause would be measured as the server's
    sender = Sender(port, thinking, patience, time.monotonic() + (OPENING if rate > 0 and clients else 0.0))
    if rate > 0:
        open_loop(sender, requests)
    else:
        as_fast_as_can_be(sender, seconds, clients, kept, blocking, lot)
    print("\n".join(request.line() for request in sender.told if request.due >= 0))


if __name__ == "__main__":
    main(sys.argv[1:])
