"""How a reload is watched: its lines as they come, and its end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import trio
from attrs import Factory, define

from ..rules.rollout import Rollout


class Busy(Exception):
    """Another reload runs, or the master is stopping."""


@define(eq=False)
class Reload:
    """A reload that was begun, for those that watch it.  `rollout` says where it stands."""

    rollout: Rollout
    _changed: trio.Event = Factory(trio.Event)

    def wake(self) -> None:
        """Tell the watchers that the rollout has moved.  Called by the controller alone."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def ended(self) -> Rollout:
        """Wait until it is committed or has failed."""
        while not self.rollout.over:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self.rollout

    async def progress(self) -> AsyncIterator[tuple[str, float]]:
        """Each line for people as it comes, with how far the reload is (0 to 1); ends with the reload."""
        told = 0
        while True:
            changed = self._changed
            for line in self.rollout.lines[told:]:
                yield line, self.rollout.progress
                told += 1
            if self.rollout.over and told == len(self.rollout.lines):
                return
            if told == len(self.rollout.lines):
                await changed.wait()
