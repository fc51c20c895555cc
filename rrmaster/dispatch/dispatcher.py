"""The hot path: accept, choose, hand over; settle what the workers report.

All sockets of interest stand in an epoll of our own, and trio waits for that one descriptor.  A turn is synchronous:
read the waiting reports, judge who is late, then accept and hand over while somebody has room; no await, no task and
no timer between accept and sendmsg (one ``await accept()`` each costs two to three times as much).  When nobody has
room nothing is accepted: the kernel's backlog is the only queue.

Reports are read before anybody is chosen, and else only now and then: the lines stand in a second epoll, which is put
into the first one while something depends on what a worker says (a connection waits, a worker boots or is late).  To
wake up for each of eight workers' heartbeats costs an idle master half a per cent of a processor, and to wake up for
the report of each connection's end as much as the connection.

A connection's descriptor is in the master from accept to sendmsg, and closed right after.  It is never registered
anywhere: epoll keeps firing for a descriptor that is closed here and alive elsewhere.

This module knows workers by their `Link` only; what becomes of one is the `supervisor`'s affair.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import trio
from attrs import Factory, define

from ..logs.log import logger
from ..protocol import wire
from ..protocol.channel import Line
from .acceptor import Acceptor
from .listeners import ACCEPT_PAUSE, CAPACITY_ERRORS, CONNECTION_ERRORS, Listener
from .load import Peer, Policy, WorkerLoad
from .membership import Membership
from .recall import Link, Recall
from .report_reader import ReportReader
from .stall_detector import StallDetector

TURN = 0.002
"""Seconds of work before the other tasks get a turn."""

LINGER = 0.001
"""Seconds to wait for the next connection before going back to trio; the least that epoll can be asked for."""

BRISK = 0.002
"""Seconds since the last connection or report within which a master counts as busy."""

RUSH = 7
"""Connections accepted on top of the one, from a acceptor that is alone, between two looks at the clock."""

HANDOFF_RETRY = 0.010
"""Seconds to wait when a descriptor cannot be sent just now (too many in flight for this user)."""

FULL_POLL = 0.001
"""Seconds between looks at full letterboxes with a window of 1, whose emptying the kernel does not announce."""

LISTEN_IN = 0.25
"""Seconds between looks at the lines while nothing depends on them.  Far below any deadline for silence, and an honest
worker's reports of that time (125) fit its buffer (278)."""

_OURS = frozenset({errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM})
"""Errors of sendmsg that are not the worker's doing."""


@define(eq=False)
class Dispatcher:
    """Accepts for all listeners, and gives to all workers."""

    new_policy: Callable[[], Policy]
    """Makes the policy of a listener, empty."""
    breach: Callable[[int, str], None]
    """Called with a worker's id, and what it did."""
    recall_after: float = 0.003
    asked: Callable[[Link, wire.Listen | wire.Attend], None] = lambda link, wish: None
    """Called with what a worker says of listeners; raises Breach.  `dynamic_listeners` sees to it, where programs are served."""
    accepted: int = 0
    breaches: int = 0
    acceptors: list[Acceptor] = Factory(list)
    links: dict[int, Link] = Factory(dict)
    membership: Membership = None  # type: ignore[assignment]
    recall: Recall = None  # type: ignore[assignment]
    _reader: ReportReader = None  # type: ignore[assignment]
    _acceptors_by_fd: dict[int, Acceptor] = Factory(dict)
    numbers: int = 0
    """How many listeners there have ever been; the next one's number."""
    _pending: dict[Acceptor, None] = Factory(dict)
    """Doors at which somebody may wait: epoll said so, and accept has not yet denied it."""
    _undelivered: deque[tuple[wire.Handoff, int, Peer]] = Factory(deque)
    """In the master's own hands, for milliseconds: the kernel would not pass them on just now.  Nothing is accepted
    meanwhile, so there is one, or as many as a recall had brought."""
    _paused_until: float = 0.0
    _peep_at: float = float("inf")
    _asking: list[trio.Event] = Factory(list)
    """Set when the loop turns."""
    _closed: trio.Event = Factory(trio.Event)
    _rest: trio.CancelScope = Factory(trio.CancelScope)
    _unsettled: set[int] = Factory(set)
    """Workers that have not served yet: what they say is waited for."""
    _epoll: select.epoll = Factory(select.epoll)
    _attentive: bool = False
    """Whether the lines' epoll stands in ours."""
    _listen_in_at: float = 0.0
    _stirred: float = 0.0
    _nursery: trio.Nursery | None = None
    _short: bool = False
    """Little is put into letterboxes just now."""

    def __attrs_post_init__(self) -> None:
        self.membership = Membership(self.acceptors, self.links)
        self.recall = Recall(
            StallDetector(self.recall_after), self.links, self._has_taker, self._redeliver, self._breached, self._wake
        )
        self._reader = ReportReader(self._settle, self._asked, self._breached, self._emptied)

    # --- who is there

    def open(self, listener: Listener) -> Acceptor:
        """Accept from this listener, for all who serve every listener.  The dispatcher closes it."""
        acceptor = Acceptor.of(self.numbers, listener, self.new_policy())
        self.numbers += 1
        if not self.acceptors and self._closed.is_set():
            self._closed = trio.Event()
        self.acceptors.append(acceptor)
        self.membership.fill(acceptor)
        self._acceptors_by_fd[acceptor.fileno()] = acceptor
        # Edge-triggered: while nobody has room the event needs no taking back and putting in again.
        self._epoll.register(listener.socket.fileno(), select.EPOLLIN | select.EPOLLET)
        self._pending[acceptor] = None
        return acceptor

    def connect(self, load: WorkerLoad, line: Line, tell: Callable[[wire.Up], None]) -> Link:
        """Listen to a new worker.  The dispatcher closes the line, once the worker is buried."""
        link = Link(load, line)
        link.set_short(self._short)
        self.links[load.id] = link
        self._reader.add(link, tell)
        self._unsettled.add(load.id)
        self._wake()
        return link

    def declare_listeners(self, link: Link, listeners: tuple[int, ...] | None) -> bool:
        """A worker says which listeners it serves (None: all, also those to come).  A breach if it cannot."""
        unknown = [number for number in listeners or () if not 0 <= number < self.numbers]
        if unknown:
            self._breached(link, f"it would serve listener {unknown[0]}, and there is none")
            return False
        link.listeners = None if listeners is None else frozenset(listeners)
        return True

    def enlist(self, link: Link) -> None:
        """Give it connections from now on, those of the listeners it serves."""
        link.load.serving = True
        self._unsettled.discard(link.load.id)
        self.membership.join(link)
        self._wake()

    def delist(self, link: Link) -> None:
        """Give it nothing more."""
        link.load.serving = False
        self._unsettled.discard(link.load.id)
        self.membership.leave(link.load)
        self.recall.forget(link.load)

    async def dismiss(self, link: Link, recall: bool = True) -> None:
        """Give it nothing more, take back what others have room for, and tell it that there will be no more."""
        if link.load.id not in self.links:
            return  # it has died meanwhile, and is buried
        self.delist(link)
        if recall and not link.breached and link.load.recount():
            takers = [other for other in self.links.values() if other.load.has_room() and other.shares_with(link)]
            room = sum(other.load.window - other.load.unclaimed for other in takers)
            if room:
                await self.recall.take_back(link, min(room, link.load.unclaimed), takers, False)
        if link.load.id in self.links:
            link.line.half_close()

    def recall_listener(self, link: Link, number: int) -> None:
        """It has left this listener: what it had of it goes to others."""
        if self._nursery is not None:
            self._nursery.start_soon(self.recall.relieve, link, number)

    def remove(self, link: Link) -> int:
        """Its process is dead: hear its last words, give what it had not taken to others.

        Returns how many connections died in its hands.
        """
        self._reader.last_words(link)
        self.delist(link)
        del self.links[link.load.id]
        self.recall.bury(link)
        return link.lost

    def read_reports(self) -> None:
        """Read all reports that wait.  Nobody is judged for his silence before."""
        self._reader.catch_up()
        self._wake()

    def set_policy(self, new_policy: Callable[[], Policy]) -> None:
        """Choose by another policy from now on."""
        self.new_policy = new_policy
        self.membership.set_policy(new_policy)
        self._wake()

    # --- the loop

    async def wait_for_turn(self) -> None:
        """Wait until the loop has turned: it lives."""
        event = trio.Event()
        self._asking.append(event)
        self._wake()
        await event.wait()

    async def run(self) -> None:
        """Dispatch until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    while self._asking:
                        self._asking.pop().set()
                    if self._turn():
                        await trio.lowlevel.checkpoint()
                    else:
                        self._attend()
                        with trio.CancelScope(deadline=self._due()) as self._rest:
                            await trio.lowlevel.wait_readable(self._epoll.fileno())
            finally:
                self._nursery = None

    def _attend(self) -> None:
        """Have the lines wake us while something depends on what is said there."""
        needed = self._waits or bool(self._unsettled)
        if needed != self._attentive:
            self._attentive = needed
            if needed:
                self._epoll.register(self._reader.epoll.fileno(), select.EPOLLIN)
            else:
                self._epoll.unregister(self._reader.epoll.fileno())

    @property
    def _waits(self) -> bool:
        """Whether there is something that nobody can be given just now."""
        return bool(self._pending or self._undelivered or self.recall.has_dead or self.recall.has_late)

    def drain_listener(self, acceptor: Acceptor) -> None:
        """Accept what waits at this acceptor, then close it."""
        queued = acceptor.queued()
        acceptor.quota = -1 if queued is None else queued
        acceptor.closing = True
        self._pending[acceptor] = None
        self._wake()

    async def drain_listeners(self, patience: float) -> None:
        """Accept what the backlogs hold, hand it over, and close each listener when its backlog is empty.

        Takes `patience` seconds at most; where clients keep coming, what waited at the beginning is accepted.
        """
        for acceptor in list(self.acceptors):
            if acceptor.policy.members:
                self.drain_listener(acceptor)
            else:
                self._close_acceptor(acceptor)  # nobody is there to give to
        with trio.move_on_after(patience):
            if self.acceptors:
                await self._closed.wait()
            while self._undelivered and any(link.load.serving for link in self.links.values()):
                await trio.sleep(HANDOFF_RETRY)

    def close_listeners(self) -> None:
        """Close the listeners, whatever waits there."""
        for acceptor in list(self.acceptors):
            self._close_acceptor(acceptor)

    def _close_acceptor(self, acceptor: Acceptor) -> None:
        self._epoll.unregister(acceptor.fileno())
        del self._acceptors_by_fd[acceptor.fileno()]
        self.acceptors.remove(acceptor)
        self._pending.pop(acceptor, None)
        acceptor.listener.close()
        if not self.acceptors:
            self._closed.set()

    def close(self) -> None:
        """Close everything that is left."""
        self.close_listeners()
        for link in self.links.values():
            link.line.close()
        self.links.clear()
        self.recall.close()
        for _, fd, _ in self._undelivered:
            os.close(fd)
        self._undelivered.clear()
        trio.lowlevel.notify_closing(self._epoll.fileno())
        self._epoll.close()
        self._reader.close()

    def _due(self) -> float:
        due = min(self.recall.due(), self.membership.due, self._peep_at, self._listen_in_at)
        if self._paused_until > trio.current_time():
            due = min(due, self._paused_until)
        return due

    def _turn(self) -> bool:
        """Work for a while.  Whether there is more to do at once."""
        now = trio.current_time()
        end = now + TURN
        linger = now - self._stirred < BRISK
        wait = False
        while True:
            events = self._epoll.poll(0)
            if wait and not events:
                events = self._linger(now)
            for fd, _ in events:
                if fd in self._acceptors_by_fd:
                    self._pending[self._acceptors_by_fd[fd]] = None
            said = self._reader.listen()
            now = trio.current_time()
            self._listen_in_at = now + LISTEN_IN
            if now >= self.recall.stall_detector.due:
                self.recall.judge(now)
            if self._short or self.recall.stall_detector.suspects:
                self._shorten()
            self._mind(now)
            if not (self._admit(now, end) or said):
                return False
            self._stirred = now
            if now >= end:
                return True
            wait = linger and not self._waits

    def _linger(self, now: float) -> list[tuple[int, int]]:
        """Wait a moment in our own epoll: a busy master finds the next connection there, at a fraction of what it
        costs to go back to trio and be called again.  The workers run first, so that several are found; then, if
        nothing of ours falls due meanwhile, it is `LINGER`.  (trio's other tasks wait for that and `TURN` at most.)"""
        os.sched_yield()
        return self._epoll.poll(0) or (self._epoll.poll(LINGER) if self._due() > now + LINGER else [])

    def _mind(self, now: float) -> None:
        """What is rarely to do."""
        if self.recall.has_late and self._nursery is not None:
            self.recall.start(self._nursery)
        while self._undelivered and now >= self._paused_until:
            handoff, fd, peer = self._undelivered.popleft()
            if not self._hand(handoff, fd, peer):
                break
        if self.recall.has_dead:
            self.recall.recall_dead()
            if self.recall.has_dead:
                self._starve(now)
        if now >= self._peep_at:
            self._peep_at = float("inf")
            self._look_again()
        self.membership.end_newcomer(now)

    # --- accept, choose, hand over

    def _admit(self, now: float, end: float) -> bool:
        """Accept from each acceptor in turn, one at a time, so that none starves.  Whether anything was done."""
        if not self._pending or now < self._paused_until or self._undelivered:
            return False
        worked = False
        while True:
            progress = False
            for acceptor in tuple(self._pending):
                if not acceptor.policy.ready():
                    self._starve(now)
                elif self._admit_one(acceptor, now):
                    progress = worked = True
                    for _ in range(RUSH if len(self._pending) == 1 else 0):
                        if acceptor not in self._pending or not (
                            acceptor.policy.ready() and self._admit_one(acceptor, now)
                        ):
                            break
                if self._undelivered or now < self._paused_until:
                    return worked
            now = trio.current_time()
            if not progress or now >= end:
                return worked

    def _admit_one(self, acceptor: Acceptor, now: float) -> bool:
        try:
            fd, peer = acceptor.accept()
        except BlockingIOError:
            self._pending.pop(acceptor, None)
            if acceptor.closing:
                self._close_acceptor(acceptor)
            return False
        except OSError as error:
            return self._accept_failed(error, now)
        self.accepted += 1
        if acceptor.closing and acceptor.quota >= 0:
            self._use_quota(acceptor)
        # Everything below is `_hand`, written out: this is where the time goes.
        policy = acceptor.policy
        load = policy.choose(peer)
        link = self.links[load.id]
        try:
            link.line.hand_over(acceptor.handoff, fd)
        except OSError as error:
            self._hand_failed(link, error)
            return self._hand(wire.Handoff(acceptor.number, family=int(acceptor.listener.socket.family)), fd, peer)
        policy.count_handoff(load)
        self.recall.stall_detector.watch(load, now)
        os.close(fd)
        return True

    def _use_quota(self, acceptor: Acceptor) -> None:
        acceptor.quota -= 1
        if acceptor.quota < 0:
            self._close_acceptor(acceptor)

    def _accept_failed(self, error: OSError, now: float) -> bool:
        if error.errno in CONNECTION_ERRORS:
            return True
        if error.errno not in CAPACITY_ERRORS:
            raise error
        if now - self._paused_until > 1.0:
            logger.error(
                "cannot accept: %s (%s); connections wait in the backlog until there is room",
                error.strerror, errno.errorcode[error.errno or 0],
            )  # fmt: skip
        self._paused_until = now + ACCEPT_PAUSE
        return False

    def _hand(self, handoff: wire.Handoff, fd: int, peer: Peer) -> bool:
        """Hand a connection to somebody; it is the dispatcher's to keep if nobody can be given it now."""
        message = wire.encode(handoff)
        for load in self.membership.takers(handoff.listener, peer):
            link = self.links[load.id]
            try:
                link.line.hand_over(message, fd)
            except OSError as error:
                self._hand_failed(link, error)
                continue
            self.membership.count_handoff(handoff.listener, load)
            self.recall.stall_detector.watch(load, trio.current_time())
            os.close(fd)
            return True
        self._undelivered.append((handoff, fd, peer))
        self._paused_until = max(self._paused_until, trio.current_time() + HANDOFF_RETRY)
        return False

    def _hand_failed(self, link: Link, error: OSError) -> None:
        if error.errno not in _OURS:
            self._breached(link, f"its line refuses connections ({errno.errorcode.get(error.errno or 0, error)})")

    def _has_taker(self, number: int) -> bool:
        return not self._undelivered and self.membership.has_taker(number)

    def _redeliver(self, handoff: wire.Handoff, fd: int) -> bool:
        """A recalled connection.  It is ours whatever happens: with nobody to give it to it waits as a stray."""
        peer: Any = ""
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                peer = sock.getpeername()
        except OSError:
            pass  # the client has left meanwhile, or the table is full: only stickiness is lost
        self._hand(handoff, fd, peer)
        self._wake()
        return True

    # --- room

    def _wake(self) -> None:
        """Something changed while the loop rests: somebody has room who had none, or there is something to give."""
        self._rest.cancel()

    def _shorten(self) -> None:
        """While many stand still, little is put before those who do not: they are next."""
        short = self.recall.stall_detector.many_suspect(len(self.links), self._short)
        if short != self._short:
            self._short = short
            for link in self.links.values():
                link.set_short(short)
                self.membership.update(link.load)  # who was full may have room

    def _starve(self, now: float) -> None:
        """Nobody has room: have the kernel say when a full letterbox has been emptied by half."""
        for link in self.links.values():
            load = link.load
            if not load.serving or load.suspended or load.unclaimed < load.window:
                continue
            if load.window == 1:
                self._peep_at = min(self._peep_at, now + FULL_POLL)
            else:
                self._reader.watch(link)

    def _emptied(self, link: Link) -> None:
        link.load.recount()
        self.membership.update(link.load)

    def _look_again(self) -> None:
        for link in self.links.values():
            load = link.load
            if load.serving and load.unclaimed >= load.window and load.recount() < load.window:
                self.membership.update(load)

    # --- what workers say

    def _asked(self, link: Link, wish: wire.Listen | wire.Attend) -> None:
        self.asked(link, wish)
        self._wake()

    def _settle(self, link: Link, report: wire.Report) -> None:
        link.load.apply(report)
        if link.pending_answers:
            link.send_answers()
        self.recall.forgive(link.load)
        self.membership.update(link.load)

    def _breached(self, link: Link, what: str) -> None:
        """It is not believed any more."""
        if link.breached or self.links.get(link.load.id) is not link:  # or buried meanwhile
            return
        link.breached = True
        self.breaches += 1
        self.delist(link)
        self._reader.deafen(link)
        self.breach(link.load.id, what)
