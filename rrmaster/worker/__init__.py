"""The worker's side of the line: its counters and its voice, whatever async library serves.

A line of this package runs in a worker's process, never in the master's.  It imports `wire` and `channel` and no async
library: a worker that serves on asyncio loads no trio.

`Duty` is what a runtime (see `on_trio`) keeps with the master: take connections, count them, report.  `Worker` is what
the application sees of it, through `current_worker`.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Protocol

from attrs import Factory, define, frozen

from ..protocol import wire
from ..protocol.channel import DescriptorLost, HungUp, Letterbox, TalkLine
from ..protocol.wire import REPORT_AFTER
from .messages import MasterGone, Means, Speech

if TYPE_CHECKING:
    from ..protocol.proxy_header import Header

DUMP_SIGNAL = signal.SIGRTMIN + 3
"""Asks for the stacks; as in `process`, which a worker does not import."""

BUSY_AFTER = 0.02
"""Seconds after which a change of the requests in progress is told.  Only the slow ones matter to who chooses, and on
a busy worker it changes with every request."""

RESERVE = 16
"""Descriptors kept free for the application: a worker that takes connections up to its limit can open no file."""

BATCH = 8
"""Connections taken at once, at most, while each is begun quickly."""

QUICK = 0.001
"""Seconds a connection may take to begin for the batch to grow: what is taken dies with us, or waits behind us."""

SHORT_PAUSE = 0.05
"""Seconds between looks at a full descriptor table."""

_PAGE = resource.getpagesize()


class Draining(Protocol):
    """Set once no more connections will come; what is open should end soon."""

    def is_set(self) -> bool:
        """Whether it has begun."""

    async def wait(self) -> object:
        """Wait until it begins."""


@frozen
class Facts:
    """What a worker is told about itself."""

    id: int
    """Counts up from 1 over the master's life, never reused."""
    slot: int
    """0 to N-1; a replacement has the slot of the one it replaces."""
    generation: int
    """1, and one more with each reload."""


@define(eq=False)
class CurrentWorker:
    """This worker, as its application sees it."""

    id: int
    """Counts up from 1 over the master's life, and is never used again."""
    slot: int
    """0 to N-1; a replacement has the slot of the one it replaces."""
    generation: int
    """1, and one more with each reload."""
    draining: Draining
    """Set once no more connections will come and those that are open should end soon: ``await me.draining.wait()``,
    ``me.draining.is_set()``."""
    _duty: Duty
    _speech: Speech | None

    async def send(self, value: Any) -> None:
        """Send a message to the program that runs the master, which is told of it by an event (`WorkerMessage`).

        `value` is a JSON value of up to 60 KiB; a key that is no text becomes one, and a tuple a list.  Waits while the
        line is full.  Messages of one task arrive in their order, and in a drain too.

        Raises NoteRefused (a ValueError) for what cannot be sent, MasterGone.  Cancelled, it has sent nothing.
        The idea is Node's ``process.send``.
        """
        await self._talk.send(value)

    def messages(self) -> AsyncGenerator[Any]:
        """``async for message in me.messages()``: what the master's program sends to this worker, in order.

        Each message is given once; one iteration at a time (RuntimeError).  What came before stays in the kernel until
        it is asked for; when some hundred wait there, whoever sends waits.  Ends when the master does.
        """
        return self._talk.messages()

    async def disconnect(self) -> None:
        """Leave: no more connections come, those that are open are finished, then this worker ends, and is replaced.

        Returns when the drain has begun, so that it can be called while serving a connection.  `retire` is kinder: the
        replacement serves first.  Before this worker serves it is a failed start, with back-off and all, for who takes
        its place would leave as well.
        """
        self._duty.retire("it has disconnected", now=True)
        await self.draining.wait()

    @property
    def _talk(self) -> Speech:
        if self._speech is None:
            raise MasterGone("this worker was started without a talk line")
        return self._speech

    def set_ready(self, ready: bool) -> None:
        """Take no connections for the time being (False), or again (True).  Those open are not touched.

        A few that are under way may still come: the master hears of it within some milliseconds.
        """
        self._duty.willing = ready
        self._duty.news()

    def retire(self, reason: str = "") -> None:
        """Ask to be replaced: connections come until the replacement serves, then this worker is drained.

        `reason` is for the log.  Said again, it changes nothing.
        """
        self._duty.retire(reason)


_current: CurrentWorker | None = None


def current_worker() -> CurrentWorker:
    """This worker.  Raises RuntimeError outside of one: ask `is_worker`."""
    if _current is None:
        raise RuntimeError("this process is no worker of rrmaster, or does not serve yet")
    return _current


def is_worker() -> bool:
    """Whether this code runs in a worker."""
    return _current is not None


def client_address(stream: Any) -> tuple[str, int] | None:
    """The address of the client at the other end of a stream (of trio, or a writer of asyncio); None: a unix socket's.

    With the PROXY protocol it is what the proxy has told, while the socket itself only knows the proxy.  Raises OSError
    for a stream that is closed.
    """
    if hasattr(stream, "get_extra_info"):
        sock = stream.get_extra_info("socket")
    else:
        while hasattr(stream, "transport_stream"):
            stream = stream.transport_stream
        sock = stream.socket
    header = header_of(sock)
    if header is not None and header.source is not None:
        return header.source
    peer = sock.getpeername()
    return (peer[0], peer[1]) if isinstance(peer, tuple) else None


def header_of(sock: Any) -> Header | None:
    """What the PROXY protocol's header has told of a connection; None: there was none."""
    found = _current._duty.clients.get(sock.fileno()) if _current is not None else None
    return found[1] if found is not None else None


def enter(duty: Duty, draining: Draining, means: Means) -> None:
    """Make it the current worker; called by the runtime, once."""
    facts, speech = duty.facts, None if duty.talk is None else Speech(duty.talk, means)
    become(CurrentWorker(facts.id, facts.slot, facts.generation, draining, duty, speech))


def become(worker: CurrentWorker) -> None:
    """This is what the application is told of itself."""
    global _current
    _current = worker


@frozen
class Taken:
    """A connection in this worker's hands.  Whoever holds it closes the descriptor and calls `Duty.finished`."""

    fd: int
    listener: int
    family: int
    probe: bool


_NOBODY: tuple[Taken | None, None] = (None, None)


@define
class Requests:
    """What is counted where a connection carries many requests: those begun and not ended are in progress."""

    begun: int = 0
    ended: int = 0


@define(eq=False)
class Duty:
    """What a worker owes its master: its counters, and its voice."""

    letterbox: Letterbox
    facts: Facts
    heartbeat: float = 0.5
    """Seconds."""
    talk: TalkLine | None = None
    """The talk line, if there is one."""
    wake: Callable[[], None] = lambda: None
    """Called when there is news to report; the runtime sees to it that `report` follows within `REPORT_AFTER`."""
    stir: Callable[[], None] = lambda: None
    """Called when a request has begun or ended; the runtime has `report_busy` follow within `BUSY_AFTER`."""
    taken: int = 0
    closed: int = 0
    requests: Requests | None = None
    """Where something counts them; None: each connection is one."""
    stirred: bool = False
    """A request has begun or ended since `report_busy`, and `stir` was called: it need not be called again."""
    willing: bool = True
    able: bool = True
    """There are descriptors left."""
    lag: float = 0.0
    """Seconds the loop was late, at worst since the last report."""
    clients: dict[int, tuple[Taken, Header]] = Factory(dict)
    """Who is at the other end, by descriptor, where a proxy has told: empty without the PROXY protocol."""
    _rss: int = 0
    _asides: int = 0
    _told: int = 0
    """What was told of `busy` last."""
    _leaving: wire.Retiring | None = None
    has_news: bool = False
    """Something has changed since the last report."""
    _limit: int = Factory(lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    @property
    def open(self) -> int:
        """Connections in hand."""
        return self.taken - self.closed

    @property
    def taking(self) -> bool:
        """Whether this worker wants connections."""
        return self.willing and self.able

    def take(self) -> Taken | None:
        """One connection, or None if none waits or none can be taken now.  Raises HungUp: there will be no more."""
        while self.able and self.wants_next():
            try:
                found = self.letterbox.take()
            except DescriptorLost:
                # It is closed already, and the client knows.  Count it as served, or its place is lost too.
                self.taken += 1
                self.closed += 1
                self._run_short()
                return None
            if found is None:
                return None
            message, fd = found
            if isinstance(message, wire.Handoff) and fd is not None:
                return self._begin(message, fd)
            if isinstance(message, wire.Nudge | wire.Listening):
                self._asides += 1
                self.hear(message)
                self.report()
        return None

    def wants_next(self) -> bool:
        """Whether what lies next in the letterbox is to be taken, if anything does.  What is not stays in the kernel,
        where the master can take it back."""
        return True

    def hear(self, message: wire.Nudge | wire.Listening) -> None:
        """The master has said something that is no connection."""

    def _begin(self, handoff: wire.Handoff, fd: int) -> Taken:
        # Descriptors are given lowest first, so the number tells how full the table is.
        if fd >= self._limit - RESERVE:
            self._run_short()
        if handoff.probe:
            # Outside all counters, and said at once: until then the master takes it for unread.
            self._asides += 1
            self.report()
        else:
            self.taken += 1
            self.news()
        return Taken(fd, handoff.listener, handoff.family, handoff.probe)

    def finished(self, taken: Taken) -> None:
        """A connection was closed."""
        # A handler may have closed it earlier, and its number may be another's already.
        if self.clients and self.clients.get(taken.fd, _NOBODY)[0] is taken:
            del self.clients[taken.fd]
        if not taken.probe:
            self.closed += 1
            self.news()

    def news(self) -> None:
        """There is something to report."""
        if not self.has_news:
            self.has_news = True
            self.wake()

    @property
    def busy(self) -> int:
        """Requests in progress."""
        return self.open if self.requests is None else self.requests.begun - self.requests.ended

    def changed(self) -> None:
        """A request has begun or ended, and nobody has said so since `report_busy`."""
        # On a busy connection this happens thousands of times a second, and mostly says the same when it is told.
        self.stirred = True
        self.stir()

    def report_busy(self) -> None:
        """Report, if `busy` is not what was told last."""
        self.stirred = False
        if self.busy != self._told:
            self.report()

    def report(self) -> None:
        """Report now.  Only the loop that serves may call it: silence is how the master learns that it does not."""
        busy = self.busy
        lag = int(self.lag * 1e6)
        cpu = int(time.process_time() * 1e6)
        requests = self.closed if self.requests is None else self.requests.ended
        report = wire.Report(self.closed, busy, self.taking, lag, self._rss, cpu, self._asides, requests)
        self.has_news = not self.letterbox.send(report)
        self._told = busy
        self.lag = 0.0

    def beat(self) -> None:
        """Look after descriptors and memory, and report.  Called every `heartbeat`."""
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.able = self._room_for_descriptors()
        self._rss = resident()
        if self._leaving is not None:
            self.retire(self._leaving.reason, self._leaving.now)
        self.report()

    def retire(self, reason: str, now: bool = False) -> None:
        """Ask to be replaced, or to be let go now; said again with each beat if the line is full."""
        wish = wire.Retiring(reason, now)
        self._leaving = None if self.letterbox.send(wish) else wish

    def ready(self) -> None:
        """Say that connections can come, of every listener."""
        self.letterbox.send(wire.Ready(os.getpid()))

    def _run_short(self) -> None:
        self.able = False
        self.news()

    def _room_for_descriptors(self) -> bool:
        try:
            fd = os.dup(self.letterbox.fileno())
        except OSError:
            return False
        os.close(fd)
        return fd < self._limit - RESERVE


def resident() -> int:
    """Bytes of resident memory of this process; 0 where it cannot be read (no descriptor left, no /proc)."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


__all__ = [
    "BATCH", "BUSY_AFTER", "DUMP_SIGNAL", "QUICK", "REPORT_AFTER", "SHORT_PAUSE", "CurrentWorker", "Draining", "Duty",
    "Facts", "HungUp", "MasterGone", "Requests", "Taken", "become", "client_address", "current_worker", "enter",
    "header_of", "is_worker",
]  # fmt: skip
