"""A simulated fleet for the laws of the plan: it obeys every order, and its members change their states."""

import random

import pytest
from attrs import Factory, define, evolve
from hypothesis import settings
from hypothesis import strategies as st

from rrmaster.rules.lifecycle import Event, State, step
from rrmaster.rules.plan import Goal, Member, Orders, plan

LAW = settings(max_examples=80, deadline=None, derandomize=True, database=None)

BOOTING, PROVING, SERVING, DRAINING = State.BOOTING, State.PROVING, State.SERVING, State.DRAINING
STAYING = {BOOTING, PROVING, SERVING}
LIVING = STAYING | {DRAINING}


@define(eq=False)
class World:
    """A fleet that obeys every order, and whose members change their states."""

    goal: Goal
    members: dict[int, Member] = Factory(dict)
    cannot_boot: frozenset[int] = frozenset()
    """Generations that never become ready."""
    newest: int = 1
    """The newest generation there ever was: a number is never used again."""
    _last_id: int = 0

    @classmethod
    def at_rest(cls, size: int, **more: int) -> "World":
        world = cls(Goal(size, **{"surge": size} | more))
        world.settle()
        return world

    def count(self, *states: State) -> int:
        return sum(member.state in states for member in self.members.values())

    @property
    def fresh(self) -> list[Member]:
        members = self.members.values()
        return [m for m in members if m.state in STAYING and m.generation == self.goal.generation and not m.leaving]

    def orders(self) -> Orders:
        return plan(self.goal, self.members.values())

    def obey(self) -> None:
        """Plan and obey until there are no more orders; every order must make sense."""
        spawned: set[int] = set()
        for _ in range(20):
            orders = self.orders()
            if orders == Orders():
                return
            assert spawned.isdisjoint(orders.retire), "no worker is retired in the plan that started it"
            for slot in orders.spawn:
                spawned.add(self.spawn(slot, self.goal.generation))
            for slot in orders.restore:
                assert self.goal.fallback is not None
                spawned.add(self.spawn(slot, self.goal.fallback))
            if orders.spawn or orders.restore:
                living = self.count(*LIVING)
                assert living <= self.goal.size + self.goal.surge
                restored = sum(m.state is BOOTING and m.generation == self.goal.fallback for m in self.members.values())
                assert self.count(BOOTING) - restored <= self.goal.at_once
            for id_ in orders.retire:
                assert self.members[id_].state in STAYING, "no worker is retired twice"
                self.happens(id_, Event.RETIRE)
            slots = [m.slot for m in self.fresh]
            assert len(set(slots)) == len(slots), "no two fresh members share a slot"
        pytest.fail("the plan does not come to rest")

    def spawn(self, slot: int, generation: int) -> int:
        assert 0 <= slot < self.goal.size
        self._last_id += 1
        self.members[self._last_id] = Member(self._last_id, slot, BOOTING, generation)
        return self._last_id

    def happens(self, id_: int, event: Event) -> None:
        member = self.members[id_]
        after = step(member.state, event).state
        if after is State.GONE:
            del self.members[id_]
        else:
            leaving = member.leaving or (event is Event.RETIRING and after is SERVING)
            self.members[id_] = evolve(member, state=after, leaving=leaving)

    def advance(self, id_: int) -> None:
        """The next event of this member, if only its code can make it fail."""
        member = self.members[id_]
        if member.state is BOOTING:
            self.happens(id_, Event.EXIT if member.generation in self.cannot_boot else Event.READY)
        elif member.state is PROVING:
            if self.goal.committed is None or member.generation != self.goal.generation:
                self.happens(id_, Event.PASSED)
        elif member.state is not SERVING:
            self.happens(id_, Event.EXIT)

    def reload(self, fallback: bool = False) -> None:
        self.newest += 1
        before = self.goal.generation if fallback else None
        self.goal = evolve(self.goal, generation=self.newest, committed=0, fallback=before)

    def commit(self) -> None:
        """The whole new generation is ready: it serves from now on, and the old one may go."""
        for member in self.fresh:
            if member.state is PROVING:
                self.happens(member.id, Event.PASSED)
        self.goal = evolve(self.goal, committed=None, fallback=None)

    def settle(self, limit: int = 1000) -> None:
        """Advance every member until none changes."""
        for _ in range(limit):
            self.obey()
            before = dict(self.members)
            for id_ in before:
                if id_ in self.members:
                    self.advance(id_)
            if self.members == before:
                return
        pytest.fail("the fleet does not come to rest")

    def assert_as_wanted(self) -> None:
        assert sorted(m.slot for m in self.members.values()) == list(range(self.goal.size))
        for member in self.members.values():
            assert member.state is SERVING
            assert member.generation == self.goal.generation
            assert not member.leaving


sizes = st.integers(1, 8)


chances = st.integers(0, 2**32).map(random.Random)


def some(world: World, chance: random.Random) -> int | None:
    return chance.choice(sorted(world.members)) if world.members else None


EVENTS = ["advance"] * 8 + ["crash", "fail", "retiring", "scale", "reload", "commit", "abort", "hang", "lose"]


def happen(world: World, what: str, chance: random.Random) -> None:
    if what in ("scale", "reload", "commit", "abort", "lose"):
        happen_to_the_goal(world, what, chance)
    elif (id_ := some(world, chance)) is not None:
        happen_to_one(world, what, id_)


def happen_to_the_goal(world: World, what: str, chance: random.Random) -> None:
    undecided = world.goal.committed is not None
    match what:
        case "scale":
            size = chance.randint(1, 8)
            world.goal = evolve(world.goal, size=size, surge=size)
        case "reload" if not undecided:
            world.reload(chance.choice((True, False)))
        case "lose":  # the template of the old generation
            world.goal = evolve(world.goal, fallback=None)
        case "commit" if undecided and len([m for m in world.fresh if m.state is PROVING]) >= world.goal.size:
            world.commit()
        case "abort" if undecided:
            # The generation before it is that of most serving members.
            serving = [m.generation for m in world.members.values() if m.state is SERVING] or [1]
            world.goal = evolve(
                world.goal, generation=max(set(serving), key=serving.count), committed=None, fallback=None
            )


def happen_to_one(world: World, what: str, id_: int) -> None:
    match what:
        case "advance":
            world.advance(id_)
        case "crash":
            world.happens(id_, Event.EXIT)
        case "fail" if world.members[id_].state in (BOOTING, PROVING):
            world.happens(id_, Event.FAILED)
        case "retiring":
            world.happens(id_, Event.RETIRING)
        case "hang":
            world.happens(id_, Event.TIMEOUT)


members = st.lists(
    st.builds(
        Member,
        st.integers(0, 10**6),
        st.integers(0, 9),
        st.sampled_from(State),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=20,
    unique_by=lambda member: member.id,
)


goals = st.builds(
    Goal,
    st.integers(0, 8),
    st.integers(1, 3),
    st.none() | st.integers(0, 8),
    st.none() | st.integers(1, 3),
    st.integers(1, 8),
    surge=st.integers(0, 8),
)
