"""A worker's process as the supervisor sees it: its end is explained, and nothing is left of it."""

from __future__ import annotations

import signal

import trio
from attrs import define, evolve

from ..rules.backoff import Exit
from .memory_kills import KillsForMemory
from .orphans import Orphans
from .process import Process


@define(eq=False)
class WorkerProcess:
    """A worker's process, however it was started."""

    _process: Process
    _worker: int
    _orphans: Orphans
    _memory: KillsForMemory
    _killed: bool = False
    """The master has killed it."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def wait(self) -> Exit:
        """Wait for its end.  Its descendants are dead when this returns, as far as they can be told."""
        how = await self._process.wait()
        if how.signal == signal.SIGKILL and not self._killed:
            how = evolve(how, out_of_memory=self._memory.take())
        with trio.CancelScope(shield=True):
            await self._orphans.end_of(self._worker, self.pid)
        return how

    def signal(self, number: int, group: bool = False) -> None:
        """Send it a signal; see `Process`."""
        self._killed = self._killed or number == signal.SIGKILL
        self._process.signal(number, group)
