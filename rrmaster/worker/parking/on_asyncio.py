"""When does a worker on asyncio or uvloop look after what it parks?  `Lot`, driven by that loop."""

from __future__ import annotations

import socket
from typing import Any

from attrs import define

from .lot import Lot


@define(eq=False, kw_only=True)
class AsyncioLot(Lot):
    """The worker's end of its lane, on asyncio or uvloop."""

    loop: Any

    def _watch(self, lane: socket.socket) -> None:
        self.loop.add_reader(lane.fileno(), self._hear)

    def _unwatch(self, lane: socket.socket) -> None:
        self.loop.remove_reader(lane.fileno())

    def _look_in(self, seconds: float) -> None:
        self.loop.call_later(seconds, self._look_again)

    def _look_again(self) -> None:
        if seconds := self._look():
            self._look_in(seconds)
