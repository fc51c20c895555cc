"""What have the workers that are gone done, and how did reloads end?  Counts that never fall.

A worker's own counts end with it.  A counter of a slot, of which metrics are made, is the sum over the workers that it
has had: those that have ended, which are kept here, and the one that lives.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, define, evolve, frozen

from ..protocol.pages.figures import NOTHING, Histogram


@frozen
class SlotTotals:
    """What the workers of one slot have done that have ended."""

    slot: int
    taken: int = 0
    """Connections that they had taken; each was finished, or lost with its worker."""
    requests: int = 0
    """Requests that they had finished; with a stream handler, connections."""
    cpu_us: int = 0
    """Microseconds of processor time, as they last reported."""
    ended: int = 0
    """Workers."""
    request_duration: Histogram = NOTHING
    """How long their requests took."""
    accept_wait: Histogram = NOTHING
    """How long connections waited from accept until they took them."""


@frozen
class FleetTotals:
    """All counts at one moment."""

    slots: tuple[SlotTotals, ...] = ()
    """Of each slot in which a worker has ended, in order."""
    exits: Mapping[str, int] = Factory(dict)
    """How many workers have ended in each way: asked, failed (never ready), exit, fault (such as SIGSEGV), killed."""
    reloads: Mapping[str, int] = Factory(dict)
    """How many reloads have ended in each phase: committed, refused, rolled back, out of time or superseded."""


@define(eq=False)
class Totals:
    """Counts since the start of the master.  Only its own methods write it."""

    slots: dict[int, SlotTotals] = Factory(dict)
    exits: dict[str, int] = Factory(dict)
    """How many workers have ended in each way: see `worker_ended`."""
    reloads: dict[str, int] = Factory(dict)
    """How many reloads have ended in each `rollout.Phase`."""

    def worker_ended(self, done: SlotTotals, how: str) -> None:
        """A worker has ended, having done this.

        `how`: asked (the master wanted it to go), failed (it was never ready), exit (by itself), fault (a signal of its
        own making, such as SIGSEGV) or killed (another signal).
        """
        before = self.slots.get(done.slot, SlotTotals(done.slot))
        self.slots[done.slot] = evolve(
            before,
            taken=before.taken + done.taken,
            requests=before.requests + done.requests,
            cpu_us=before.cpu_us + done.cpu_us,
            ended=before.ended + 1,
            request_duration=before.request_duration.plus(done.request_duration),
            accept_wait=before.accept_wait.plus(done.accept_wait),
        )
        self.exits[how] = self.exits.get(how, 0) + 1

    def at_present(self) -> FleetTotals:
        """The counts now."""
        slots = tuple(self.slots[slot] for slot in sorted(self.slots))
        return FleetTotals(slots, dict(self.exits), dict(self.reloads))

    def reload_ended(self, phase: str) -> None:
        """A reload has ended in this phase."""
        self.reloads[phase] = self.reloads.get(phase, 0) + 1
