"""How does a connection come back from the letterbox of a late worker, or of a dead one?

What was handed over and not taken is in the kernel's queue, and the process that reads it first gets it, whole, exactly
once.  The master reads it with the letterbox key, and only while another worker can be given it:

- from a *late* worker (something unclaimed, nothing taken for `recall_after`) one connection for each worker that could
  begin at once.  If there is such a worker, or if the late one stays late (*stuck*), nothing more is handed to it until
  it reports (*suspended*), and a Nudge in its letterbox asks for that report;
- from a *dead* worker everything, at once or as fast as the others have room;
- from a worker about to be *dismissed* what others have room for.

Without the suspension a recall would make a stuck worker the emptiest, and so the first choice.

The letterbox of a live worker is read in a thread that has a second to return: a worker stalled inside its recvmsg
holds the kernel's lock on the socket.  That of a dead worker is read in the loop, by copy, so that a full descriptor
table destroys nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import trio
from attrs import Factory, define, evolve

from ..protocol.channel import DescriptorLost
from ..protocol.line import Line
from ..protocol.wire import Handoff, Lane, Listening, Nudge
from ..verdicts.hearing import CLOCK_GAP, Overdue, in_fair_time, with_evidence
from ..waiting import close
from .link import Link
from .load import WorkerLoad
from .stall_detector import MAX_RECALLS, STUCK, StallDetector, idle_receivers

RECALL_TIMEOUT = 1.0
"""Seconds a recall from a live worker may take; it takes microseconds, unless the worker keeps the kernel's lock.
Seconds in which the worker and this process had a processor: on a starved machine the thread itself comes late."""

RETRY_EMPTY = 0.1
"""Seconds until the next try, after a recall that brought nothing."""

LISTENER_RECALLS = 3
"""Recalls from a worker that has left a listener: connections of other listeners may lie before those of this one."""

_UNLIMITED = trio.CapacityLimiter(1024)
"""Recalls are few, and one that stalls must not keep the others from getting a thread."""


@define(eq=False)
class Recall:
    """Takes connections back from letterboxes, and has them handed to other workers."""

    stall_detector: StallDetector
    links: dict[int, Link]
    """The living workers, by id; the dispatcher's."""
    has_receiver: Callable[[int], bool]
    """Whether a worker has room for a connection of this listener."""
    redeliver: Callable[[Handoff, int], None]
    """Hands a connection to another worker.  It owns the descriptor from then on."""
    on_breach: Callable[[Link, str], None]
    wake: Callable[[], None]
    """Makes the dispatcher look again."""
    new_lane: Callable[[Link], None] = lambda link: None
    """Gives a worker another lane to the idle pool."""
    from_late: int = 0
    from_dead: int = 0
    suspensions: int = 0
    late: dict[int, Link] = Factory(dict)
    """The late workers, by id; the dispatcher looks here in each turn, and hardly ever finds one."""
    _promised: dict[Link, int] = Factory(dict)
    """Connections that the recalls under way may bring, by late worker: one idle worker for each is spoken for."""
    _retry_at: dict[Link, float] = Factory(dict)
    """When to try again, after a recall that brought nothing."""
    dead: deque[Link] = Factory(deque)
    """Dead workers whose letterboxes still hold something, in the order of their deaths."""
    _reserve: int = Factory(lambda: os.open(os.devnull, os.O_RDONLY))
    """A place in the descriptor table.  Opened early, so its number is low: giving it up makes room even under a
    limit that was lowered since."""

    # --- from late workers

    def suspend_late(self, now: float) -> None:
        """Suspend the workers that are late now.  Call it after all waiting reports are read."""
        if now - self.stall_detector.due > CLOCK_GAP:
            self.stall_detector.restart(now)
            return
        for load in self.stall_detector.late(now):
            link = self.links.get(load.id)
            if link is None:
                continue
            if load.late_in_a_row < STUCK and not self._receivers(link):
                self.stall_detector.watch(load, now)  # all are busy: the machine is, not this worker
                continue
            if not load.suspended:
                load.suspend()
                self.suspensions += 1
                link.nudge()
            self.late[load.id] = link

    def _receivers(self, late: Link) -> list[Link]:
        """The workers that could begin with one of its connections at once."""
        idle = idle_receivers(late.load, (link.load for link in self.links.values() if link.shares_listener_with(late)))
        return [self.links[load.id] for load in idle]

    def reported(self, load: WorkerLoad) -> None:
        """A worker has reported: its loop serves.  What still lies in its letterbox is waited for anew."""
        self.stall_detector.clear(load)
        if self.late.pop(load.id, None) is not None and load.recount():
            self.stall_detector.watch(load, trio.current_time())

    def forget(self, load: WorkerLoad) -> None:
        """Recall nothing more from this worker for lateness."""
        self.stall_detector.clear(load)
        self.late.pop(load.id, None)

    def start(self, nursery: trio.Nursery) -> None:
        """Begin to take back from late workers, as much as others could begin with at once."""
        now = trio.current_time()
        for link in list(self.late.values()):
            if now < self._retry_at.get(link, 0.0) or link in self._promised or link.recalling:
                continue
            if link.breached or not link.load.recount():
                continue
            receivers = self._receivers(link)
            count = min(len(receivers) - sum(self._promised.values()), link.load.unclaimed)
            if count > 0:
                self._promised[link] = count
                nursery.start_soon(self.take_back, link, count, receivers, True)

    # --- from any live worker

    async def take_back(self, link: Link, count: int, receivers: Sequence[Link], for_lateness: bool) -> None:
        """Take up to `count` connections back from a live worker, of those that `receivers` can be given."""
        if link.recalling:
            return
        token = trio.lowlevel.current_trio_token()
        link.set_recalling(count)
        try:
            read = partial(self._recall_in_thread, link, count, receivers, for_lateness, token)
            in_thread = partial(trio.to_thread.run_sync, read, abandon_on_cancel=True, limiter=_UNLIMITED)
            await in_fair_time(RECALL_TIMEOUT, lambda: link.pids, f"a recall from worker {link.load.slot}", in_thread)
        except RuntimeError:  # no thread can be started: a process limit
            self._recall_ended(link, 0)
        except Overdue as overdue:
            # If the thread lives on, as `link.recalling` says, only the worker's death makes its recvmsg return.
            if link.recalling:
                what = f"its letterbox could not be read for {RECALL_TIMEOUT:g} s: it keeps the kernel's lock"
                self.on_breach(link, with_evidence(what, overdue))

    async def recall_for_others(self, link: Link) -> None:
        """Take back what others have room for, from a worker that is dismissed."""
        if link.load.recount():
            receivers = [o for o in self.links.values() if o.load.has_room() and o.shares_listener_with(link)]
            room = sum(other.load.window - other.load.unclaimed for other in receivers)
            if room:
                await self.take_back(link, min(room, link.load.unclaimed), receivers, False)

    async def recall_listener(self, link: Link, number: int) -> None:
        """Take back what a worker that stays has of a listener it has left, for the workers that serve it.

        What lies before those connections goes to others, too, or back to the worker itself, behind them.
        """
        for _ in range(LISTENER_RECALLS):
            if link.load.id not in self.links or link.breached or not link.load.recount():
                return
            receivers = [other for other in self.links.values() if other.serves(number) and other.load.has_room()]
            room = sum(other.load.window - other.load.unclaimed for other in receivers)
            if not room or number in (link.listeners or ()):
                return
            itself = [link] if link.load.serving and not link.load.suspended else []
            await self.take_back(link, min(room, link.load.unclaimed), receivers + itself, False)

    def _recall_in_thread(
        self, link: Link, count: int, receivers: Sequence[Link], for_lateness: bool, token: trio.lowlevel.TrioToken
    ) -> None:
        """In a thread.  What is read is delivered even if the task has given up waiting for this thread."""
        brought = 0
        try:
            brought = self._read_back(link, count, receivers, for_lateness, token)
        finally:
            with contextlib.suppress(trio.RunFinishedError):  # the master has ended
                token.run_sync_soon(self._recall_ended, link, brought)

    def _read_back(
        self, link: Link, count: int, receivers: Sequence[Link], for_lateness: bool, token: trio.lowlevel.TrioToken
    ) -> int:
        """In a thread: read message after message, and pass each to the loop at once.  How many were read."""
        for brought in range(count):
            # A read without a free descriptor would make the kernel close the connection: check before, not after.
            if not _has_free_descriptor(link.line) or not _may_move(link.line, receivers, for_lateness):
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
                elif isinstance(found, Lane):
                    token.run_sync_soon(self._lane_again, link)
                elif isinstance(found, Listening):
                    token.run_sync_soon(self._answer_again, link, found)
                else:
                    token.run_sync_soon(self._deliver, link, *found, for_lateness)
            except trio.RunFinishedError:
                if isinstance(found, tuple):
                    close(found[1])  # the master has ended, and no worker is left that could be given it
                return brought
        return count

    def _nudge_again(self, link: Link) -> None:
        """The master has read its own nudge: the worker never will."""
        link.load.count_asides(-1)
        if link.load.suspended and link.load.serving:
            link.nudge()

    def _answer_again(self, link: Link, listening: Listening) -> None:
        """The master has read its own answer: the worker still waits for it."""
        link.load.count_asides(-1)
        link.answer(listening)

    def _lane_again(self, link: Link) -> None:
        """The master has read its own message with a lane, which is closed: the worker gets another one."""
        link.load.count_asides(-1)
        self.new_lane(link)

    def _deliver(self, link: Link, handoff: Handoff, fd: int, for_lateness: bool) -> None:
        if handoff.probe:
            # Not taken in time.  The health check sees only that this end is closed, and `probe_recalled` says why.
            close(fd)
            link.probe_came_back()
            return
        link.load.count_recall()
        self.from_late += 1
        times = min(handoff.recalled + for_lateness, 255)  # one byte in the handoff
        self.redeliver(evolve(handoff, recalled=times), fd)

    def _recall_ended(self, link: Link, brought: int) -> None:
        """The thread has ended: it no longer reads this letterbox."""
        link.set_recalling(0)
        if not brought:
            # The oldest may not move again, or there is no free descriptor: that holds in a millisecond, too.
            self._retry_at[link] = trio.current_time() + RETRY_EMPTY
        self._promised.pop(link, None)
        self.recall_dead()
        self.wake()

    # --- from dead workers

    def add_dead(self, link: Link) -> None:
        """A worker has died.  Its letterbox is kept until it is empty; then the line is closed."""
        self.late.pop(link.load.id, None)
        link.count_lost()
        self.dead.append(link)
        self.recall_dead()

    def recall_dead(self) -> None:
        """Hand what lies in dead workers' letterboxes to others, as far as they have room."""
        for link in list(self.dead):
            # While a thread still reads it, a copy could be of what the thread has just taken.
            if not link.recalling and self._empty(link.load, link.line):
                self.dead.remove(link)
                self._retry_at.pop(link, None)
                link.emptied()

    def _empty(self, load: WorkerLoad, line: Line) -> bool:
        """Empty a dead worker's letterbox.  False if something is left there, for want of room or of a descriptor."""
        while True:
            try:
                found = self._copy_oldest(line)
            except DescriptorLost:
                return False
            if found is None:
                return True
            handoff, fd = found
            if handoff.probe:
                close(fd)
                line.drop_oldest()
                continue
            if not self.has_receiver(handoff.listener):
                close(fd)  # the copy; the connection itself stays in the letterbox
                self._reopen_reserve()
                return False
            self.redeliver(handoff, fd)
            line.drop_oldest()
            load.count_recall()
            self.from_dead += 1
            self._reopen_reserve()

    def _copy_oldest(self, line: Line) -> tuple[Handoff, int] | None:
        try:
            return line.copy_oldest()
        except DescriptorLost:
            if self._reserve < 0:
                raise
            close(self._reserve)
            self._reserve = -1
            return line.copy_oldest()

    def _reopen_reserve(self) -> None:
        if self._reserve < 0:
            with contextlib.suppress(OSError):  # the table is still full; the next recall tries again
                self._reserve = os.open(os.devnull, os.O_RDONLY)

    # --- what the dispatcher asks

    def due(self) -> float:
        """When to look again at the latest."""
        due = self.stall_detector.due
        if self.late:  # asked for in each turn, and hardly ever true
            retries, now = [self._retry_at.get(link, 0.0) for link in self.late.values()], trio.current_time()
            due = min([due, *(at for at in retries if at > now)])
        return due

    def close(self) -> None:
        """Close what is left: the kernel closes the connections in it."""
        while self.dead:
            self.dead.popleft().emptied()
        if self._reserve >= 0:
            close(self._reserve)
            self._reserve = -1


def _has_free_descriptor(line: Line) -> bool:
    try:
        os.close(os.dup(line.fileno()))
    except OSError:
        return False
    return True


def _may_move(line: Line, receivers: Sequence[Link], for_lateness: bool) -> bool:
    """Whether the oldest connection there may go, and to one of these.

    The worker may take it between this look and the read, which then finds the next one; without a receiver it waits.
    """
    oldest = line.oldest()
    if not isinstance(oldest, Handoff) or oldest.probe:
        return True
    if for_lateness and oldest.recalled >= MAX_RECALLS:
        return False
    return any(receiver.serves(oldest.listener) for receiver in receivers)
