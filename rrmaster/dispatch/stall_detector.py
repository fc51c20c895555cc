"""Who does not keep up, and to whom may go what it has not taken?

Two signs, one of each side of the line.  *Late* is who has something unclaimed and has taken nothing for a while: what
lies there is to be taken back.  *Suspect* (the word is that of failure detectors: Chandra and Toueg, 1996) is who was
given something and has said nothing since: most likely it has taken it, and that very connection blocks its loop.
Nothing has to be taken back, so a suspicion that is wrong costs nothing; but it comes after others until it is heard.

::

    given something ──(after)──► nothing taken: late
                         └─────► nothing heard ──(REPORT_AFTER)──► still nothing: suspect ──► a report: not any more

Both have to be told from who is merely busy, and from ourselves: a master that was asleep finds everybody late.

This module knows numbers.  Time is an argument; the letterbox is counted by the `Post`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import Factory, define

from ..protocol.wire import REPORT_AFTER
from .load import DOUBT, Post

MAX_RECALLS = 3
"""How often a connection is taken back for lateness; then it stays where it is.  One that blocks whoever gets near it
must not walk through the whole fleet, and where everybody is late, moving on helps nobody."""

STUCK = 7
"""Judgements in a row after which a late worker counts as stuck, not slow: with twice as many runnable processes as
processors, 5 ms without a turn are everyday; 20 ms are not."""

MANY, FEW = 2, 4
"""Letterboxes are kept short from one suspect in so many workers on, and until there is less than one in so many."""


@define(eq=False)
class Lateness:
    """Who has taken nothing of what it was given for a while, and who has said nothing.

    Each worker that was given something stands once in a queue, with the time by which it must have taken
    something; all wait equally long, so the queue is in order, and looking costs what is due and no more.
    """

    after: float
    """Seconds."""
    suspects: set[Post] = Factory(set)
    """Those among the living; each has its `Post.doubt`."""
    _queue: deque[tuple[float, int, int, Post]] = Factory(deque)
    """When to look, and how many it had taken and said when it was given something."""
    _watched: set[Post] = Factory(set)
    _unheard: deque[tuple[float, int, Post]] = Factory(deque)
    """Who had said nothing by then, when it has to have done so, and how often it had been heard."""

    def watch(self, post: Post, now: float) -> None:
        """Something was just handed to it."""
        if post not in self._watched:
            self._watched.add(post)
            self._queue.append((now + self.after, post.taken, post.heard, post))

    @property
    def due(self) -> float:
        """When to look next."""
        due = self._queue[0][0] if self._queue else float("inf")
        return min(due, self._unheard[0][0]) if self._unheard else due

    def late(self, now: float) -> list[Post]:
        """Those who are late now; they are watched no more.  Judge only after all waiting reports are read."""
        self._suspect(now)
        found = []
        while self._queue and self._queue[0][0] <= now:
            _, before, heard, post = self._queue.popleft()
            self._watched.discard(post)
            if not post.serving:
                continue
            if post.heard == heard and not post.doubt:
                self._unheard.append((now + REPORT_AFTER, heard, post))
            if not post.unclaimed or post.recount() == 0:
                continue
            if post.taken > before:
                post.strikes = 0
                self.watch(post, now)
            else:
                post.strikes += 1
                found.append(post)
        return found

    def _suspect(self, now: float) -> None:
        while self._unheard and self._unheard[0][0] <= now:
            _, heard, post = self._unheard.popleft()
            if post.serving and post.heard == heard:
                post.doubt = DOUBT
                self.suspects.add(post)

    def clear(self, post: Post) -> None:
        """It has been heard, or is given nothing any more."""
        self.suspects.discard(post)

    def many(self, workers: int, already: bool) -> bool:
        """Whether so many of the workers are suspect that letterboxes are to be kept short; or are already."""
        return bool(self.suspects) and len(self.suspects) * (FEW if already else MANY) >= workers

    def restart(self, now: float) -> None:
        """We were away ourselves (stopped, asleep): everybody gets the whole time again."""
        posts = [post for *_, post in self._queue]
        self._queue.clear()
        self._unheard.clear()
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
        and not post.doubt
        and (post.load < late.load or late.strikes >= STUCK)
        and post.has_room()
        and (not post.unclaimed or not post.recount())
    ]
