"""How much of the master's time may the workers' messages take?

A message of 60 KiB takes up to 5 ms to decode, as long as 200 connections take to be handed over, and a worker can send
such messages without a pause.  So the time is measured, and not the number of messages: all workers together get a
share of the master's time, in turns.  What is not read stays in the kernel, where a few hundred small messages
have room, or three of the largest; then ``await me.send(...)`` waits.  That is no breach: a worker with much to say is
slowed down, and the others with it, but no connection is.  The log says so, and which worker took the most time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio
from attrs import Factory, define, field

from ..logs.log import logger

SHARE = 0.25
"""The part of the master's time that messages may take while they keep coming.  A small one takes 10 us with its event:
25,000 a second, where the busiest fleet that was measured had 5,000."""

BURST_S = 0.05
"""Seconds of reading that are saved up while there is little to read: some 5,000 small messages come without a wait."""

TURN_S = 0.001
"""Seconds of reading after which another worker has its turn.  The last message read may take longer by itself."""

SHORT_S = 1.0
"""Seconds after which the log says that messages wait: longer than a burst."""

GAP_S = 0.25
"""Seconds in which no message has waited, and after which those that do are another burst."""

SAY_AGAIN_S = 60.0
"""Seconds between two such lines."""


@define(eq=False)
class ReadingTime:
    """One for all workers.  Its methods are called in the master's loop."""

    clock: Callable[[], float] = time.perf_counter
    """Not the processor time of this thread: where the master must wait for a processor in the middle of a message, its
    connections wait with it, and of what little it gets they must have their part."""
    _saved: float = BURST_S
    """Seconds of reading that are left; negative after a turn that took too long."""
    _counted_at: float = Factory(trio.current_time)
    """When `_saved` was last added to, on trio's clock."""
    _began: float = field(default=0.0, init=False)
    """When the present turn began, on `clock`."""
    _queue: trio.StrictFIFOLock = Factory(trio.StrictFIFOLock)
    _short_since: float = float("-inf")
    """Since when messages have had to wait again and again, on trio's clock, ..."""
    _waited_at: float = float("-inf")
    """... and when they had to last."""
    _said_at: float = float("-inf")
    _taken: dict[str, float] = Factory(dict)
    """Seconds that each worker's messages have taken since `_short_since`."""

    async def wait(self) -> None:
        """Wait until there is time to read: first come, first served.  No checkpoint where there is no need to wait."""
        if not self._queue.locked() and self._left() > 0:
            return
        async with self._queue:
            self._note_wait(trio.current_time())
            while (left := self._left()) <= 0:
                # At least a millisecond: the clock may not move by less, and to wake up more often is work too.
                await trio.sleep(max(-left / SHARE, TURN_S))

    def _left(self) -> float:
        if self._saved <= 0:
            # trio's clock is read only when the time is used up, not in each turn.
            now = trio.current_time()
            self._saved = min(self._saved + (now - self._counted_at) * SHARE, BURST_S)
            self._counted_at = now
        return self._saved

    def _note_wait(self, now: float) -> None:
        """Say that messages wait, if they have for a while."""
        if now > self._waited_at + GAP_S:
            self._short_since = now
            self._taken.clear()
        self._waited_at = now
        if now >= self._short_since + SHORT_S and now >= self._said_at + SAY_AGAIN_S and self._taken:
            self._said_at = now
            most = max(self._taken, key=self._taken.__getitem__)
            part = self._taken[most] / sum(self._taken.values())
            logger.warning(
                "messages from workers wait, because they would take more than %d %% of the master's time: %d %% of it "
                "is for those of %s", 100 * SHARE, 100 * part, most,
            )  # fmt: skip

    def begin(self) -> None:
        """A turn begins."""
        self._began = self.clock()

    @property
    def turn_is_over(self) -> bool:
        """Whether the present turn has taken long enough."""
        return self.clock() - self._began >= TURN_S

    def end(self, worker: str) -> None:
        """The turn ends: what it took is gone."""
        took = self.clock() - self._began
        self._saved -= took
        self._taken[worker] = self._taken.get(worker, 0.0) + took
