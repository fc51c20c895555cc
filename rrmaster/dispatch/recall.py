"""How a connection comes back: from a late worker's letterbox, and from a dead one's.

What was handed over and not taken is in the kernel's queue, and whoever reads it first gets it, whole, exactly once.
The master reads it with the letterbox key, only when somebody is there to give it to:

- from the *late* (something unclaimed, nothing taken for `recall_after`) one for each worker that could begin at once;
  if there is one, or when they are late for long (*stuck*), nothing more is handed to them until they report
  (*suspended*), and a Nudge in their letterbox asks for that report;
- from the *dead* everything, at once or as fast as the others have room;
- from one about to be *dismissed* what others have room for.

Without the suspension a recall would make a stuck worker the emptiest, hence the favourite.

The living are read in a thread with a second to return: a worker stalled inside its recvmsg holds the kernel's lock.
The dead are read in the loop, by copy, so that a full descriptor table destroys nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence

import trio
from attrs import Factory, define

from ..protocol.channel import DescriptorLost
from ..protocol.line import Line
from ..protocol.wire import Handoff, Listening, Nudge
from .load import Post
from .stall_detector import MAX_RECALLS, STUCK, Lateness, receivers

STALL = 1.0
"""Seconds a recall from a live worker may take; it takes microseconds, unless the worker keeps the kernel's lock."""

AGAIN = 0.1
"""Seconds after a recall that brought nothing."""

GAP = 1.0
"""Seconds by which we must wake up too late to conclude that it was us who were stopped or asleep."""


ROUNDS = 3
"""Looks into the letterbox of one that has left a listener: other listeners' connections may lie before its."""


@define(eq=False)
class Link:
    """A worker's line, with what is known of the worker."""

    post: Post
    line: Line
    listeners: frozenset[int] | None = None
    """The listeners it serves, by number; None: all."""
    breached: bool = False
    recalling: bool = False
    """A thread reads its letterbox, ..."""
    pulling: int = 0
    """... for so many connections."""
    again_at: float = 0.0
    """When to try again, after a recall that brought nothing."""
    promised: int = 0
    """How many a recall under way may bring."""
    probe_recalled: bool = False
    """The last probe was taken back unread: the worker was late."""
    lost: int = 0
    """Connections that died in its hands; known once it is buried."""
    unsaid: deque[Listening] = Factory(deque)
    """Answers for which its line had no room; as many as it may ask for at most."""

    def serves(self, number: int) -> bool:
        """Whether it serves this listener."""
        return self.listeners is None or number in self.listeners

    def answer(self, listening: Listening) -> None:
        """Answer it, when its line has room; an answer is an aside, as a nudge is."""
        self.unsaid.append(listening)
        self.say_the_unsaid()

    def say_the_unsaid(self) -> None:
        """Try again.  Called when it has reported: it may have taken something."""
        while self.unsaid and self.line.send(self.unsaid[0]):
            self.unsaid.popleft()
            self.post.asides += 1

    def shorten(self, short: bool) -> None:
        """Let little lie in its letterbox, or again as much as it is to have."""
        self.post.shorten(short)
        self.line.set_window(self.post.window)

    def shares_with(self, other: Link) -> bool:
        """Whether there may be a listener that both serve."""
        return self.listeners is None or other.listeners is None or not self.listeners.isdisjoint(other.listeners)


@define(eq=False)
class Recall:
    """Takes connections back, and has them given to others."""

    lateness: Lateness
    links: dict[int, Link]
    """The living, by id; the dispatcher's."""
    has_taker: Callable[[int], bool]
    """Whether somebody has room for a connection of this listener."""
    give: Callable[[Handoff, int], bool]
    """Hand a connection to somebody.  It owns the descriptor if it says yes."""
    breach: Callable[[Link, str], None]
    stir: Callable[[], None]
    """Have the dispatcher look again."""
    from_late: int = 0
    from_dead: int = 0
    suspensions: int = 0
    _late: dict[int, Link] = Factory(dict)
    _promised: int = 0
    """Recalls under way: so many of the idle have something coming already."""
    _graves: deque[Link] = Factory(deque)
    _reserve: int = Factory(lambda: os.open(os.devnull, os.O_RDONLY))
    """A place in the descriptor table.  Opened early, so its number is low: giving it up makes room even under a
    limit that was lowered since."""

    def judge(self, now: float) -> None:
        """Suspend who is late now.  Call it after all waiting reports are read."""
        if now - self.lateness.due > GAP:
            self.lateness.restart(now)
            return
        for post in self.lateness.late(now):
            link = self.links.get(post.id)
            if link is None:
                continue
            if post.strikes < STUCK and not self._receivers(link):
                self.lateness.watch(post, now)  # everybody is busy: so is the machine
                continue
            if not post.suspended:
                post.suspended = True
                self.suspensions += 1
                self._nudge(link)
            self._late[post.id] = link

    def _nudge(self, link: Link) -> None:
        if not link.post.aside and link.line.nudge():
            link.post.asides += 1

    def _nudge_again(self, link: Link) -> None:
        """We have read our own nudge: the worker never will."""
        link.post.asides -= 1
        if link.post.suspended and link.post.serving:
            self._nudge(link)

    def _answer_again(self, link: Link, listening: Listening) -> None:
        """We have read our own answer: the worker still waits for it."""
        link.post.asides -= 1
        link.answer(listening)

    def _receivers(self, late: Link) -> list[Link]:
        """Who could begin with one of its connections at once."""
        idle = receivers(late.post, (link.post for link in self.links.values() if link.shares_with(late)))
        return [self.links[post.id] for post in idle]

    def forgive(self, post: Post) -> None:
        """It has reported: its loop serves.  What still lies there is waited for anew."""
        self.lateness.clear(post)
        if self._late.pop(post.id, None) is not None and post.recount():
            self.lateness.watch(post, trio.current_time())

    def forget(self, post: Post) -> None:
        """It is not to be recalled from for lateness any more."""
        self.lateness.clear(post)
        self._late.pop(post.id, None)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to take back from the late, as many as others could begin with at once."""
        now = trio.current_time()
        for link in list(self._late.values()):
            if now < link.again_at or link.promised or link.recalling or link.breached or not link.post.recount():
                continue
            takers = self._receivers(link)
            count = min(len(takers) - self._promised, link.post.unclaimed)
            if count > 0:
                link.promised = count
                self._promised += count
                nursery.start_soon(self.take_back, link, count, takers, True)

    async def take_back(self, link: Link, count: int, takers: Sequence[Link], for_lateness: bool) -> None:
        """Take back up to `count` connections from a live worker, of those that `takers` can be given."""
        if link.recalling:
            return
        token = trio.lowlevel.current_trio_token()
        link.recalling, link.pulling = True, count
        try:
            with trio.move_on_after(STALL) as patience:
                await trio.to_thread.run_sync(
                    self._pull, link, count, takers, for_lateness, token, abandon_on_cancel=True, limiter=_UNLIMITED
                )
        except RuntimeError:  # no thread to be had: a process limit
            self._pulled(link, 0)
            return
        if patience.cancelled_caught:
            self.breach(link, f"its letterbox could not be read for {STALL:g} s: it keeps the kernel's lock")

    async def relieve(self, link: Link, number: int) -> None:
        """A worker that stays has left this listener: take back what it has of it, for those who serve it.

        What lies before that goes to others, too, or back to itself, behind it.
        """
        for _ in range(ROUNDS):
            if link.post.id not in self.links or link.breached or not link.post.recount():
                return
            takers = [other for other in self.links.values() if other.serves(number) and other.post.has_room()]
            room = sum(other.post.window - other.post.unclaimed for other in takers)
            if not room or number in (link.listeners or ()):
                return
            itself = [link] if link.post.serving and not link.post.suspended else []
            await self.take_back(link, min(room, link.post.unclaimed), takers + itself, False)

    def _pull(
        self, link: Link, count: int, takers: Sequence[Link], for_lateness: bool, token: trio.lowlevel.TrioToken
    ) -> None:
        """In a thread.  What is read is delivered even if nobody waits for this thread any more."""
        brought = 0
        try:
            brought = self._read_back(link, count, takers, for_lateness, token)
        finally:
            with contextlib.suppress(trio.RunFinishedError):  # the master is over
                token.run_sync_soon(self._pulled, link, brought)

    def _read_back(
        self, link: Link, count: int, takers: Sequence[Link], for_lateness: bool, token: trio.lowlevel.TrioToken
    ) -> int:
        for brought in range(count):
            if not _has_free_descriptor(link.line) or not _may_move(link.line, takers, for_lateness):
                return brought
            try:
                found = link.line.recall()
            except (DescriptorLost, OSError):
                return brought
            if found is None:
                return brought
            try:
                if isinstance(found, Nudge):
                    token.run_sync_soon(self._nudge_again, link)
                elif isinstance(found, Listening):
                    token.run_sync_soon(self._answer_again, link, found)
                else:
                    token.run_sync_soon(self._deliver, link, *found, for_lateness)
            except trio.RunFinishedError:
                if isinstance(found, tuple):
                    os.close(found[1])  # the master is over, and nobody is left to give it to
                return brought
        return count

    def _deliver(self, link: Link, handoff: Handoff, fd: int, for_lateness: bool) -> None:
        if handoff.probe:
            # Not taken in time: whoever probes sees nothing but our end closed, and is told why.
            os.close(fd)
            link.post.asides -= 1
            link.probe_recalled = True
            return
        link.post.handed -= 1
        link.post.recount()
        self.from_late += 1
        times = min(handoff.recalled + for_lateness, 255)
        self.give(Handoff(handoff.listener, times, handoff.probe, handoff.family), fd)

    def _pulled(self, link: Link, brought: int) -> None:
        """The thread has ended: nobody else reads this letterbox now."""
        link.recalling, link.pulling = False, 0
        if not brought:
            # The oldest may not move any more, or we have no descriptor: it will be so in a millisecond, too.
            link.again_at = trio.current_time() + AGAIN
        self._promised -= link.promised
        link.promised = 0
        self.exhume()
        self.stir()

    def bury(self, link: Link) -> None:
        """It is dead.  Its letterbox is kept until it is empty; then the line is closed."""
        self._late.pop(link.post.id, None)
        # What a thread may have in its hands just now is not lost.
        link.lost = max(link.post.load - link.post.recount() - link.pulling, 0)
        self._graves.append(link)
        self.exhume()

    def exhume(self) -> None:
        """Give what lies in dead workers' letterboxes to others, as far as they have room."""
        for link in list(self._graves):
            # While a thread still reads it, a copy could be of what the thread has just taken.
            if not link.recalling and self._empty(link):
                self._graves.remove(link)
                link.line.close()

    def due(self) -> float:
        """When to look again, whatever happens."""
        waiting = [link.again_at for link in self._late.values() if link.again_at > trio.current_time()]
        return min([self.lateness.due, *waiting])

    @property
    def lateness_to_mend(self) -> bool:
        """Whether there are late workers."""
        return bool(self._late)

    @property
    def unrest(self) -> bool:
        """Whether dead workers' connections still wait for somebody."""
        return bool(self._graves)

    def _empty(self, link: Link) -> bool:
        while True:
            try:
                found = self._copy(link.line)
            except DescriptorLost:
                return False
            if found is None:
                return True
            handoff, fd = found
            if handoff.probe:
                os.close(fd)
                link.line.drop_oldest()
                continue
            if not self.has_taker(handoff.listener) or not self.give(handoff, fd):
                os.close(fd)
                self._keep_reserve()
                return False
            link.line.drop_oldest()
            self.from_dead += 1
            self._keep_reserve()

    def _copy(self, line: Line) -> tuple[Handoff, int] | None:
        try:
            return line.copy_oldest()
        except DescriptorLost:
            if self._reserve < 0:
                raise
            os.close(self._reserve)
            self._reserve = -1
            return line.copy_oldest()

    def _keep_reserve(self) -> None:
        if self._reserve < 0:
            with contextlib.suppress(OSError):  # the table is still full; the next recall tries again
                self._reserve = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Close what is left: the connections in it find nobody."""
        for link in self._graves:
            link.line.close()
        self._graves.clear()
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1


_UNLIMITED = trio.CapacityLimiter(1024)
"""Recalls are few, and one that stalls must not make the others wait for its thread."""


def _has_free_descriptor(line: Line) -> bool:
    try:
        os.close(os.dup(line.fileno()))
    except OSError:
        return False
    return True


def _may_move(line: Line, takers: Sequence[Link], for_lateness: bool) -> bool:
    """Whether the oldest connection there may go, and to one of these.

    The worker may take it before we do; the next one then finds its receiver as a stray does, which is rare enough.
    """
    oldest = line.oldest()
    if not isinstance(oldest, Handoff) or oldest.probe:
        return True
    return not (for_lateness and oldest.recalled >= MAX_RECALLS) and any(t.serves(oldest.listener) for t in takers)
