"""How are connections accepted, and handed to the worker that the listener's policy chooses?

This is the hot path: for one connection it awaits nothing, starts no timer, and calls no function it can do without.
A connection's descriptor is in the master from accept to sendmsg, and closed right after.  It is never registered
anywhere: epoll keeps firing for a descriptor that is closed here and alive elsewhere.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from time import monotonic

import trio
from attrs import Factory, define

from ..logs.log import logger
from ..protocol import wire
from ..rules import kernel_errors
from ..rules.kernel_errors import Cost
from ..waiting import unwatch
from .link import Link
from .listeners import ACCEPT_PAUSE, BindError, Listener
from .load import Peer, Policy, WorkerLoad

_TCP_INFO_QUEUED = struct.Struct("=24xI")
"""tcpi_unacked of a listening socket: how many connections wait in its backlog."""

EXTRA = 7
"""Connections accepted on top of the one, from a listener that alone has some, between two looks at the clock."""


@define(eq=False)
class Acceptor:
    """A listener as the hot path sees it, with the policy over the workers that serve it."""

    number: int
    listener: Listener
    policy: Policy
    accept: Callable[[], tuple[int, Peer]]
    """Returns a bare descriptor.  `socket.accept` would make an object of it that lives for 10 us: a fifth of all
    that a connection costs here."""
    handoff: bytes
    """The message that goes with each of its connections, encoded once, without the time at its end."""
    served_since: float = float("inf")
    """When the first of the workers that serve it now, or served it last, began."""
    draining: bool = False
    """What waits is still accepted, then the listener is closed."""
    quota: int = -1
    """How many connections may still be accepted; -1: any number."""

    @classmethod
    def of(cls, number: int, listener: Listener, policy: Policy) -> Acceptor:
        """The acceptor of a listener.  The listener keeps the descriptor; `AcceptLoop.close` closes it."""
        handoff = wire.Handoff(number, family=int(listener.socket.family))
        return cls(number, listener, policy, listener.socket._accept, wire.encode(handoff)[:-4])  # type: ignore[attr-defined]

    def handoff_at(self, accepted_at: int) -> wire.Handoff:
        """The message that goes with a connection accepted then."""
        return wire.Handoff(self.number, family=int(self.listener.socket.family), accepted_at=accepted_at)

    def fileno(self) -> int:
        """Readable when a connection waits."""
        return self.listener.socket.fileno()

    def queued(self) -> int | None:
        """How many connections wait in the backlog; None where the kernel does not say (unix sockets)."""
        if self.listener.socket.family == socket.AF_UNIX:
            return None
        info = self.listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_QUEUED.size)
        return int(_TCP_INFO_QUEUED.unpack(info)[0])

    def drain(self) -> None:
        """Accept until none waits.  Where new clients cannot be kept out: what waits now, and at most one that comes
        later; and where that number is unknown, until none waits all the same."""
        queued = None if self.listener.let_no_more_in() else self.queued()
        self.quota = -1 if queued is None else queued
        self.draining = True

    def use_quota(self) -> bool:
        """One was accepted while draining.  Whether more may be."""
        if self.quota >= 0:
            self.quota -= 1
            return self.quota >= 0
        return True

    def set_policy(self, policy: Policy) -> None:
        """Choose by this policy, which has the same members."""
        self.policy = policy

    def add_worker(self, load: WorkerLoad, now: float, newcomer_after: float) -> bool:
        """A worker serves this listener.  Whether it is a newcomer: others have for `newcomer_after` seconds.

        Raises BindError if the listener was to begin now, and another program has its address.
        """
        self.listener.begin()
        if not self.policy.members:
            self.served_since = now
        newcomer = now - self.served_since >= newcomer_after
        self.policy.join(load, newcomer)
        return newcomer


MAX_FAILURES = 1000
"""Connections a second that may fail to be accepted before the listener rests; some 10 ms of processor time.  A
connection that a security module refuses may stay in the backlog, and be refused again at each accept."""


@define(eq=False)
class AcceptLoop:
    """Accepts from all listeners in turn.  It owns the acceptors, and closes their listeners.

    It holds no connection between two calls of `accept`.
    """

    links: dict[int, Link]
    """The living workers, by id; the dispatcher's."""
    epoll: select.epoll
    """Where the listeners are registered; the dispatcher's."""
    watch: Callable[[WorkerLoad, float], None]
    """`StallDetector.watch`: called for each connection handed over."""
    on_refused: Callable[[Link, OSError, wire.Handoff, int, Peer], bool]
    """Called when a worker's line refuses a connection.  It owns the descriptor; whether another worker got it."""
    on_full: Callable[[float], None]
    """Called with the time when connections wait and no worker has room for them."""
    acceptors: list[Acceptor]
    """The open listeners; others read this list."""
    accepted: int = 0
    opened: int = 0
    """How many listeners there have ever been; the number of the next one."""
    pending: dict[Acceptor, None] = Factory(dict)
    """Acceptors at which a connection may wait: epoll said so, and accept has not yet denied it."""
    paused_until: float = 0.0
    closed: trio.Event = Factory(trio.Event)
    """Set when the last listener has been closed."""
    _by_fd: dict[int, Acceptor] = Factory(dict)
    _failing_since: float = float("-inf")
    _failures: int = 0
    """Connections that could not be accepted since then."""

    # --- which listeners

    def open(self, listener: Listener, policy: Policy) -> Acceptor:
        """Accept from this listener from now on.  Raises BindError, and then the listener stays the caller's."""
        acceptor = Acceptor.of(self.opened, listener, policy)
        try:
            # Edge-triggered: while no worker has room the event needs no taking back and putting in again.
            self.epoll.register(acceptor.fileno(), select.EPOLLIN | select.EPOLLET)
        except OSError as error:
            raise BindError(f"{listener.name} cannot be watched: {error.strerror}", error.errno) from None
        self.opened += 1
        if not self.acceptors and self.closed.is_set():
            self.closed = trio.Event()
        self.acceptors.append(acceptor)
        self._by_fd[acceptor.fileno()] = acceptor
        self.pending[acceptor] = None  # what came before the registration makes no edge
        return acceptor

    def drain(self, acceptor: Acceptor) -> None:
        """Accept what waits at this listener, then close it."""
        acceptor.drain()
        self.pending[acceptor] = None  # so that an empty backlog is noticed at once

    def drain_all(self) -> None:
        """Drain each listener; close at once those that no worker serves: no worker could be given what waits."""
        for acceptor in list(self.acceptors):
            if acceptor.policy.members:
                self.drain(acceptor)
            else:
                self.close(acceptor)

    def close_all(self) -> None:
        """Close each listener, whatever waits there."""
        for acceptor in list(self.acceptors):
            self.close(acceptor)

    def close(self, acceptor: Acceptor) -> None:
        """Close this listener; the kernel resets what still waits there."""
        unwatch(self.epoll, acceptor.fileno())
        del self._by_fd[acceptor.fileno()]
        self.acceptors.remove(acceptor)
        self.pending.pop(acceptor, None)
        acceptor.listener.close()
        if not self.acceptors:
            self.closed.set()

    def pause(self, until: float) -> None:
        """Accept nothing before this time."""
        self.paused_until = max(self.paused_until, until)

    # --- accept, choose, hand over

    # One function, since each call more would be paid by each connection.
    def accept(self, events: list[tuple[int, int]], now: float, end: float) -> bool:  # noqa: C901
        """Accept from each listener in turn, one at a time, so that none starves.  Whether anything was done.

        `events` come from the epoll; those of other descriptors are ignored.
        """
        for fd, _ in events:
            if (acceptor := self._by_fd.get(fd)) is not None:
                self.pending[acceptor] = None
        if not self.pending or now < self.paused_until:
            return False
        worked = False
        while True:
            progress = False
            for acceptor in tuple(self.pending):
                if not acceptor.policy.ready():
                    self.on_full(now)
                elif self._accept_one(acceptor, now):
                    progress = worked = True
                    for _ in range(EXTRA if len(self.pending) == 1 else 0):
                        if acceptor not in self.pending:
                            break
                        if not (acceptor.policy.ready() and self._accept_one(acceptor, now)):
                            break
                if now < self.paused_until:
                    return worked
            if not self.pending:
                return worked  # as nearly always: each has denied that another connection waits
            now = trio.current_time()
            if not progress or now >= end:
                return worked

    def _accept_one(self, acceptor: Acceptor, now: float) -> bool:
        """Accept one connection and hand it over; call it only when the policy is ready."""
        try:
            fd, peer = acceptor.accept()
        except BlockingIOError:
            # Only this denies the edge that epoll has reported; the next connection makes a new one.
            self.pending.pop(acceptor, None)
            if acceptor.draining:
                self.close(acceptor)
            return False
        except OSError as error:
            return self._accept_failed(error, now)
        self.accepted += 1
        if acceptor.draining and not acceptor.use_quota():
            self.close(acceptor)
        # Everything below is what `Delivery.deliver` does, written out: this is where the time goes.
        policy, accepted_at = acceptor.policy, int(monotonic() * 1e6) & 0xFFFFFFFF  # `clock_us`, without the call
        load = policy.choose(peer)
        link = self.links[load.id]
        try:
            link.line.hand_over(acceptor.handoff + wire.pack_time(accepted_at), fd)
        except OSError as error:
            return self.on_refused(link, error, acceptor.handoff_at(accepted_at), fd, peer)
        policy.count_handoff(load)
        self.watch(load, now)
        try:
            os.close(fd)  # the copy in the letterbox keeps the connection open
        except OSError as error:
            if kernel_errors.CLOSE.cost(error.errno) is Cost.MASTER:
                raise
        return True

    def _accept_failed(self, error: OSError, now: float) -> bool:
        cost = kernel_errors.ACCEPT.cost(error.errno)
        if cost is Cost.MASTER:
            raise error
        if cost is Cost.CONNECTION and self._may_fail_again(now):
            return True
        if now - self.paused_until > 1.0:  # one message for a row of pauses
            name = kernel_errors.name_of(error.errno)
            text = "cannot accept: %s (%s); connections wait in the backlog until that works again"
            logger.error(text, error.strerror, name)
        self.pause(now + ACCEPT_PAUSE)
        return False

    def _may_fail_again(self, now: float) -> bool:
        """Whether another accept may be tried at once: an error that repeats for each call would spin."""
        if now - self._failing_since > 1.0:
            self._failing_since, self._failures = now, 0
        self._failures += 1
        return self._failures <= MAX_FAILURES
