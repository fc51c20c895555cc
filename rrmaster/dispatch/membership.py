"""Which workers serve which listener, and which of them can be given a connection of it now?

Each listener has a policy of its own, with the workers that serve it as members.  Load and room belong to the workers,
so what comes through one listener counts at the others.  A worker serves all listeners, also those that are opened
later, unless it has named some in its Ready.  Where no worker serves a listener, or none of those has room, its clients
wait in its own backlog, and the clients of no other listener wait with them.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import trio
from attrs import Factory, define

from ..config.settings import Settings
from ..protocol import wire
from ..rules import kernel_errors
from ..rules.kernel_errors import Cost
from ..waiting import close
from .acceptor import Acceptor
from .link import Link
from .load import NEWCOMER_S, Peer, Policy, WorkerLoad, cold_until, fair_share

FULL_POLL = 0.001
"""Seconds between looks at full letterboxes with a window of 1.  The kernel says when half a letterbox is empty; of a
single message there is no half."""

HANDOFF_RETRY = 0.010
"""Seconds to wait when no line can pass a descriptor at the moment (this user has too many in flight)."""


@define(eq=False)
class Membership:
    """The workers of all listeners, and which of them have room."""

    acceptors: list[Acceptor]
    """The accept loop's."""
    links: dict[int, Link]
    """The living workers, by id; the dispatcher's."""
    watch_room: Callable[[Link], bool]
    """Has the kernel say when a full letterbox has been emptied by half; then calls `has_emptied`."""
    short: bool = False
    """Letterboxes are kept short at present."""
    _defer: str = "off"
    """``--defer-accept``: on, off, or as the workers say."""
    _newcomers: deque[tuple[float, Policy, WorkerLoad]] = Factory(deque)
    _poll_at: float = float("inf")
    """When to look at full letterboxes with a window of 1."""
    _size: int = 0
    """How many workers the fleet is going to have."""
    _first_at: float = 0.0
    """When the first worker of the fleet began to serve, ..."""
    _cold_until: float = float("inf")
    """... and until when workers may have no more than their share; infinite, unless this is a cold start."""

    def configure(self, settings: Settings) -> None:
        """Set the options."""
        # With TLS the first bytes are no request: nothing is known that was not before, and it is not worth the wait.
        tls = settings.certfile is not None
        self._defer = "off" if settings.defer_accept == "auto" and tls else settings.defer_accept
        for acceptor in self.acceptors:
            self._defer_or_not(acceptor)

    # --- which listeners

    def add_acceptor(self, acceptor: Acceptor) -> None:
        """A new listener: the workers that serve every listener serve it from now on."""
        for link in self.links.values():
            if link.load.serving and link.listeners is None:
                self._join(link, acceptor)

    def join(self, link: Link) -> None:
        """A worker serves from now on, at each of its listeners."""
        for acceptor in self.acceptors:
            if link.serves(acceptor.number):
                self._join(link, acceptor)
        now = trio.current_time()
        if len(self._serving()) == 1:
            self._first_at, self._cold_until = now, now
        if self._cold_until < float("inf"):
            self._cold_until = cold_until(self._first_at, now)
        self._share_out(now)

    def _join(self, link: Link, acceptor: Acceptor) -> None:
        now = trio.current_time()
        if acceptor.add_worker(link.load, now, NEWCOMER_S):
            self._newcomers.append((now + NEWCOMER_S, acceptor.policy, link.load))
        self._defer_or_not(acceptor)

    def _defer_or_not(self, acceptor: Acceptor) -> None:
        """Hold silent clients back if each worker that may get them says that clients speak first, or the user does.

        A listener without workers stays as it is: those to come are mostly like those that were.
        """
        if members := acceptor.policy.members:
            speak_first = all(self.links[id_].client_first for id_ in members)
            acceptor.listener.deferral.set(self._defer == "on" or (self._defer == "auto" and speak_first))

    def leave(self, load: WorkerLoad) -> None:
        """A worker is chosen at no listener from now on."""
        for acceptor in self.acceptors:
            acceptor.policy.leave(load)
            self._defer_or_not(acceptor)

    def add_listener(self, link: Link, acceptor: Acceptor) -> None:
        """A worker serves this listener too."""
        link.add_listener(acceptor.number)
        if link.load.serving and link.load.id not in acceptor.policy.members:
            self._join(link, acceptor)

    def remove_listener(self, link: Link, acceptor: Acceptor) -> None:
        """A worker no longer serves this listener; one that serves all keeps all others that are open now."""
        served = link.listeners if link.listeners is not None else frozenset(other.number for other in self.acceptors)
        link.set_listeners(served - {acceptor.number})
        acceptor.policy.leave(link.load)
        self._defer_or_not(acceptor)

    def set_policy(self, new_policy: Callable[[], Policy]) -> None:
        """Choose by another policy from now on, at each listener."""
        for acceptor in self.acceptors:
            policy = new_policy()
            for member in acceptor.policy.members.values():
                policy.join(member.load, newcomer=False)
            acceptor.set_policy(policy)

    def acceptor(self, number: int) -> Acceptor | None:
        """The listener of this number, unless it is closed."""
        return next((acceptor for acceptor in self.acceptors if acceptor.number == number), None)

    # --- a cold start

    def expect(self, size: int) -> None:
        """The fleet is going to have this many workers."""
        self._size = size

    def _serving(self) -> list[WorkerLoad]:
        return [link.load for link in self.links.values() if link.load.serving]

    def _share_out(self, now: float) -> bool:
        """In a cold start, let each worker have its share of all that is here.  Whether one has more room now."""
        if self._cold_until == float("inf"):
            return False
        serving, share = self._serving(), None
        if now >= self._cold_until or len(serving) >= self._size:
            self._cold_until = float("inf")
        else:
            waiting = sum(acceptor.queued() or 0 for acceptor in self.acceptors)
            share = fair_share(sum(load.in_hand for load in serving), waiting, self._size)
        more = [load for load in serving if load.set_share(share)]
        for load in more:
            self.update(load)
        return bool(more)

    # --- room

    def update(self, load: WorkerLoad) -> None:
        """A worker may have room, or its load has sunk."""
        for acceptor in self.acceptors:
            acceptor.policy.update(load)

    def has_emptied(self, link: Link) -> None:
        """The kernel says that a full letterbox has been emptied by half."""
        link.load.recount()
        self.update(link.load)

    def set_short(self, short: bool) -> None:
        """Let few connections lie in letterboxes, or again as many as configured."""
        if short != self.short:
            self.short = short
            for link in self.links.values():
                link.set_short(short)
                self.update(link.load)  # a full worker may have room now

    def watch_full(self, now: float) -> None:
        """No worker has room: see to it that `update` is called when a full letterbox has been emptied by half."""
        if self._share_out(now):
            self._poll_at = now
        for link in self.links.values():
            load = link.load
            if not load.serving or load.suspended or load.unclaimed < load.window:
                continue
            if load.window == 1:
                self._poll_at = min(self._poll_at, now + FULL_POLL)
            else:
                if not self.watch_room(link):  # the kernel cannot tell, so it must be asked
                    self._poll_at = min(self._poll_at, now + FULL_POLL)

    @property
    def due(self) -> float:
        """When `tick` has something to do."""
        due = min(self._poll_at, self._cold_until)
        return min(due, self._newcomers[0][0]) if self._newcomers else due

    def tick(self, now: float) -> None:
        """Look at full letterboxes, and end a cold start and the time of newcomers, as far as that is due."""
        if now >= self._cold_until:
            self._share_out(now)
        if now >= self._poll_at:
            self._poll_at = float("inf")
            for link in self.links.values():
                load = link.load
                if load.serving and load.unclaimed >= load.window and load.recount() < load.window:
                    self.update(load)
        while self._newcomers and self._newcomers[0][0] <= now:
            _, policy, load = self._newcomers.popleft()
            policy.end_newcomer(load)

    def has_receiver(self, number: int) -> bool:
        """Whether a worker can be given a connection of this listener now."""
        acceptor = self.acceptor(number)
        return acceptor.policy.ready() if acceptor is not None else bool(self._with_room(number))

    def receivers(self, number: int, peer: Peer) -> Iterator[WorkerLoad]:
        """The worker to choose for a connection; then, should its line refuse it, the others with room."""
        acceptor = self.acceptor(number)
        first = acceptor.policy.choose(peer) if acceptor is not None and acceptor.policy.ready() else None
        if first is not None:
            yield first
        # Also where the policy would rather wait, or was closed with its listener: this connection cannot go back.
        yield from (load for load in self._with_room(number) if load is not first)

    def count_handoff(self, number: int, load: WorkerLoad) -> None:
        """One connection of this listener was handed to this worker."""
        acceptor = self.acceptor(number)
        if acceptor is not None:
            acceptor.policy.count_handoff(load)
        else:
            load.count_handoff()

    def _with_room(self, number: int) -> list[WorkerLoad]:
        found = [link.load for link in self.links.values() if link.serves(number) and link.load.has_room()]
        return sorted(found, key=lambda load: load.cost)


@define(eq=False)
class Delivery:
    """Hands over connections that the master already holds: recalled ones, and those that a line has refused."""

    membership: Membership
    watch: Callable[[WorkerLoad, float], None]
    """`StallDetector.watch`: called for each connection handed over."""
    on_breach: Callable[[Link, str], None]
    pause: Callable[[float], None]
    """Makes the accept loop wait until this time."""
    undelivered: deque[tuple[wire.Handoff, int, Peer]] = Factory(deque)
    """Connections in the master's own hands, for milliseconds, since no line can pass them at the moment.  The accept
    loop pauses meanwhile, so there is one, or as many as a recall has brought."""

    def deliver(self, handoff: wire.Handoff, fd: int, peer: Peer) -> bool:
        """Hand a connection to a worker.  It owns the descriptor, also if no worker can be given it now."""
        message = wire.encode(handoff)
        for load in self.membership.receivers(handoff.listener, peer):
            link = self.membership.links[load.id]
            try:
                link.line.hand_over(message, fd)
            except OSError as error:
                self._judge(link, error)
                continue
            self.membership.count_handoff(handoff.listener, load)
            self.watch(load, trio.current_time())
            close(fd)
            return True
        self.undelivered.append((handoff, fd, peer))
        self.pause(trio.current_time() + HANDOFF_RETRY)
        return False

    def refused(self, link: Link, error: OSError, handoff: wire.Handoff, fd: int, peer: Peer) -> bool:
        """A line has refused a connection: hand it to another worker, on the same terms as `deliver`."""
        self._judge(link, error)
        return self.deliver(handoff, fd, peer)

    def recalled(self, handoff: wire.Handoff, fd: int) -> None:
        """Hand a recalled connection to a worker, on the same terms as `deliver`."""
        peer: Any = ""
        try:
            with socket.socket(fileno=os.dup(fd)) as sock:
                peer = sock.getpeername()
        except OSError:
            pass  # the client has left, or the descriptor table is full: only stickiness is lost
        self.deliver(handoff, fd, peer)

    def retry(self) -> None:
        """Try again, in order, as long as that succeeds."""
        while self.undelivered and self.deliver(*self.undelivered.popleft()):
            pass

    def has_receiver(self, number: int) -> bool:
        """Whether a recalled connection of this listener can be handed over now."""
        return not self.undelivered and self.membership.has_receiver(number)

    def close(self) -> None:
        """Close what could not be delivered."""
        for _, fd, _ in self.undelivered:
            close(fd)
        self.undelivered.clear()

    def _judge(self, link: Link, error: OSError) -> None:
        cost = kernel_errors.HAND_OVER.cost(error.errno)
        if cost is Cost.MASTER:
            raise error
        if cost is Cost.WORKER:
            self.on_breach(link, f"its line refuses connections ({kernel_errors.name_of(error.errno)})")
