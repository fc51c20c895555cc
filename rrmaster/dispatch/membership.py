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

from .acceptor import Door
from .load import NEWCOMER_S, Peer, Policy, Post
from .recall import Link


@define(eq=False)
class Membership:
    """The workers of all listeners."""

    doors: list[Door]
    links: dict[int, Link]
    """The living, by id; these two are the dispatcher's."""
    _newcomers: deque[tuple[float, Policy, Post]] = Factory(deque)

    def fill(self, door: Door) -> None:
        """A new listener: all who serve every listener serve it from now on."""
        for link in self.links.values():
            if link.post.serving and link.listeners is None:
                self._join(link, door)

    def join(self, link: Link) -> None:
        """A worker serves from now on, the listeners that it serves."""
        for door in self.doors:
            if link.serves(door.number):
                self._join(link, door)

    def _join(self, link: Link, door: Door) -> None:
        now = trio.current_time()
        if not door.policy.members:
            door.served_since = now
        newcomer = now - door.served_since >= NEWCOMER_S
        door.policy.join(link.post, newcomer)
        if newcomer:
            self._newcomers.append((now + NEWCOMER_S, door.policy, link.post))

    def leave(self, post: Post) -> None:
        """It serves nobody any more."""
        for door in self.doors:
            door.policy.leave(post)

    def enter(self, link: Link, door: Door) -> None:
        """A worker serves this listener too."""
        if link.listeners is not None:
            link.listeners |= {door.number}
        if link.post.serving and link.post.id not in door.policy.members:
            self._join(link, door)

    def quit(self, link: Link, door: Door) -> None:
        """A worker serves this listener no more; of one that serves all, all others are left."""
        served = link.listeners if link.listeners is not None else frozenset(door.number for door in self.doors)
        link.listeners = served - {door.number}
        door.policy.leave(link.post)

    def offer(self, post: Post) -> None:
        """It may have room again."""
        for door in self.doors:
            door.policy.offer(post)

    def adopt(self, new_policy: Callable[[], Policy]) -> None:
        """Choose by another policy from now on."""
        for door in self.doors:
            policy = new_policy()
            for seat in door.policy.members.values():
                policy.join(seat.post, newcomer=False)
            door.policy = policy

    @property
    def due(self) -> float:
        """When the next newcomer's time as one is over."""
        return self._newcomers[0][0] if self._newcomers else float("inf")

    def mature(self, now: float) -> None:
        """Those whose time as newcomers is over get as many as the others."""
        while self._newcomers and self._newcomers[0][0] <= now:
            _, policy, post = self._newcomers.popleft()
            policy.mature(post)

    def has_taker(self, number: int) -> bool:
        """Whether somebody is to be given a connection of this listener now."""
        door = self.door(number)
        return door.policy.ready() if door is not None else bool(self._roomy(number))

    def takers(self, number: int, peer: Peer) -> Iterator[Post]:
        """The one to choose for it; then, should that not work, whoever else has room."""
        door = self.door(number)
        first = door.policy.choose(peer) if door is not None and door.policy.ready() else None
        if first is not None:
            yield first
        # Also where the policy would rather wait, or was closed with its listener: this connection cannot go back.
        yield from (post for post in self._roomy(number) if post is not first)

    def handed(self, number: int, post: Post) -> None:
        """It was given one."""
        door = self.door(number)
        if door is not None:
            door.policy.handed(post)
        else:
            post.handed += 1
            post.unclaimed += 1

    def door(self, number: int) -> Door | None:
        """The listener of this number, unless it is closed."""
        return next((door for door in self.doors if door.number == number), None)

    def _roomy(self, number: int) -> list[Post]:
        roomy = [link.post for link in self.links.values() if link.serves(number) and link.post.has_room()]
        return sorted(roomy, key=lambda post: post.burden)
