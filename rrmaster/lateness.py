"""Who is late, and to whom may go what it has not taken?

*Late* is who has something unclaimed and has taken nothing for a while.  It has to be told from who is merely busy, and
from ourselves: a master that was asleep finds everybody late.

This module knows numbers.  Time is an argument; the letterbox is counted by the `Post`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import Factory, define

from .balance import Post

MAX_RECALLS = 3
"""How often a connection is taken back for lateness; then it stays where it is.  One that blocks whoever gets near it
must not walk through the whole fleet, and where everybody is late, moving on helps nobody."""

STUCK = 4
"""Judgements in a row after which a late worker counts as stuck, not slow: with twice as many runnable processes as
processors, 5 ms without a turn are everyday; 20 ms are not."""


@define(eq=False)
class Lateness:
    """Who has something unclaimed and has taken nothing for a while.

    Each worker with something unclaimed stands once in a queue, with the time by which it must have taken
    something; all wait equally long, so the queue is in order, and looking costs what is due and no more.
    """

    after: float
    """Seconds."""
    _queue: deque[tuple[float, int, Post]] = Factory(deque)
    _watched: set[Post] = Factory(set)

    def watch(self, post: Post, now: float) -> None:
        """Something was just handed to it."""
        if post not in self._watched:
            self._watched.add(post)
            self._queue.append((now + self.after, post.taken, post))

    @property
    def due(self) -> float:
        """When to look next."""
        return self._queue[0][0] if self._queue else float("inf")

    def late(self, now: float) -> list[Post]:
        """Those who are late now; they are watched no more.  Judge only after all waiting reports are read."""
        found = []
        while self._queue and self._queue[0][0] <= now:
            _, before, post = self._queue.popleft()
            self._watched.discard(post)
            if not post.serving or post.recount() == 0:
                continue
            if post.taken > before:
                post.strikes = 0
                self.watch(post, now)
            else:
                post.strikes += 1
                found.append(post)
        return found

    def restart(self, now: float) -> None:
        """We were away ourselves (stopped, asleep): everybody gets the whole time again."""
        posts = [post for _, _, post in self._queue]
        self._queue.clear()
        self._watched.clear()
        for post in posts:
            self.watch(post, now)


def receivers(late: Post, members: Iterable[Post]) -> list[Post]:
    """Who could begin one of a late worker's connections at once.

    Idle is who has room, nothing waiting, and less to do than the late one: to move a connection elsewhere only to
    wait there would be pains for nothing.  From a stuck one it is moved in any case.
    """
    return [
        post
        for post in members
        if post is not late
        and (post.load < late.load or late.strikes >= STUCK)
        and post.has_room()
        and (not post.unclaimed or not post.recount())
    ]
