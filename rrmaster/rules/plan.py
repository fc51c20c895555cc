"""Which workers are started and retired next: plan(goal, members) -> orders.

Start, replace, scale, reload, abort and stop are this one function, called again after every change:

- start:   Goal(size=n, surge=n)
- replace: the same goal; a member is missing, and the plan starts another
- scale:   another size
- reload:  generation raised, committed 0; later committed = size, and the old members go.  Until then an old member
           that ends is restored, if its generation can have more workers (`fallback`)
- abort:   generation lowered: now the new members go
- stop:    size 0

This module knows no clock, no processes and no reasons.  `backoff` decides when a replacement may start, `lifecycle`
what happens to one worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attrs import field, frozen

from .lifecycle import State

STAYING = frozenset({State.BOOTING, State.PROVING, State.SERVING})
"""States of a worker that serves or will serve: these count towards the size."""

LIVING = STAYING | {State.DRAINING}
"""States of a worker that uses memory for its work: these count towards size + surge."""


@frozen
class Goal:
    """What the fleet should be."""

    size: int
    generation: int = 1
    committed: int | None = None
    """The number of members of the new generation that have proved good: as many old members may go.  None: all."""
    fallback: int | None = None
    """While the goal is not committed: the generation that serves until then, if it can have more workers (a template
    holds its code, whatever the disk holds)."""
    at_once: int = 2
    """The most members that may boot at once, but for restored ones.  An import takes a whole processor, so more than
    one for each processor only delays the first."""
    surge: int = field(kw_only=True)
    """The most members beyond `size` that may live at once."""


@frozen
class Member:
    """One worker, as far as the plan needs to know it."""

    id: int
    slot: int
    state: State
    generation: int
    leaving: bool = False
    """Whether a replacement is wanted: the worker serves until that does."""


@frozen
class Orders:
    """What the supervisor does now."""

    spawn: tuple[int, ...] = ()
    """Slots to start a worker in."""
    restore: tuple[int, ...] = ()
    """Slots to start a worker of the fallback generation in."""
    retire: tuple[int, ...] = ()
    """Ids of the members that go."""


def plan(goal: Goal, members: Iterable[Member], held: Collection[int] = ()) -> Orders:
    """The difference between the goal and the members, as far as it may be closed now.

    `held` are slots in which no worker may be started yet.
    """
    members = list(members)
    staying = [m for m in members if m.state in STAYING]
    fresh = [m for m in staying if _fits(m, goal)]
    stale = [m for m in staying if not _fits(m, goal)]
    living = sum(m.state in LIVING for m in members)
    booting = sum(m.state is State.BOOTING for m in members)
    good = sum(m.state is State.SERVING for m in fresh)
    if goal.committed is not None:
        good = min(good, goal.committed)

    room = max(goal.size + goal.surge - living, 0)
    # Not bound by `at_once`: they are forked and import nothing, while new ones may wait for a long import.
    restore = _to_restore(goal, stale, fresh, goal.size - good - len(stale), held)[:room]
    missing = min(goal.size - len(fresh), room - len(restore), goal.at_once - booting - len(restore))
    # As many stale members stay as `size` still needs.  Those that do not serve go first.
    too_many = len(stale) - max(goal.size - good, 0)
    return Orders(
        spawn=_free_slots(goal.size, fresh, held)[: max(missing, 0)],
        restore=restore,
        retire=_least_useful(stale, too_many) + _least_useful(fresh, len(fresh) - goal.size),
    )


def _fits(member: Member, goal: Goal) -> bool:
    """Whether a member may stay.  One in a slot beyond the size may not: a smaller fleet has the lower slots."""
    return member.generation == goal.generation and not member.leaving and member.slot < max(goal.size, 1)


def _free_slots(size: int, fresh: Iterable[Member], held: Collection[int]) -> tuple[int, ...]:
    """The slots of 0..size-1 without a fresh member.  A replacement shares its slot with the member that leaves."""
    taken = {m.slot for m in fresh}.union(held)
    return tuple(slot for slot in range(size) if slot not in taken)


def _to_restore(
    goal: Goal, stale: Iterable[Member], fresh: Iterable[Member], missing: int, held: Collection[int]
) -> tuple[int, ...]:
    """The slots whose old members ended before the goal was committed; first those in which no new member serves."""
    if goal.fallback is None or goal.committed is None or missing <= 0:
        return ()
    served = {m.slot for m in fresh if m.state is State.SERVING}
    slots = sorted(_free_slots(goal.size, stale, held), key=lambda slot: (slot in served, slot))
    return tuple(slots[:missing])


def _least_useful(members: Sequence[Member], count: int) -> tuple[int, ...]:
    """Ids of the members to give up first: those that do not serve, then those that asked to go, then high slots."""
    useless = sorted(members, key=lambda m: (m.state is State.SERVING, not m.leaving, -m.slot, -m.id))
    return tuple(m.id for m in useless[: max(count, 0)])
