"""Who may be started now, and until when must the others wait?

::

    a place is free ──► has it crashed (aftermath)? ──► too many in a second? ──► has the machine room? ──► begin

What has to wait is noted where that was decided, with the time at which the plan is to be asked again: asked for later,
the time may just have passed, and nobody would be waited for.

It starts nobody.
"""

from __future__ import annotations

import socket
from logging import ERROR

from attrs import Factory, define

from ..logs.log import tell
from ..protocol.channel import TalkLine
from ..protocol.line import Line
from .crashes import Aftermath

RETRY_S = 1.0
"""Seconds to wait when a line cannot be opened (out of descriptors)."""

Lines = tuple[Line, tuple[TalkLine, socket.socket]]
"""Both lines to a new worker; of the second its own end, too."""


@define(eq=False)
class Starts:
    """What stands between a free place and a worker in it."""

    aftermath: Aftermath
    withheld_until: float = float("inf")
    """When to ask the plan again, for somebody could not be started yet."""
    _not_before: float = 0.0
    """When to try again after the machine had no room for another line."""
    _newest: dict[int, int] = Factory(dict)
    """The newest generation that has been begun in a slot."""

    def look(self, size: int, now: float) -> bool:
        """The plan is asked: whether anybody may be started at all.  Slots from `size` on are no more."""
        self.aftermath.forget_slots_from(size)
        self._newest = {slot: newest for slot, newest in self._newest.items() if slot < size}
        possible = now >= self._not_before
        self.withheld_until = float("inf") if possible else self._not_before
        return possible

    def held(self, now: float, ever_ready: bool, anybody_serves: bool) -> set[int]:
        """Slots in which nobody may be started yet, for whoever was there has crashed."""
        wait = self.aftermath.wait(now, anybody_serves)
        if wait > 0:
            self.withheld_until = min(self.withheld_until, now + wait)
        return self.aftermath.held(now, ever_ready, anybody_serves)

    def may(self, slot: int, generation: int, now: float) -> bool:
        """Whether somebody may be started here, as far as the pace goes.

        That is for whoever is replaced, and replaced again.  The first of a slot, or of a new generation in it, is what
        somebody has asked for, and once: how many of these boot at a time is for the plan alone to say.
        """
        if self._is_first(slot, generation):
            return True
        wait = self.aftermath.restarts.pace(now)
        if wait > 0:
            self.withheld_until = min(self.withheld_until, now + wait)
        return wait <= 0

    def begun(self, slot: int, generation: int, now: float) -> bool:
        """Somebody was started.  Whether in the place of one that crashed."""
        if self._is_first(slot, generation):
            self._newest[slot] = generation
        else:
            self.aftermath.restarts.started(now)
        return self.aftermath.begun(slot, now)

    def _is_first(self, slot: int, generation: int) -> bool:
        return generation > self._newest.get(slot, 0)

    def lines(self, slot: int, window: int, now: float) -> Lines | None:
        """The lines to a new worker, the caller's to close; None: there is no room for them now."""
        try:
            return _open(window)
        except OSError as error:
            text = f"cannot start worker {slot}: {error.strerror}; trying again"
            tell("worker.no_line", text, level=ERROR, slot=slot)
            self._not_before = now + RETRY_S
            self.withheld_until = min(self.withheld_until, self._not_before)
            return None


def _open(window: int) -> Lines:
    """Raises OSError, and then leaves none open."""
    line = Line.open(window)
    try:
        return line, TalkLine.open()
    except BaseException:
        line.close()
        raise
