"""What is announced of workers and of the fleet: a line in the log, and an event for each subscriber."""

from __future__ import annotations

from collections.abc import Callable
from logging import DEBUG, ERROR, INFO, WARNING
from typing import Any

from attrs import Factory, define

from ..events.bus import EventBus
from ..events.events import (
    FleetScaled,
    ReloadCommitted,
    ReloadRolledBack,
    ReloadStarted,
    WorkerChanged,
    WorkerDisconnected,
    WorkerExited,
    WorkerForked,
    WorkerListening,
    WorkerMessage,
    WorkerOnline,
)
from ..events.totals import SlotTotals, Totals
from ..logs.log import tell
from ..protocol.pages.figures import Figures
from ..rules.backoff import Exit
from ..rules.lifecycle import State
from ..rules.plan import STAYING
from ..rules.rollout import Rollout
from .worker_record import WorkerRecord

SUPERSEDED = "superseded by another reload"
"""Why a reload failed that was given up for a newer one."""


@define(eq=False)
class Announcements:
    """Writes log lines and publishes events; decides nothing."""

    addresses: Callable[[WorkerRecord], tuple[str, ...]] = lambda worker: ()
    """The addresses of the listeners that a worker serves."""
    news: EventBus = Factory(EventBus)
    """Where a program subscribes."""
    totals: Totals = Factory(Totals)
    """What was announced, as counts."""

    def forked(self, worker: WorkerRecord) -> None:
        """The worker is recorded, and its process is being started."""
        self.news.publish(WorkerForked(*worker.key))

    def online(self, worker: WorkerRecord, pid: int) -> None:
        """The worker's process runs."""
        self.news.publish(WorkerOnline(*worker.key, pid))

    def message(self, worker: WorkerRecord, message: Any, size: int) -> None:
        """The worker's application sent a message of `size` bytes to the program that runs the master."""
        self.news.publish(WorkerMessage(*worker.key, message), size)

    def changed(self, worker: WorkerRecord, before: State, why: str, quiet: bool = False) -> None:
        """The worker entered another state.  `quiet`: its own words follow, and say more than the line would."""
        level = INFO
        in_order = worker.asked and (worker.state is State.GONE or before in STAYING)  # these have nothing in hand
        if worker.state is State.KILLED or (worker.state in (State.STOPPING, State.GONE) and not in_order):
            level = WARNING
        elif worker.state is State.PROVING:
            level = DEBUG
        old, new = before.value, worker.state.value
        text, level = f"{worker.name}: {old} -> {new}, {why}", DEBUG if quiet else level
        tell("worker.state", text, level=level, **worker.facts, before=old, state=new, why=why)
        self.news.publish(WorkerChanged(*worker.key, old, new, why))
        if worker.state is State.SERVING:
            self.news.publish(WorkerListening(*worker.key, self.addresses(worker)))
        elif worker.state not in STAYING and worker.disconnect():
            self.news.publish(WorkerDisconnected(*worker.key))

    def exited(self, worker: WorkerRecord, how: Exit | None) -> None:
        """The worker's process has ended; `how` is None if it was never started."""
        code, number = (how.code, how.signal) if how is not None else (None, None)
        self.totals.worker_ended(_done_by(worker), _kind_of_end(worker, how))
        starved = how is not None and how.out_of_memory
        self.news.publish(
            WorkerExited(*worker.key, code, number, worker.asked, worker.failure, starved, worker.in_hand)
        )

    def recycled(self, worker: WorkerRecord) -> None:
        """The worker serves until its replacement does, and then goes: it has served, lived or grown enough."""
        why, level = worker.recycle_reason, WARNING if worker.wear.early else INFO
        tell("worker.recycled", f"{worker.name} is replaced: {why}", level=level, why=why, **worker.facts)

    # --- the fleet

    def scaled(self, before: int, size: int) -> None:
        """The fleet has another size from now on."""
        tell("scale", f"scaling from {before} to {size} workers", size=size)
        self.news.publish(FleetScaled(size))

    def scaling_waits(self, size: int) -> None:
        """Another size was asked for during a reload."""
        tell("scale.waits", f"scaling to {size} workers waits until the reload is decided", size=size)

    def reload_progress(self, line: str) -> None:
        """A reload has taken a step, told in a line for people."""
        tell("reload.progress", f"reload: {line}")

    def reload_started(self, rollout: Rollout) -> None:
        """The first workers of a new generation are being started."""
        self.news.publish(ReloadStarted(rollout.generation))

    def reload_committed(self, rollout: Rollout) -> None:
        """The new generation serves alone from now on."""
        self.totals.reload_ended(rollout.phase.value)
        self.news.publish(ReloadCommitted(rollout.generation))

    def reload_failed(self, rollout: Rollout, serves: bool) -> None:
        """A reload was refused, rolled back or given up.  `serves`: whether any worker serves at this moment."""
        self.totals.reload_ended("superseded" if rollout.reason == SUPERSEDED else rollout.phase.value)
        facts = {"phase": rollout.phase.value, "status": rollout.status, "generation": rollout.generation}
        own_lines = "\n" if "\n" in rollout.reason else " "  # a traceback begins on a line of its own
        text = f"reload {rollout.phase.value}:{own_lines}{rollout.reason}"
        if rollout.reason == SUPERSEDED:  # no failure of the code
            tell("reload.failed", text, level=INFO, why=rollout.reason, **facts)
            return
        text += f"\ngeneration {rollout.before.generation} serves on" if serves else "\nno worker serves"
        tell("reload.failed", text, level=ERROR, why=rollout.reason, **facts)
        self.news.publish(ReloadRolledBack(rollout.generation, rollout.status or 0, rollout.reason))


def _done_by(worker: WorkerRecord) -> SlotTotals:
    requests, cpu = (worker.report.requests, worker.report.cpu_us) if worker.report is not None else (0, 0)
    # Not those that were handed over: what it had not taken is recalled after its end.  Each count is at most right:
    # the worker may have died before it counted one, and a recall under way may have found one less.
    figures, link = worker.figures.so_far() or Figures(), worker.link
    taken = max(figures.waits.count, link.load.closed + link.lost)
    # What it has done since its last report.  Of a server without requests, a connection is one.
    requests = max(requests, figures.durations.count if link.client_first else link.done)
    return SlotTotals(worker.slot, taken, requests, cpu, request_duration=figures.durations, accept_wait=figures.waits)


def _kind_of_end(worker: WorkerRecord, how: Exit | None) -> str:
    if worker.asked:
        return "asked"
    if how is None or not worker.ready:
        return "failed"
    if how.signal is None:
        return "exit"
    return "killed" if how.killed else "fault"
