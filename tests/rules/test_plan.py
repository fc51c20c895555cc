"""Whatever happens, the plan leads to the goal, and no client pays for the way."""

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.lifecycle import Event
from rrmaster.rules.plan import Goal, Member, Orders, plan
from tests.rules.worlds import (
    BOOTING,
    EVENTS,
    LAW,
    LIVING,
    PROVING,
    SERVING,
    STAYING,
    World,
    chances,
    goals,
    happen,
    members,
    sizes,
    some,
)

# --- start, replace, scale, stop


@LAW
@given(sizes, st.integers(1, 8), st.integers(1, 8), chances)
def test_a_start_fills_every_slot_once(size, surge, at_once, chance):
    world = World(Goal(size, surge=surge, at_once=at_once))
    world.obey()
    assert world.count(BOOTING) == min(size, at_once)
    while world.count(BOOTING, PROVING):
        world.advance(some(world, chance))
        world.obey()
    world.assert_as_wanted()


def test_the_lowest_slots_come_first():
    assert plan(Goal(4, surge=4, at_once=2), []).spawn == (0, 1)


@LAW
@given(sizes, st.data())
def test_a_missing_worker_is_replaced_in_its_slot(size, data):
    world = World.at_rest(size, at_once=size)
    gone = data.draw(st.sets(st.sampled_from(sorted(world.members)), min_size=1))
    slots = tuple(sorted(world.members[id_].slot for id_ in gone))
    for id_ in gone:
        world.happens(id_, Event.EXIT)
    assert world.orders() == Orders(spawn=slots)


@LAW
@given(sizes, st.data())
def test_a_worker_that_asks_for_its_replacement_serves_until_that_does(size, data):
    world = World.at_rest(size)
    ill = data.draw(st.sampled_from(sorted(world.members)))
    slot = world.members[ill].slot
    world.happens(ill, Event.RETIRING)
    assert world.orders() == Orders(spawn=(slot,)), "the replacement has the slot of the one it replaces"
    while ill in world.members:
        assert world.count(SERVING) >= size
        world.obey()
        for id_ in sorted(world.members):
            world.advance(id_)
    world.settle()
    world.assert_as_wanted()


@LAW
@given(sizes, sizes)
def test_scaling_starts_or_retires_the_highest_slots(before, after):
    world = World.at_rest(before)
    world.goal = evolve(world.goal, size=after, surge=after)
    orders = world.orders()
    if after > before:
        assert orders.spawn == tuple(range(before, after))[: world.goal.at_once]
        assert orders.retire == ()
    else:
        assert orders.spawn == ()
        assert [world.members[id_].slot for id_ in orders.retire] == list(range(before - 1, after - 1, -1))
    world.settle()
    world.assert_as_wanted()


def test_scaling_down_while_a_worker_boots_leaves_no_slot_beyond_the_size():
    """RRMASTER_WORKER_SLOT is promised to be less than RRMASTER_WORKER_COUNT."""
    world = World.at_rest(4)
    world.happens(next(m.id for m in world.members.values() if m.slot == 1), Event.EXIT)
    world.obey()  # slot 1 boots again
    world.goal = evolve(world.goal, size=3, surge=3)
    world.settle()
    world.assert_as_wanted()


@LAW
@given(st.integers(2, 8), st.data())
def test_scaling_down_leaves_as_many_serving_as_are_wanted_if_as_many_served(size, data):
    world = World.at_rest(size)
    for id_ in data.draw(st.sets(st.sampled_from(sorted(world.members)), max_size=size)):
        world.happens(id_, Event.EXIT)
    world.obey()
    served, wanted = world.count(SERVING), data.draw(st.integers(1, size))
    world.goal = evolve(world.goal, size=wanted, surge=wanted)
    world.obey()
    assert world.count(SERVING) >= min(served, wanted)


@LAW
@given(sizes, st.integers(0, 30), chances)
def test_a_stop_at_any_time_retires_every_worker_and_starts_none(size, steps, chance):
    world = World(Goal(size, surge=size))
    for _ in range(steps):
        world.obey()
        world.advance(some(world, chance))
        if chance.random() < 0.1:
            world.reload()
    world.goal = evolve(world.goal, size=0, committed=None)
    staying = {m.id for m in world.members.values() if m.state in STAYING}
    orders = world.orders()
    assert orders.spawn == ()
    assert set(orders.retire) == staying
    world.settle()
    assert not world.members


@LAW
@given(sizes, st.integers(1, 8), st.sets(st.integers(0, 9)))
def test_a_slot_that_is_held_back_holds_back_no_other(size, at_once, held):
    """A crash loop in one slot does not leave the others empty."""
    orders = plan(Goal(size, surge=size, at_once=at_once), [], held)
    assert orders.spawn == tuple(slot for slot in range(size) if slot not in held)[:at_once]


# --- reload


@LAW
@given(sizes, st.integers(1, 8), chances)
def test_a_reload_costs_no_worker_and_doubles_the_fleet_at_most(size, at_once, chance):
    world = World.at_rest(size, at_once=at_once)
    world.reload()
    while len([m for m in world.fresh if m.state is PROVING]) < size:
        world.obey()
        world.advance(some(world, chance))
        assert len([m for m in world.members.values() if m.state is SERVING and m.generation == 1]) == size
        assert world.count(*LIVING) <= 2 * size
    world.commit()
    assert set(world.orders().retire) == {m.id for m in world.members.values() if m.generation == 1}, "all at once"
    while world.members.keys() - {m.id for m in world.fresh}:
        world.obey()
        assert world.count(SERVING) >= size
        assert world.count(*LIVING) <= 2 * size
        world.advance(some(world, chance))
    world.assert_as_wanted()


@LAW
@given(sizes, st.integers(1, 8), st.integers(1, 8), chances)
def test_a_reload_in_batches_keeps_the_size_serving_and_the_surge(size, surge, at_once, chance):
    """With a surge below the size, old members go only as far as new ones serve, and draining ones count."""
    world = World.at_rest(size, surge=surge, at_once=at_once)
    world.newest, world.goal = 2, evolve(world.goal, generation=2)
    for _ in range(400 * size):
        world.obey()
        assert world.count(SERVING) >= size
        assert world.count(*LIVING) <= size + surge
        assert world.count(BOOTING) <= at_once
        world.advance(some(world, chance))
        if all(m.generation == 2 for m in world.members.values()) and world.count(SERVING) == size:
            break
    world.settle()
    world.assert_as_wanted()


@LAW
@given(sizes, st.integers(0, 8), chances)
def test_old_members_go_only_as_far_as_the_goal_is_committed(size, committed, chance):
    world = World.at_rest(size)
    world.newest, world.goal = 2, evolve(world.goal, generation=2, committed=committed)
    for _ in range(100):
        world.obey()
        old = [m for m in world.members.values() if m.state is SERVING and m.generation == 1]
        assert len(old) >= size - committed
        id_ = some(world, chance)
        if world.members[id_].state is PROVING:
            world.happens(id_, Event.PASSED)
        else:
            world.advance(id_)


@LAW
@given(sizes, st.integers(1, 8), st.integers(1, 60), chances)
def test_a_release_that_cannot_boot_costs_no_worker(size, at_once, tries, chance):
    """However often it is tried before it is given up."""
    world = World.at_rest(size, at_once=at_once)
    old = set(world.members)
    world.cannot_boot = frozenset({2})
    world.reload()
    for _ in range(tries):
        world.obey()
        world.advance(some(world, chance))
        assert old <= {m.id for m in world.members.values() if m.state is SERVING}
        assert world.count(*LIVING) <= 2 * size
    world.goal = evolve(world.goal, generation=1, committed=None)
    world.obey()
    assert {m.id for m in world.members.values() if m.state in STAYING} == old
    world.settle()
    assert set(world.members) == old
    world.assert_as_wanted()


@LAW
@given(sizes, st.integers(0, 40), chances)
def test_an_aborted_reload_leaves_the_old_generation_untouched_and_the_next_one_works(size, steps, chance):
    world = World.at_rest(size)
    old = set(world.members)
    world.reload()
    for _ in range(steps):
        world.obey()
        world.advance(some(world, chance))
    world.goal = evolve(world.goal, generation=1, committed=None)
    world.settle()
    assert set(world.members) == old
    world.reload()
    world.settle()
    world.commit()
    world.settle()
    world.assert_as_wanted()
    assert {m.generation for m in world.members.values()} == {3}


@LAW
@given(sizes, st.integers(1, 8), st.integers(1, 8), st.integers(0, 30), chances)
def test_an_old_member_that_ends_before_the_new_are_good_is_restored(size, surge, at_once, deaths, chance):
    world = World.at_rest(size, surge=surge, at_once=at_once)
    world.reload(fallback=True)
    for _ in range(deaths):
        world.obey()
        old = sorted(m.id for m in world.members.values() if m.generation == 1 and m.state in STAYING)
        if old and chance.random() < 0.3:
            world.happens(chance.choice(old), Event.EXIT)
        elif world.members:
            world.advance(some(world, chance))
    world.settle()
    assert sorted(m.slot for m in world.members.values() if m.generation == 1) == list(range(size))
    for approved in range(1, size + 1):
        for member in world.fresh:
            if member.state is PROVING:
                world.happens(member.id, Event.PASSED)
        world.goal = evolve(world.goal, committed=approved)
        world.settle()
        assert len([m for m in world.members.values() if m.generation == 1]) == size - approved
        assert world.count(SERVING) >= size
    world.commit()
    world.settle()
    world.assert_as_wanted()


@LAW
@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_old_members_that_end_while_new_ones_wait_for_their_import_are_all_restored(size, at_once, data):
    world = World.at_rest(size, at_once=at_once)
    world.reload(fallback=True)
    world.obey()
    assert world.count(BOOTING) == min(size, at_once), "they wait"
    old = [m.id for m in world.members.values() if m.generation == 1]
    for id_ in data.draw(st.sets(st.sampled_from(old), min_size=1)):
        world.happens(id_, Event.EXIT)
    world.obey()
    assert sorted(m.slot for m in world.members.values() if m.generation == 1) == list(range(size))


def test_a_leaving_worker_is_not_also_replaced_by_the_old_code():
    goal = Goal(2, generation=2, surge=2, committed=0, fallback=1)
    leaving = [Member(1, 0, SERVING, 1, leaving=True), Member(2, 1, SERVING, 1)]
    assert plan(goal, leaving).restore == ()
    assert plan(goal, leaving[1:]).restore == (0,)
    assert plan(evolve(goal, fallback=None), leaving[1:]).restore == ()


# --- anything


@settings(LAW, max_examples=200)
@given(sizes, st.integers(1, 8), st.integers(0, 80), chances)
def test_whatever_happens_the_fleet_comes_to_rest_at_its_goal(size, at_once, steps, chance):
    world = World(Goal(size, surge=size, at_once=at_once))
    for _ in range(steps):
        world.obey()
        happen(world, chance.choice(EVENTS), chance)
    world.settle()
    if world.goal.committed is not None:
        world.commit()
        world.settle()
    world.assert_as_wanted()


@LAW
@given(goals, members, chances)
def test_the_order_of_the_members_does_not_matter(goal, crowd, chance):
    orders = plan(goal, crowd)
    shuffled = list(crowd)
    chance.shuffle(shuffled)
    assert plan(goal, crowd) == plan(goal, iter(shuffled)) == orders


@LAW
@given(goals, members)
def test_in_any_world_orders_can_be_obeyed(goal, crowd):
    """Also in a world that the plan would never have made."""
    orders = plan(goal, crowd)
    by_id = {m.id: m for m in crowd}
    living = sum(m.state in LIVING for m in crowd)
    booting = sum(m.state is BOOTING for m in crowd)
    held = {m.slot for m in crowd if m.state in STAYING and m.generation == goal.generation and not m.leaving}
    assert len(set(orders.spawn)) == len(orders.spawn)
    assert set(orders.spawn) <= set(range(goal.size)) - held
    stale = {m.slot for m in crowd if m.state in STAYING} - held
    assert len(set(orders.restore)) == len(orders.restore)
    assert stale.isdisjoint(orders.restore)
    assert set(orders.restore) <= set(range(goal.size))
    if goal.committed is None or goal.fallback is None:
        assert orders.restore == ()
    assert len(set(orders.retire)) == len(orders.retire)
    assert all(by_id[id_].state in STAYING for id_ in orders.retire)
    if new := len(orders.spawn) + len(orders.restore):
        assert living + new <= goal.size + goal.surge
    if orders.spawn:
        assert booting + new <= goal.at_once


@LAW
@given(goals, members)
def test_members_that_serve_go_last(goal, crowd):
    """Among the old members, and among new ones beyond the size."""
    retired = set(plan(goal, crowd).retire)
    staying = [m for m in crowd if m.state in STAYING]
    for group in (
        [m for m in staying if m.generation == goal.generation and not m.leaving and m.slot < goal.size],
        [m for m in staying if m.generation != goal.generation],
    ):
        if any(m.state is SERVING and not m.leaving and m.id in retired for m in group):
            assert all(m.id in retired for m in group if m.state is not SERVING)
