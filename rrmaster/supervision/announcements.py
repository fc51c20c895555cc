"""What is told of a worker's life: a line in the log for each change, and an event for who has subscribed."""

from __future__ import annotations

from collections.abc import Callable
from logging import DEBUG, INFO, WARNING
from typing import Any

from attrs import Factory, define

from ..events.bus import EventBus
from ..events.events import (
    WorkerChanged,
    WorkerDisconnected,
    WorkerExited,
    WorkerForked,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from ..logs.log import tell
from ..rules.backoff import Exit
from ..rules.lifecycle import State
from ..rules.plan import STAYING
from .worker_record import Ward


@define(eq=False)
class Chronicle:
    """Tells."""

    news: EventBus = Factory(EventBus)
    addresses: Callable[[Ward], tuple[str, ...]] = lambda ward: ()
    """Of the listeners that a worker serves."""

    def forked(self, ward: Ward) -> None:
        """It exists, and its process is being started."""
        self.news.publish(WorkerForked(*ward.key))

    def online(self, ward: Ward, pid: int) -> None:
        """Its process runs."""
        self.news.publish(WorkerOnline(*ward.key, pid))

    def heard(self, ward: Ward, message: Any, size: int) -> None:
        """Its application has something to say to the master's."""
        self.news.publish(WorkerMessage(*ward.key, message), size)

    def changed(self, ward: Ward, before: State, why: str, hushed: bool = False) -> None:
        """It has entered another state.  Hushed: its own words follow, and say more."""
        level = INFO
        if ward.state in (State.KILLED, State.STOPPING) or (ward.state is State.GONE and not ward.asked):
            level = WARNING
        elif ward.state is State.PROVING:
            level = DEBUG
        old, new = before.value, ward.state.value
        text, level = f"{ward.name}: {old} -> {new}, {why}", DEBUG if hushed else level
        tell("worker.state", text, level=level, **ward.facts, before=old, state=new, why=why)
        self.news.publish(WorkerChanged(*ward.key, old, new, why))
        if ward.state is State.SERVING:
            self.news.publish(WorkerListening(*ward.key, self.addresses(ward)))
        elif ward.state not in STAYING and not ward.left_out:
            ward.left_out = True
            self.news.publish(WorkerDisconnected(*ward.key))

    def exited(self, ward: Ward, how: Exit | None) -> None:
        """Its process has ended, or has never been."""
        code, number = (how.code, how.signal) if how is not None else (None, None)
        self.news.publish(WorkerExited(*ward.key, code, number, ward.asked, ward.reason))
