"""Who serves which listener, and who can be given a connection of it now?

Each listener has a policy of its own, with the workers that serve it as members; load and room are the workers', so
what comes through one listener counts at the others.  A worker serves all listeners, also those that are opened later,
unless it has named some in its Ready.  Where nobody serves a listener, or nobody who does has room, its clients wait
in its own backlog, and no other listener's with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import trio
from attrs import Factory, define

from .acceptor import Acceptor
from .load import NEWCOMER_S, Peer, Policy, WorkerLoad
from .recall import Link


@define(eq=False)
class Membership:
    """The workers of all listeners."""

    acceptors: list[Acceptor]
    links: dict[int, Link]
    """The living, by id; these two are the dispatcher's."""
    _newcomers: deque[tuple[float, Policy, WorkerLoad]] = Factory(deque)

    def fill(self, acceptor: Acceptor) -> None:
        """A new listener: all who serve every listener serve it from now on."""
        for link in self.links.values():
            if link.load.serving and link.listeners is None:
                self._join(link, acceptor)

    def join(self, link: Link) -> None:
        """A worker serves from now on, the listeners that it serves."""
        for acceptor in self.acceptors:
            if link.serves(acceptor.number):
                self._join(link, acceptor)

    def _join(self, link: Link, acceptor: Acceptor) -> None:
        now = trio.current_time()
        if not acceptor.policy.members:
            acceptor.served_since = now
        newcomer = now - acceptor.served_since >= NEWCOMER_S
        acceptor.policy.join(link.load, newcomer)
        if newcomer:
            self._newcomers.append((now + NEWCOMER_S, acceptor.policy, link.load))

    def leave(self, load: WorkerLoad) -> None:
        """It serves nobody any more."""
        for acceptor in self.acceptors:
            acceptor.policy.leave(load)

    def enter(self, link: Link, acceptor: Acceptor) -> None:
        """A worker serves this listener too."""
        if link.listeners is not None:
            link.listeners |= {acceptor.number}
        if link.load.serving and link.load.id not in acceptor.policy.members:
            self._join(link, acceptor)

    def quit(self, link: Link, acceptor: Acceptor) -> None:
        """A worker serves this listener no more; of one that serves all, all others are left."""
        served = (
            link.listeners if link.listeners is not None else frozenset(acceptor.number for acceptor in self.acceptors)
        )
        link.listeners = served - {acceptor.number}
        acceptor.policy.leave(link.load)

    def update(self, load: WorkerLoad) -> None:
        """It may have room again."""
        for acceptor in self.acceptors:
            acceptor.policy.update(load)

    def set_policy(self, new_policy: Callable[[], Policy]) -> None:
        """Choose by another policy from now on."""
        for acceptor in self.acceptors:
            policy = new_policy()
            for member in acceptor.policy.members.values():
                policy.join(member.load, newcomer=False)
            acceptor.policy = policy

    @property
    def due(self) -> float:
        """When the next newcomer's time as one is over."""
        return self._newcomers[0][0] if self._newcomers else float("inf")

    def end_newcomer(self, now: float) -> None:
        """Those whose time as newcomers is over get as many as the others."""
        while self._newcomers and self._newcomers[0][0] <= now:
            _, policy, load = self._newcomers.popleft()
            policy.end_newcomer(load)

    def has_taker(self, number: int) -> bool:
        """Whether somebody is to be given a connection of this listener now."""
        acceptor = self.acceptor(number)
        return acceptor.policy.ready() if acceptor is not None else bool(self._roomy(number))

    def takers(self, number: int, peer: Peer) -> Iterator[WorkerLoad]:
        """The one to choose for it; then, should that not work, whoever else has room."""
        acceptor = self.acceptor(number)
        first = acceptor.policy.choose(peer) if acceptor is not None and acceptor.policy.ready() else None
        if first is not None:
            yield first
        # Also where the policy would rather wait, or was closed with its listener: this connection cannot go back.
        yield from (load for load in self._roomy(number) if load is not first)

    def count_handoff(self, number: int, load: WorkerLoad) -> None:
        """It was given one."""
        acceptor = self.acceptor(number)
        if acceptor is not None:
            acceptor.policy.count_handoff(load)
        else:
            load.handed += 1
            load.unclaimed += 1

    def acceptor(self, number: int) -> Acceptor | None:
        """The listener of this number, unless it is closed."""
        return next((acceptor for acceptor in self.acceptors if acceptor.number == number), None)

    def _roomy(self, number: int) -> list[WorkerLoad]:
        roomy = [link.load for link in self.links.values() if link.serves(number) and link.load.has_room()]
        return sorted(roomy, key=lambda load: load.cost)
