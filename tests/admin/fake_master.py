"""A master that a test invents."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define

from rrmaster.control.client import NoMaster
from rrmaster.status.model import Snapshot


@define
class FakeMaster:
    """In the place of `MasterClient`."""

    answer: Snapshot | None
    """None: the master has ended."""
    log: list[dict[str, Any]] = Factory(list)
    asked: int = 0
    read: int = 0
    has_ended: bool = False
    orders: list[tuple[str, dict[str, Any]]] = Factory(list)
    says: dict[str, Any] = Factory(lambda: {"status": 0, "text": "it is done"})

    def status(self) -> Snapshot:
        self.asked += 1
        if self.answer is None:
            raise NoMaster("the master has ended")
        return self.answer

    def end(self) -> None:
        self.has_ended = True

    def entries(self, kind: str, lines: int) -> list[dict[str, Any]]:
        self.read += 1
        return self.log if kind == "events" else []

    def order(self, do: str, **more: str | int) -> dict[str, Any]:
        if self.answer is None:
            raise NoMaster("the master has ended")
        self.orders.append((do, more))
        return self.says
