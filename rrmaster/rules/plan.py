"""What is to be done next: plan(goal, members) -> orders.

Start, replace, scale, reload, abort and stop are this one function, asked again after every change:

- start:   Goal(size=n)
- replace: nothing; a member is missing, and the plan says so
- scale:   another size
- reload:  generation raised, committed 0; later committed = size: the old ones go; meanwhile who of them dies is
           restored, if there can be more of his kind
- abort:   generation lowered: the new ones are what goes
- stop:    size 0

It knows no clock, no processes and no reasons.  When a replacement may start is `restarts`' affair; what becomes of
one worker is `lifecycle`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attrs import frozen

from .lifecycle import State

STAYING = frozenset({State.BOOTING, State.PROVING, State.SERVING})
LIVING = STAYING | {State.DRAINING}


@frozen
class Goal:
    """What the fleet should be."""

    size: int
    generation: int = 1
    surge: int = 1
    """How many more than `size` may live at once, for a time."""
    committed: int | None = None
    """How many members of the new generation are good enough for as many old ones to go.  None: all."""
    fallback: int | None = None
    """While the goal is not committed: the generation that serves until then, if there can be more of it (a template
    has its code, whatever the disk has)."""
    at_once: int = 2
    """How many may boot at once: importing is what processors are for, and more than one each only delays the first."""


@frozen
class Member:
    """What the plan needs to know of one worker."""

    id: int
    slot: int
    state: State
    generation: int
    leaving: bool = False
    """It is to be replaced; it serves until its replacement does."""


@frozen
class Orders:
    """What to do now."""

    spawn: tuple[int, ...] = ()
    """Slots to start a worker in."""
    restore: tuple[int, ...] = ()
    """Slots to start one of the fallback generation in."""
    retire: tuple[int, ...] = ()
    """Ids of those who go."""


def plan(goal: Goal, members: Iterable[Member], held: Collection[int] = ()) -> Orders:
    """The difference between what is wanted and what is there, as far as it may be made up now.

    `held` are slots in which nobody may be started yet.
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

    room = max(min(goal.size + goal.surge - living, goal.at_once - booting), 0)
    restore = _to_restore(goal, stale, fresh, goal.size - good - len(stale), held)[:room]
    missing = min(goal.size - len(fresh), room - len(restore))
    # Of the stale as many stay as are still needed for `size`; those that do not serve are no loss.
    too_many = len(stale) - max(goal.size - good, 0)
    return Orders(
        spawn=_free_slots(goal.size, fresh, held)[: max(missing, 0)],
        restore=restore,
        retire=_least_useful(stale, too_many) + _least_useful(fresh, len(fresh) - goal.size),
    )


def _fits(member: Member, goal: Goal) -> bool:
    """Whether it may stay as it is.  A slot that is no more does not stay: smaller fleets have the lower slots."""
    return member.generation == goal.generation and not member.leaving and member.slot < max(goal.size, 1)


def _free_slots(size: int, fresh: Iterable[Member], held: Collection[int]) -> tuple[int, ...]:
    """The slots of 0..size-1 that nobody of this generation holds for good: a replacement shares its slot with the
    one that leaves."""
    taken = {m.slot for m in fresh}.union(held)
    return tuple(slot for slot in range(size) if slot not in taken)


def _to_restore(
    goal: Goal, stale: Iterable[Member], fresh: Iterable[Member], missing: int, held: Collection[int]
) -> tuple[int, ...]:
    """The slots of the old ones that have gone before the new were good enough; those first that no new one serves."""
    if goal.fallback is None or goal.committed is None or missing <= 0:
        return ()
    served = {m.slot for m in fresh if m.state is State.SERVING}
    slots = sorted(_free_slots(goal.size, stale, held), key=lambda slot: (slot in served, slot))
    return tuple(slots[:missing])


def _least_useful(members: Sequence[Member], count: int) -> tuple[int, ...]:
    """Those who do not serve yet, then those who asked to go, then the highest slots."""
    useless = sorted(members, key=lambda m: (m.state is State.SERVING, not m.leaving, -m.slot, -m.id))
    return tuple(m.id for m in useless[: max(count, 0)])
