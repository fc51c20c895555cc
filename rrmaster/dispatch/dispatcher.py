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

from ..config.settings import Settings
from ..logs.log import logger
from ..protocol import wire
from ..protocol.line import Line
from .acceptor import Door
from .listeners import ACCEPT_PAUSE, CAPACITY_TROUBLE, CONNECTION_TROUBLE, Listener
from .load import Peer, Policy, Post
from .membership import Membership
from .recall import Link, Recall
from .report_reader import Hearing
from .stall_detector import Lateness

TURN = 0.002
"""Seconds of work before the other tasks get a turn."""

LINGER = 0.001
"""Seconds to wait for the next connection before going back to trio; the least that epoll can be asked for."""

BRISK = 0.002
"""Seconds since the last connection or report within which a master counts as busy."""

RUSH = 7
"""Connections accepted on top of the one, from a door that is alone, between two looks at the clock."""

RETRY = 0.010
"""Seconds to wait when a descriptor cannot be sent just now (too many in flight for this user)."""

PEEP = 0.001
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
    """Called with what a worker says of listeners; raises Breach.  `openings` sees to it, where programs are served."""
    accepted: int = 0
    breaches: int = 0
    doors: list[Door] = Factory(list)
    links: dict[int, Link] = Factory(dict)
    membership: Membership = None  # type: ignore[assignment]
    recall: Recall = None  # type: ignore[assignment]
    _hearing: Hearing = None  # type: ignore[assignment]
    _doors_by_fd: dict[int, Door] = Factory(dict)
    numbers: int = 0
    """How many listeners there have ever been; the next one's number."""
    _pending: dict[Door, None] = Factory(dict)
    """Doors at which somebody may wait: epoll said so, and accept has not yet denied it."""
    _strays: deque[tuple[wire.Handoff, int, Peer]] = Factory(deque)
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
        self.membership = Membership(self.doors, self.links)
        self.recall = Recall(
            Lateness(self.recall_after), self.links, self._has_taker, self._give_back, self._breached, self._stir
        )
        self._hearing = Hearing(self._settle, self._asked, self._breached, self._emptied)

    # --- who is there

    def open(self, listener: Listener) -> Door:
        """Accept from this listener, for all who serve every listener.  The dispatcher closes it."""
        door = Door.of(self.numbers, listener, self.new_policy())
        self.numbers += 1
        if not self.doors and self._closed.is_set():
            self._closed = trio.Event()
        self.doors.append(door)
        self.membership.fill(door)
        self._doors_by_fd[door.fileno()] = door
        # Edge-triggered: while nobody has room the event needs no taking back and putting in again.
        self._epoll.register(listener.socket.fileno(), select.EPOLLIN | select.EPOLLET)
        self._pending[door] = None
        return door

    def connect(self, post: Post, line: Line, tell: Callable[[wire.Up], None]) -> Link:
        """Listen to a new worker.  The dispatcher closes the line, once the worker is buried."""
        link = Link(post, line)
        link.shorten(self._short)
        self.links[post.id] = link
        self._hearing.add(link, tell)
        self._unsettled.add(post.id)
        self._stir()
        return link

    def declared(self, link: Link, listeners: tuple[int, ...] | None) -> bool:
        """A worker says which listeners it serves (None: all, also those to come).  A breach if it cannot."""
        unknown = [number for number in listeners or () if not 0 <= number < self.numbers]
        if unknown:
            self._breached(link, f"it would serve listener {unknown[0]}, and there is none")
            return False
        link.listeners = None if listeners is None else frozenset(listeners)
        return True

    def enlist(self, link: Link) -> None:
        """Give it connections from now on, those of the listeners it serves."""
        link.post.serving = True
        self._unsettled.discard(link.post.id)
        self.membership.join(link)
        self._stir()

    def leave_out(self, link: Link) -> None:
        """Give it nothing more."""
        link.post.serving = False
        self._unsettled.discard(link.post.id)
        self.membership.leave(link.post)
        self.recall.forget(link.post)

    async def dismiss(self, link: Link, recall: bool = True) -> None:
        """Give it nothing more, take back what others have room for, and tell it that there will be no more."""
        if link.post.id not in self.links:
            return  # it has died meanwhile, and is buried
        self.leave_out(link)
        if recall and not link.breached and link.post.recount():
            takers = [other for other in self.links.values() if other.post.has_room() and other.shares_with(link)]
            room = sum(other.post.window - other.post.unclaimed for other in takers)
            if room:
                await self.recall.take_back(link, min(room, link.post.unclaimed), takers, False)
        if link.post.id in self.links:
            link.line.half_close()

    def relieve(self, link: Link, number: int) -> None:
        """It has left this listener: what it had of it goes to others."""
        if self._nursery is not None:
            self._nursery.start_soon(self.recall.relieve, link, number)

    def bury(self, link: Link) -> int:
        """Its process is dead: hear its last words, give what it had not taken to others.

        Returns how many connections died in its hands.
        """
        self._hearing.last_words(link)
        self.leave_out(link)
        del self.links[link.post.id]
        self.recall.bury(link)
        return link.lost

    def catch_up(self) -> None:
        """Read all reports that wait.  Nobody is judged for his silence before."""
        self._hearing.catch_up()
        self._stir()

    def configure(self, settings: Settings) -> None:
        """Behave as these settings say; the policy is changed by `adopt`."""
        self.recall.lateness.after = settings.recall_after

    def adopt(self, new_policy: Callable[[], Policy]) -> None:
        """Choose by another policy from now on."""
        self.new_policy = new_policy
        self.membership.adopt(new_policy)
        self._stir()

    # --- the loop

    async def turned(self) -> None:
        """Wait until the loop has turned: it lives."""
        event = trio.Event()
        self._asking.append(event)
        self._stir()
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
                self._epoll.register(self._hearing.epoll.fileno(), select.EPOLLIN)
            else:
                self._epoll.unregister(self._hearing.epoll.fileno())

    @property
    def _waits(self) -> bool:
        """Whether there is something that nobody can be given just now."""
        return bool(self._pending or self._strays or self.recall.unrest or self.recall.lateness_to_mend)

    def shut(self, door: Door) -> None:
        """Accept what waits at this door, then close it."""
        queued = door.queued()
        door.quota = -1 if queued is None else queued
        door.closing = True
        self._pending[door] = None
        self._stir()

    async def last_call(self, patience: float) -> None:
        """Accept what the backlogs hold, hand it over, and close each listener when its backlog is empty.

        Takes `patience` seconds at most; where clients keep coming, what waited at the beginning is accepted.
        """
        for door in list(self.doors):
            if door.policy.members:
                self.shut(door)
            else:
                self._close_door(door)  # nobody is there to give to
        with trio.move_on_after(patience):
            if self.doors:
                await self._closed.wait()
            while self._strays and any(link.post.serving for link in self.links.values()):
                await trio.sleep(RETRY)

    def close_doors(self) -> None:
        """Close the listeners, whatever waits there."""
        for door in list(self.doors):
            self._close_door(door)

    def _close_door(self, door: Door) -> None:
        self._epoll.unregister(door.fileno())
        del self._doors_by_fd[door.fileno()]
        self.doors.remove(door)
        self._pending.pop(door, None)
        door.listener.close()
        if not self.doors:
            self._closed.set()

    def close(self) -> None:
        """Close everything that is left."""
        self.close_doors()
        for link in self.links.values():
            link.line.close()
        self.links.clear()
        self.recall.close()
        for _, fd, _ in self._strays:
            os.close(fd)
        self._strays.clear()
        trio.lowlevel.notify_closing(self._epoll.fileno())
        self._epoll.close()
        self._hearing.close()

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
                if fd in self._doors_by_fd:
                    self._pending[self._doors_by_fd[fd]] = None
            said = self._hearing.listen()
            now = trio.current_time()
            self._listen_in_at = now + LISTEN_IN
            if now >= self.recall.lateness.due:
                self.recall.judge(now)
            if self._short or self.recall.lateness.suspects:
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
        if self.recall.lateness_to_mend and self._nursery is not None:
            self.recall.start(self._nursery)
        while self._strays and now >= self._paused_until:
            handoff, fd, peer = self._strays.popleft()
            if not self._hand(handoff, fd, peer):
                break
        if self.recall.unrest:
            self.recall.exhume()
            if self.recall.unrest:
                self._starve(now)
        if now >= self._peep_at:
            self._peep_at = float("inf")
            self._look_again()
        self.membership.mature(now)

    # --- accept, choose, hand over

    def _admit(self, now: float, end: float) -> bool:
        """Accept from each door in turn, one at a time, so that none starves.  Whether anything was done."""
        if not self._pending or now < self._paused_until or self._strays:
            return False
        worked = False
        while True:
            progress = False
            for door in tuple(self._pending):
                if not door.policy.ready():
                    self._starve(now)
                elif self._admit_one(door, now):
                    progress = worked = True
                    for _ in range(RUSH if len(self._pending) == 1 else 0):
                        if door not in self._pending or not (door.policy.ready() and self._admit_one(door, now)):
                            break
                if self._strays or now < self._paused_until:
                    return worked
            now = trio.current_time()
            if not progress or now >= end:
                return worked

    def _admit_one(self, door: Door, now: float) -> bool:
        try:
            fd, peer = door.accept()
        except BlockingIOError:
            self._pending.pop(door, None)
            if door.closing:
                self._close_door(door)
            return False
        except OSError as error:
            return self._accept_failed(error, now)
        self.accepted += 1
        if door.closing and door.quota >= 0:
            self._use_quota(door)
        # Everything below is `_hand`, written out: this is where the time goes.
        policy = door.policy
        post = policy.choose(peer)
        link = self.links[post.id]
        try:
            link.line.hand_over(door.handoff, fd)
        except OSError as error:
            self._hand_failed(link, error)
            return self._hand(wire.Handoff(door.number, family=int(door.listener.socket.family)), fd, peer)
        policy.handed(post)
        self.recall.lateness.watch(post, now)
        os.close(fd)
        return True

    def _use_quota(self, door: Door) -> None:
        door.quota -= 1
        if door.quota < 0:
            self._close_door(door)

    def _accept_failed(self, error: OSError, now: float) -> bool:
        if error.errno in CONNECTION_TROUBLE:
            return True
        if error.errno not in CAPACITY_TROUBLE:
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
        for post in self.membership.takers(handoff.listener, peer):
            link = self.links[post.id]
            try:
                link.line.hand_over(message, fd)
            except OSError as error:
                self._hand_failed(link, error)
                continue
            self.membership.handed(handoff.listener, post)
            self.recall.lateness.watch(post, trio.current_time())
            os.close(fd)
            return True
        self._strays.append((handoff, fd, peer))
        self._paused_until = max(self._paused_until, trio.current_time() + RETRY)
        return False

    def _hand_failed(self, link: Link, error: OSError) -> None:
        if error.errno not in _OURS:
            self._breached(link, f"its line refuses connections ({errno.errorcode.get(error.errno or 0, error)})")

    def _has_taker(self, number: int) -> bool:
        return not self._strays and self.membership.has_taker(number)

    def _give_back(self, handoff: wire.Handoff, fd: int) -> bool:
        """A recalled connection.  It is ours whatever happens: with nobody to give it to it waits as a stray."""
        peer: Any = ""
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                peer = sock.getpeername()
        except OSError:
            pass  # the client has left meanwhile, or the table is full: only stickiness is lost
        self._hand(handoff, fd, peer)
        self._stir()
        return True

    # --- room

    def _stir(self) -> None:
        """Something changed while the loop rests: somebody has room who had none, or there is something to give."""
        self._rest.cancel()

    def _shorten(self) -> None:
        """While many stand still, little is put before those who do not: they are next."""
        short = self.recall.lateness.many(len(self.links), self._short)
        if short != self._short:
            self._short = short
            for link in self.links.values():
                link.shorten(short)
                self.membership.offer(link.post)  # who was full may have room

    def _starve(self, now: float) -> None:
        """Nobody has room: have the kernel say when a full letterbox has been emptied by half."""
        for link in self.links.values():
            post = link.post
            if not post.serving or post.suspended or post.unclaimed < post.window:
                continue
            if post.window == 1:
                self._peep_at = min(self._peep_at, now + PEEP)
            else:
                self._hearing.watch(link)

    def _emptied(self, link: Link) -> None:
        link.post.recount()
        self.membership.offer(link.post)

    def _look_again(self) -> None:
        for link in self.links.values():
            post = link.post
            if post.serving and post.unclaimed >= post.window and post.recount() < post.window:
                self.membership.offer(post)

    # --- what workers say

    def _asked(self, link: Link, wish: wire.Listen | wire.Attend) -> None:
        self.asked(link, wish)
        self._stir()

    def _settle(self, link: Link, report: wire.Report) -> None:
        link.post.settle(report)
        if link.unsaid:
            link.say_the_unsaid()
        self.recall.forgive(link.post)
        self.membership.offer(link.post)

    def _breached(self, link: Link, what: str) -> None:
        """It is not believed any more."""
        if link.breached or self.links.get(link.post.id) is not link:  # or buried meanwhile
            return
        link.breached = True
        self.breaches += 1
        self.leave_out(link)
        self._hearing.deafen(link)
        self.breach(link.post.id, what)
