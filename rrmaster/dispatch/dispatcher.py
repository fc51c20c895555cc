"""The loop of the master: read the workers' reports, then accept, choose and hand over while a worker has room.

All descriptors of interest stand in an epoll of the dispatcher's own, and trio waits for that one.  A turn is
synchronous: one ``await accept()`` for each connection costs two to three times as much.  While no worker has room
nothing is accepted: the kernel's backlog is the only queue.

::

    own epoll ─┬─ each listener, edge-triggered
               ├─ the line from the idle pool, edge-triggered
               └─ the lines' epoll, while something depends on a report ── each worker's line

Reports are read before a worker is chosen, and otherwise only now and then.  So the lines' epoll stands in the first
only while a connection waits, a worker boots or one is late: to wake up for the heartbeats of eight workers costs an
idle master half a per cent of a processor.  This module knows workers by their `Link` only.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable

import trio
from attrs import Factory, define, field

from ..config.settings import Settings
from ..faults import Fault
from ..protocol import wire
from ..protocol.line import Line
from ..waiting import readable
from .acceptor import AcceptLoop, Acceptor
from .link import Link
from .listeners import Listener
from .listening.closing import Closing
from .load import Policy, WorkerLoad
from .membership import HANDOFF_RETRY, Delivery, Membership
from .parked.lanes import Lanes
from .parked.returns import Returns
from .recall import Recall
from .report_reader import ReportReader
from .stall_detector import StallDetector

TURN = 0.002
"""Seconds of work before the other tasks get a turn."""

LINGER = 0.001
"""Seconds to wait for the next connection before going back to trio; the least that epoll can be asked for."""

BUSY_FOR = 0.002
"""Seconds since the last connection or report within which a master counts as busy."""

IDLE_READ = 0.25
"""Seconds between looks at the lines while nothing depends on them.  A worker's reports of that time fit its buffer."""


@define(eq=False)
class Dispatcher:
    """Accepts for all listeners, and hands over to all workers.

    All methods are called in trio's thread, between turns of `run`.
    """

    new_policy: Callable[[], Policy]
    """Makes the policy of a listener, empty."""
    on_breach: Callable[[int, str], None]
    """Called with the id of a worker that broke the protocol, and with what it did."""
    recall_after: float
    """The option at the start, in seconds."""
    on_listener_request: Callable[[Link, wire.Listen | wire.Attend], None] = lambda link, request: None
    """Called with what a worker says of listeners; raises Breach.  `DynamicListeners.handle` where it is used."""
    fault: Fault = Factory(Fault)  # is told of errors of the master's own that come up in the tasks of others
    breaches: int = 0
    links: dict[int, Link] = Factory(dict)  # the living workers, by id
    acceptors: list[Acceptor] = Factory(list)
    """The open listeners, kept by `accept_loop`."""
    accept_loop: AcceptLoop = field(init=False)
    membership: Membership = field(init=False)
    delivery: Delivery = field(init=False)
    recall: Recall = field(init=False)
    lanes: Lanes = field(init=False)
    returns: Returns = field(init=False)
    _closing: Closing = field(init=False)
    _stalls: StallDetector = field(init=False)
    _reader: ReportReader = field(init=False)
    _booting: set[int] = Factory(set)
    """Workers that have not served yet: the loop wakes up for what they say."""
    _epoll: select.epoll = Factory(select.epoll)
    _read_at: float = 0.0  # when to look at the lines at the latest
    _active_at: float = 0.0
    _rest: trio.CancelScope = Factory(trio.CancelScope)  # cancelled to wake the loop
    _turn_waiters: list[trio.Event] = Factory(list)
    _nursery: trio.Nursery | None = None

    def __attrs_post_init__(self) -> None:
        stalls = self._stalls = StallDetector(self.recall_after)
        self.membership = members = Membership(self.acceptors, self.links, lambda link: self._reader.watch_room(link))
        self.delivery = delivery = Delivery(
            members, stalls.watch, self._breached, lambda until: self.accept_loop.pause(until)
        )
        links, epoll, full = self.links, self._epoll, members.watch_full
        self.accept_loop = loop = AcceptLoop(links, epoll, stalls.watch, delivery.refused, full, self.acceptors)
        self.lanes = lanes = Lanes(self._redeliver)
        self.returns = Returns(epoll, loop, members, delivery, full, lanes.ended)
        self._closing = Closing(loop, delivery, links, self.wake)
        can, wake = delivery.has_receiver, self.wake
        self.recall = Recall(stalls, links, can, self._redeliver, self._breached, wake, lanes.open)
        emptied, fault = members.has_emptied, self.fault.tell
        self._reader = ReportReader(self._reported, self._asked, self._breached, emptied, fault)

    def configure(self, settings: Settings) -> None:
        """Set the options that a reload may change, but for the policy."""
        self._stalls.configure(settings.recall_after)
        self.membership.configure(settings)

    def expect(self, size: int) -> None:
        """The fleet is going to have this many workers; while they start, the first leave the others their share."""
        self.membership.expect(size)

    def set_policy(self, new_policy: Callable[[], Policy]) -> None:
        """Choose by another policy from now on.  It begins with the current loads, and without newcomers."""
        self.new_policy = new_policy
        self.membership.set_policy(new_policy)
        self.wake()

    # --- listeners

    @property
    def accepted(self) -> int:
        """Connections accepted so far."""
        return self.accept_loop.accepted

    def open(self, listener: Listener) -> Acceptor:
        """Accept from this listener, for all workers that serve every listener.  The dispatcher closes it."""
        acceptor = self.accept_loop.open(listener, self.new_policy())
        self.membership.add_acceptor(acceptor)
        return acceptor

    def drain_listener(self, acceptor: Acceptor) -> None:
        """Accept what waits at this listener, then close it."""
        if self._nursery is not None:
            self._nursery.start_soon(self._closing.drain, acceptor)

    async def drain_listeners(self, timeout: float) -> None:
        """Accept what the backlogs hold and the kernel holds back, and close the listeners, in `timeout` seconds."""
        await self._closing.drain_all(timeout)

    def close_listeners(self) -> None:
        """Close the listeners at once; the kernel resets what waits there."""
        self.accept_loop.close_all()

    # --- workers

    def connect(self, load: WorkerLoad, line: Line, on_message: Callable[[wire.Up], None]) -> Link:
        """Read the reports of a new worker, and close its line once it is removed.  Raises OSError."""
        link = Link(load, line, on_message)
        self._reader.add(link)
        link.set_short(self.membership.short)
        self.links[load.id] = link
        self._booting.add(load.id)
        self.wake()
        return link

    def hear_ready(self, link: Link, ready: wire.Ready) -> bool:
        """A worker is ready, and says which listeners it serves.  False, and a breach, if there are none such."""
        listeners = ready.listeners
        if unknown := [number for number in listeners or () if not 0 <= number < self.accept_loop.opened]:
            self._breached(link, f"it would serve listener {unknown[0]}, and there is none")
            return False
        link.set_listeners(None if listeners is None else frozenset(listeners))
        link.agree(ready)
        if ready.parks:
            self.lanes.add(link)
        return True

    def enlist(self, link: Link) -> None:
        """Hand connections to this worker from now on, those of the listeners it serves."""
        link.load.start_serving()
        self._booting.discard(link.load.id)
        self.membership.join(link)
        self.lanes.spread(link)
        self.wake()

    def delist(self, link: Link) -> None:
        """Hand nothing more to this worker."""
        link.load.stop_serving()
        self._booting.discard(link.load.id)
        self.membership.leave(link.load)
        self.recall.forget(link.load)

    async def dismiss(self, link: Link, recall: bool = True) -> None:
        """Hand nothing more to this worker, take back what others have room for, and send the end of stream."""
        if link.load.id not in self.links:
            return  # it has died meanwhile, and is removed
        self.delist(link)
        if recall and not link.breached:
            await self.recall.recall_for_others(link)
        if link.load.id in self.links:
            link.line.half_close()

    def recall_listener(self, link: Link, number: int) -> None:
        """A worker has left this listener: hand what it had of it to others, in a task of the dispatcher's."""
        if self._nursery is not None:
            self._nursery.start_soon(self.recall.recall_listener, link, number)

    def remove(self, link: Link) -> int:
        """The worker is dead: hand what it had not taken to others.  Returns how many connections ended with it."""
        self._reader.remove(link)  # first: its last reports say what it has closed
        self.delist(link)
        self.lanes.remove(link)
        del self.links[link.load.id]
        self.recall.add_dead(link)
        return link.lost

    def read_reports(self) -> None:
        """Read all reports that wait.  Call it before judging a worker for its silence."""
        self._reader.read_all()
        self.wake()

    # --- the loop

    async def wait_for_turn(self) -> None:
        """Wait until the loop has made a turn: it is alive."""
        event = trio.Event()
        self._turn_waiters.append(event)
        self.wake()
        await event.wait()

    async def run(self) -> None:
        """Dispatch until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    while self._turn_waiters:
                        self._turn_waiters.pop().set()
                    if self._turn():
                        await trio.lowlevel.checkpoint()
                    else:
                        self._watch_lines()
                        with trio.CancelScope(deadline=self._due()) as self._rest:
                            await readable(self._epoll.fileno())
            finally:
                self._nursery = None

    def close(self) -> None:
        """Close everything that is left.  Call it when `run` has ended."""
        self.close_listeners()
        for link in self.links.values():
            link.line.close()
        self.links.clear()
        self.recall.close()
        self.lanes.close()
        self.delivery.close()
        trio.lowlevel.notify_closing(self._epoll.fileno())
        self._epoll.close()
        self._reader.close()

    def _turn(self) -> bool:
        """Work for a while.  Whether there is more to do at once."""
        now = trio.current_time()
        end = now + TURN
        linger = now - self._active_at < BUSY_FOR
        wait = False
        while True:
            events = self._epoll.poll(0)
            if wait and not events:
                events = self._linger(now)
            # Reports first: a choice made with old counts would be the wrong one.
            any_read = self._reader.read()
            now = trio.current_time()
            self._read_at = now + IDLE_READ
            if now >= self._stalls.due:
                self.recall.suspend_late(now)
            if self.membership.short or self._stalls.suspects:
                # While many are suspect the others get little ahead: they are likely to block next.
                self.membership.set_short(self._stalls.many_suspect(len(self.links), self.membership.short))
            self._do_rare_work(now)
            any_taken = self.accept_loop.accept(events, now, end) | self.returns.take(events, now, end)
            if not (any_taken or any_read):
                return False
            self._active_at = now
            if now >= end:
                return True
            wait = linger and not self._has_waiting

    def _linger(self, now: float) -> list[tuple[int, int]]:
        """Wait a moment in our own epoll, which costs a fraction of going back to trio and being called again."""
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_yield()  # the workers and clients run first, so that several connections are found at once
        return self._epoll.poll(0) or (self._epoll.poll(LINGER) if self._due() > now + LINGER else [])

    def _do_rare_work(self, now: float) -> None:
        recall = self.recall
        if recall.late and self._nursery is not None:
            recall.start(self._nursery)
        if self.delivery.undelivered and now >= self.accept_loop.paused_until:
            self.delivery.retry()
        if recall.dead:
            recall.recall_dead()  # before new connections: these clients have waited longer
            if recall.dead:
                self.membership.watch_full(now)
        self.membership.tick(now)

    def _watch_lines(self) -> None:
        """Have the lines wake us while something depends on what is said there."""
        if not self._reader.wake(self._epoll, self._has_waiting or bool(self._booting)):
            self._read_at = trio.current_time() + HANDOFF_RETRY  # no event will come: look again soon

    @property
    def _has_waiting(self) -> bool:
        """Whether there is something that no worker can be given at present."""
        held = self.delivery.undelivered or self.recall.dead or self.recall.late
        return bool(self.accept_loop.pending or self.returns.pending or held)

    def _due(self) -> float:
        due, paused = min(self.recall.due(), self.membership.due, self._read_at), self.accept_loop.paused_until
        return min(due, paused) if paused > trio.current_time() else due

    def wake(self) -> None:
        """Something changed while the loop rests: a worker has room, or there is something to hand over."""
        self._rest.cancel()

    # --- what the others report

    def _reported(self, link: Link, report: wire.Report) -> None:
        link.load.apply(report)
        if link.pending_answers:
            link.send_answers()
        self.recall.reported(link.load)
        self.membership.update(link.load)

    def _asked(self, link: Link, request: wire.Listen | wire.Attend) -> None:
        self.on_listener_request(link, request)
        self.wake()

    def _redeliver(self, handoff: wire.Handoff, fd: int) -> None:
        self.delivery.recalled(handoff, fd)
        self.wake()

    def _breached(self, link: Link, what: str) -> None:
        """Trust this worker no longer."""
        if link.breached or self.links.get(link.load.id) is not link:  # or it was removed meanwhile
            return
        link.set_breached()
        self.breaches += 1
        self.delist(link)
        self._reader.ignore(link)
        self.on_breach(link.load.id, what)
