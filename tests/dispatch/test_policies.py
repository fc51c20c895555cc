"""The policies: bursts are spread evenly, and no worker gets more than its share or than it has room for."""

import random
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.config.names import POLICIES as NAMES
from rrmaster.dispatch.load import SUSPECT_PENALTY, Policy, WorkerLoad
from rrmaster.dispatch.policies import (
    FULL_MARGIN,
    STICKY_BOUND,
    STICKY_LEAST,
    Candidate,
    IpHash,
    LeastLoaded,
    RandomTwo,
    RoundRobin,
    UserPolicy,
    policy_named,
)
from tests.dispatch.workers import PEER, Worker, fleet, hand, make_worker

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def settle(policy: Policy, worker: Worker, **said: int) -> None:
    worker.load.apply(worker.report(**said))
    policy.update(worker.load)


def serve_all(policy: Policy, workers: dict[int, Worker]) -> None:
    """Each worker takes what lies in its letterbox, and reports."""
    for worker in workers.values():
        while worker.letterbox:
            worker.take()
        settle(policy, worker)


def connections(workers: dict[int, Worker]) -> list[int]:
    return [worker.load.connections for worker in workers.values()]


def first_candidate(candidates, peer):
    return candidates[0]


POLICIES = {
    "least-loaded": LeastLoaded,
    "round-robin": RoundRobin,
    "random-two": lambda: RandomTwo(random=random.Random(1)),
    "ip-hash": IpHash,
    "user": lambda: UserPolicy(rule=first_candidate, on_error=pytest.fail),
}
every_policy = pytest.mark.parametrize("new", POLICIES.values(), ids=POLICIES)
scanning_policies = pytest.mark.parametrize("new", [POLICIES[n] for n in ("random-two", "ip-hash", "user")])


# --- least loaded


@LAW
@given(st.integers(1, 40), st.integers(0, 250), st.booleans())
def test_a_burst_is_spread_exactly(size, count, reported):
    policy = LeastLoaded()
    workers = fleet(policy, size)
    for _ in range(count):
        assert hand(policy, workers)
        if reported:
            serve_all(policy, workers)
    assert sum(connections(workers)) == count
    assert max(connections(workers)) - min(connections(workers)) <= 1


@LAW
@given(st.integers(2, 12), st.integers(1, 8), st.lists(st.integers(0, 11), max_size=200))
def test_a_burst_is_spread_evenly_also_when_one_takes_faster_than_the_others(size, window, takers):
    """The policy waits for the emptier worker: the one that runs first would get up to twice its share, and keep it."""
    policy = LeastLoaded()
    workers = fleet(policy, size, window)
    for taker in takers:
        while hand(policy, workers):
            pass
        worker = workers[taker % size]
        worker.take()
        settle(policy, worker)
        assert max(connections(workers)) - min(connections(workers)) <= 1 + FULL_MARGIN


def test_ties_go_in_turn():
    policy = LeastLoaded()
    workers = fleet(policy, 5)
    order = []
    for _ in range(15):
        worker = hand(policy, workers)
        order.append(worker.load.id)
        worker.take()
        worker.close(1)
        settle(policy, worker)
    assert order == [0, 1, 2, 3, 4] * 3


@LAW
@given(st.integers(2, 10), st.integers(1, 30), st.data())
def test_after_closings_the_emptied_workers_fill_first(size, each, data):
    policy = LeastLoaded()
    workers = fleet(policy, size)
    for _ in range(size * each):
        hand(policy, workers)
    serve_all(policy, workers)
    emptied = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=size - 1))
    for n in emptied:
        workers[n].close(each)
        settle(policy, workers[n])
    for _ in range(len(emptied) * each):
        assert hand(policy, workers).load.id in emptied
    assert connections(workers) == [each] * size


@pytest.mark.parametrize("more", range(4))
def test_a_suspect_comes_after_all_workers_with_about_as_many(more):
    policy = LeastLoaded()
    workers = fleet(policy, 2)
    for worker in workers.values():
        hand(policy, workers)
        worker.take()
    workers[0].load.suspect()
    for _ in range(more):
        workers[1].load.handed += 1
    policy.update(workers[1].load)
    assert hand(policy, workers).load.id == (1 if more <= SUSPECT_PENALTY - 1 else 0)


@pytest.mark.parametrize("new", [POLICIES[n] for n in ("least-loaded", "round-robin", "random-two")])
def test_a_suspect_gets_none_while_others_are_as_free_and_all_if_no_other_has_room(new):
    policy = new()
    workers = fleet(policy, 3, window=2)
    workers[1].load.suspect()
    policy.update(workers[1].load)
    assert 1 not in [hand(policy, workers).load.id for _ in range(2)]
    for n in (0, 2):
        workers[n].load.serving = False
        policy.leave(workers[n].load)
    assert hand(policy, workers).load.id == 1


def test_busy_only_breaks_ties():
    policy = LeastLoaded()
    workers = fleet(policy, 3)
    for _ in range(3):
        hand(policy, workers)
    for n, busy in enumerate((1, 7, 0)):
        settle(policy, workers[n], busy=busy)
    assert [hand(policy, workers).load.id for _ in range(3)] == [2, 0, 1], "at equal loads the least busy is first"
    for n, worker in workers.items():
        worker.take()
        worker.take()
        worker.close(1 if n == 1 else 0)
        settle(policy, worker, busy=1000 if n == 1 else 0)
    assert hand(policy, workers).load.id == 1, "the fewest connections come first, however busy"


@pytest.mark.parametrize("new", [POLICIES[n] for n in ("least-loaded", "random-two")])
def test_requests_without_a_connection_count_as_connections_do(new):
    policy = new()
    workers = fleet(policy, 2)
    hand(policy, workers)
    first, other = sorted(workers.values(), key=lambda worker: -worker.load.connections)
    first.take()
    settle(policy, first, busy=0)
    settle(policy, other, busy=5, orphaned=4)
    assert [hand(policy, workers) for _ in range(3)] == [first] * 3
    assert {hand(policy, workers), hand(policy, workers)} == {first, other}, "both have four in hand"


def test_ip_hash_moves_clients_away_from_a_worker_full_of_requests_without_a_connection():
    policy = IpHash()
    workers = fleet(policy, 2)
    home = hand(policy, workers)
    settle(policy, home, busy=50, orphaned=50)
    assert hand(policy, workers) is not home


def test_requests_without_a_connection_take_room():
    worker = make_worker(1, limit=4)
    worker.load.apply(worker.report(busy=4, orphaned=4))
    assert not worker.load.has_room()
    assert worker.load.in_hand == 4
    worker.load.apply(worker.report(busy=3, orphaned=3))
    assert worker.load.has_room()


# --- workers that are full


def fill(policy: Policy, workers: dict[int, Worker], *full: int) -> None:
    """These workers, of all, say that they are full."""
    for worker in workers.values():
        settle(policy, worker, full=worker.load.id in full)


@every_policy
@LAW
@given(size=st.integers(2, 6), held=st.lists(st.integers(0, 30), min_size=6, max_size=6), data=st.data())
def test_a_full_worker_gets_none_while_another_has_room_however_many_that_has(new, size, held, data):
    policy = new()
    workers = fleet(policy, size)
    for worker in workers.values():
        worker.taken = worker.load.handed = held[worker.load.id]
    full = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    fill(policy, workers, *full)
    for n in range(20):
        assert hand(policy, workers, (f"192.0.2.{n}", 1)).load.id not in full


@every_policy
def test_where_all_are_full_the_connections_are_spread_as_ever(new):
    policy, never_full = new(), new()
    workers, others = fleet(policy, 3), fleet(never_full, 3)
    fill(policy, workers, 0, 1, 2)
    fill(never_full, others)
    peers = [(f"192.0.2.{n}", 1) for n in range(30)]
    chosen = [hand(policy, workers, peer).load.id for peer in peers]
    assert chosen == [hand(never_full, others, peer).load.id for peer in peers]


@every_policy
def test_a_worker_is_chosen_again_as_soon_as_it_says_that_it_is_no_longer_full(new):
    policy = new()
    workers = fleet(policy, 2)
    fill(policy, workers, 0)
    for _ in range(5):
        assert hand(policy, workers).load.id == 1
        workers[1].take()
    settle(policy, workers[0], full=False)
    workers[1].load.suspended = True
    assert hand(policy, workers).load.id == 0


@every_policy
def test_a_full_worker_gets_connections_while_the_others_take_none(new):
    """The others are at their limit, or suspended: it waits for no worker that has no room."""
    policy = new()
    workers = fleet(policy, 3, limit=2)
    workers[1].taken = workers[1].load.handed = 2
    fill(policy, workers, 0)
    workers[2].load.suspended = True
    assert hand(policy, workers).load.id == 0


def test_a_connection_waits_a_moment_for_a_worker_whose_letterbox_is_full_rather_than_go_to_a_full_worker():
    policy = LeastLoaded()
    workers = fleet(policy, 2, window=1)
    fill(policy, workers, 0)
    assert hand(policy, workers).load.id == 1
    assert hand(policy, workers) is None
    workers[1].take()
    policy.update(workers[1].load)
    assert hand(policy, workers).load.id == 1
    workers[1].load.suspended = True  # it took nothing in time: it is late
    assert hand(policy, workers).load.id == 0


@pytest.mark.parametrize("new", [POLICIES[n] for n in ("least-loaded", "random-two", "ip-hash", "user")])
def test_a_newcomer_gets_more_than_its_share_rather_than_a_full_worker(new):
    policy = new()
    workers = {n: make_worker(n, 250) for n in range(2)}
    policy.join(workers[0].load, newcomer=False)
    policy.join(workers[1].load, newcomer=True)
    fill(policy, workers, 0)
    assert [hand(policy, workers).load.id for _ in range(5)] == [1] * 5
    fill(policy, workers, 0, 1)
    assert hand(policy, workers).load.id == 0, "both are full, and the newcomer has had its share"


def test_a_full_worker_that_is_suspect_comes_after_one_that_is_only_full_until_it_reports():
    policy = LeastLoaded()
    workers = fleet(policy, 2)
    fill(policy, workers, 0, 1)
    workers[0].load.suspect()
    policy.update(workers[0].load)
    assert [hand(policy, workers).load.id for _ in range(2)] == [1, 1]
    settle(policy, workers[0], full=True)
    assert [hand(policy, workers).load.id for _ in range(2)] == [0, 0]


def naive_choice(policy: LeastLoaded, workers: dict[int, Worker]) -> WorkerLoad | None:
    """The rule, written as a look at every worker."""

    def rank(load: WorkerLoad) -> tuple[int, int, int, int]:
        return load.cost, load.busy, policy.members[load.id].turn, load.id

    mine = [w for w in workers.values() if w.load.id in policy.members]
    roomy = [w.load for w in mine if w.has_room]
    full = [w.load for w in mine if w.load.is_merely_full() and not w.has_room]
    best = min(roomy, key=rank, default=None)
    if best and full and best.cost > min(load.cost for load in full) + FULL_MARGIN:
        return None  # better to wait for the emptier worker
    return best


CHANGES = ["take", "take all", "close", "suspend", "doubt", "report", "shorten", "lengthen", "join", "leave"]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["hand"] * 6
            + ["take", "take all", "close", "suspend", "doubt", "report", "shorten", "lengthen", "join", "leave"]
        ),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=120,
)


def take_step(policy: Policy, workers: dict[int, Worker], step: tuple[str, int, int], window: int, limit: int) -> None:
    """One random step; the policy is told what the dispatcher would tell it."""
    what, which, number = step
    worker = workers[sorted(workers)[which % len(workers)]]
    match what:
        case "hand":
            hand(policy, workers, (f"192.0.2.{number}", 1))
            return
        case "join":
            newest = max(workers) + 1
            workers[newest] = make_worker(newest, window, limit, slot=newest % 16)
            policy.join(workers[newest].load, newcomer=False)
            return
        case "leave" | "suspend" | "doubt" | "shorten" | "lengthen":
            change_from_outside(policy, workers, worker, what)
            return
        case "take":
            worker.take()
        case "take all":
            while worker.letterbox:
                worker.take()
        case "close":
            worker.close(number)
    settle(
        policy, worker, busy=number, taking=what != "report" or number < 8, full=what == "report" and number % 3 == 0
    )


def change_from_outside(policy: Policy, workers: dict[int, Worker], worker: Worker, what: str) -> None:
    """A change that does not come from the worker itself."""
    match what:
        case "leave":
            worker.load.serving = False
            policy.leave(worker.load)
        case "suspend":
            worker.load.suspended = True  # late: the policy is not told, ...
        case "doubt":
            worker.load.suspect()  # ... and not of suspects either
        case _:
            for each in workers.values():
                each.load.set_short(what == "shorten")
                policy.update(each.load)


@LAW
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 12), STEPS)
def test_the_index_chooses_as_a_look_at_every_worker_would(size, window, limit, steps):
    policy = LeastLoaded()
    workers = fleet(policy, size, window, limit)
    for step in steps:
        take_step(policy, workers, step, window, limit)
        wanted = naive_choice(policy, workers)
        assert policy.ready() == (wanted is not None)
        if wanted:
            assert policy.choose(PEER) is wanted


@LAW
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 12), st.lists(st.tuples(st.integers(0, 2), STEPS), max_size=12)
)
def test_the_index_is_right_also_where_workers_serve_several_listeners(size, window, limit, rounds):
    """Each listener has its own members; load and room belong to the workers, whichever listener they come from."""
    policies = [LeastLoaded(), LeastLoaded(), LeastLoaded()]
    workers = fleet(policies[0], size, window, limit)
    for n, worker in workers.items():
        for listener in (1, 2):
            if n % (listener + 1) == 0:
                policies[listener].join(worker.load, newcomer=False)
    for listener, steps in rounds:
        for step in steps:
            before = set(policies[listener].members)
            take_step(policies[listener], workers, step, window, limit)
            tell_all(policies, workers, before, set(policies[listener].members), step[0])
            for policy in policies:
                wanted = naive_choice(policy, workers)
                assert policy.ready() == (wanted is not None)
                assert wanted is None or policy.choose(PEER) is wanted


def tell_all(policies: list[Policy], workers: dict[int, Worker], before: set[int], now: set[int], what: str) -> None:
    """A worker that leaves or joins one listener leaves or joins all, and reports are passed to all."""
    for policy in policies:
        for id_ in before - now:
            policy.leave(workers[id_].load)
        for id_ in now - before - set(policy.members):
            policy.join(workers[id_].load, newcomer=False)
        for worker in workers.values():
            if what not in ("hand", "suspend", "doubt"):
                policy.update(worker.load)


@every_policy
def test_a_worker_that_serves_one_listener_gets_nothing_from_another(new):
    one, other = new(), new()
    workers = fleet(one, 4)
    for n in (1, 3):
        other.join(workers[n].load, newcomer=False)
    given = {hand(other, workers, (f"192.0.2.{n}", 1)).load.id for n in range(40)}
    assert given <= {1, 3}
    for n in (1, 3):
        other.leave(workers[n].load)
    assert not other.ready()
    assert one.ready()


def test_least_loaded_counts_what_came_through_the_other_listener():
    one, other = LeastLoaded(), LeastLoaded()
    workers = fleet(one, 3)
    for worker in workers.values():
        other.join(worker.load, newcomer=False)
    for n in range(60):
        hand((one, other)[n % 2], workers)
    for _ in range(30):
        hand(other, workers)
    assert connections(workers) == [30] * 3


def test_a_worker_filled_again_through_another_listener_is_not_forgotten():
    one, other = LeastLoaded(), LeastLoaded()
    workers = fleet(one, 1, window=1)
    (worker,) = workers.values()
    other.join(worker.load, newcomer=False)
    assert hand(one, workers)
    assert not one.ready(), "it is full"
    worker.take()
    assert hand(other, workers)
    assert not one.ready(), "full again, with more than before"
    worker.take()
    assert one.ready(), "no report is needed to see that it has room"


def test_the_index_does_not_grow_with_the_connections():
    policy = LeastLoaded()
    workers = fleet(policy, 3)
    for _ in range(5_000):
        worker = hand(policy, workers)
        worker.take()
        worker.close(1)
        settle(policy, worker)
    assert len(policy._heap) + len(policy._full) + len(policy._waiting) < 200


# --- any policy


@every_policy
@LAW
@given(st.integers(1, 6), st.integers(1, 8), st.integers(1, 12), STEPS, st.randoms(use_true_random=False))
def test_no_worker_without_room_is_ever_chosen(new, size, window, limit, steps, chance):
    """Also where workers take and have not reported yet, and the master's last count of a letterbox is old."""
    policy = new()
    workers = fleet(policy, size, window, limit)
    for step in steps:
        take_step(policy, workers, step, window, limit)
        for worker in workers.values():
            if chance.random() < 0.1:
                worker.take()
        if policy.ready():
            chosen = workers[policy.choose(PEER).id]
            assert chosen.has_room
            assert chosen.load.id in policy.members
    # A worker that has room, and has reported it, can be chosen.
    for worker in workers.values():
        settle(policy, worker)
    if not policy.ready():
        full = [w.load.connections for w in workers.values() if w.load.is_merely_full() and not w.has_room]
        assert not [
            w for w in workers.values() if w.has_room and w.load.connections <= min(full, default=10**9) + FULL_MARGIN
        ]


@every_policy
def test_while_all_workers_are_full_a_policy_is_not_ready_and_one_taken_makes_room(new):
    policy = new()
    workers = fleet(policy, 3, window=2)
    for n in range(6):
        assert hand(policy, workers, (f"192.0.2.{n}", 1))
    assert not policy.ready()
    workers[1].take()
    settle(policy, workers[1])
    assert hand(policy, workers) is workers[1]
    assert not policy.ready()


@every_policy
def test_a_worker_at_its_limit_gets_no_more_until_it_closes_one(new):
    policy = new()
    workers = fleet(policy, 2, limit=3)
    for n in range(6):
        assert hand(policy, workers, (f"192.0.2.{n}", 1))
        serve_all(policy, workers)
    assert not policy.ready()
    workers[0].close(1)
    settle(policy, workers[0])
    assert hand(policy, workers) is workers[0]


@every_policy
def test_a_worker_that_reports_a_pause_gets_none_until_it_reports_the_end(new):
    policy = new()
    workers = fleet(policy, 2)
    settle(policy, workers[0], taking=False)
    assert {hand(policy, workers, (f"192.0.2.{n}", 1)).load.id for n in range(20)} == {1}
    settle(policy, workers[0], taking=True)
    serve_all(policy, workers)
    assert 0 in {hand(policy, workers, (f"192.0.2.{n}", 1)).load.id for n in range(20)}


@every_policy
def test_a_worker_that_has_left_is_never_chosen(new):
    policy = new()
    workers = fleet(policy, 3)
    policy.ready()
    policy.leave(workers[1].load)
    policy.update(workers[1].load)  # a report that arrives late
    for n in range(30):
        assert hand(policy, workers, (f"192.0.2.{n}", 1)) is not workers[1]


@every_policy
def test_a_policy_without_workers_is_not_ready(new):
    assert not new().ready()


def test_policies_have_the_names_that_the_settings_know():
    assert {name: type(policy_named(name, random.Random())).name for name in NAMES} == {name: name for name in NAMES}


# --- newcomers


not_round_robin = pytest.mark.parametrize(
    "new", [POLICIES[n] for n in ("least-loaded", "random-two", "ip-hash", "user")]
)


@not_round_robin
@LAW
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 20), st.lists(st.integers(0, 30), max_size=150))
def test_a_newcomer_gets_no_more_than_its_fair_share(new, old, fresh, held, closings):
    policy = new()
    workers = fleet(policy, old)
    for _ in range(held * old):
        hand(policy, workers)
    serve_all(policy, workers)
    newcomers = {n: make_worker(n) for n in range(old, old + fresh)}
    workers |= newcomers
    for worker in newcomers.values():
        policy.join(worker.load, newcomer=True)
    given_before = {n: worker.load.handed for n, worker in workers.items()}
    for choices, which in enumerate(closings, 1):
        assert hand(policy, workers)
        serve_all(policy, workers)
        workers[which % len(workers)].close(1)
        settle(policy, workers[which % len(workers)])
        for n, worker in newcomers.items():
            assert worker.load.handed - given_before[n] <= ceil(choices / len(workers))


def test_least_loaded_gives_a_newcomer_its_whole_share_and_then_what_it_lacks():
    policy = LeastLoaded()
    workers = fleet(policy, 3)
    for _ in range(300):
        hand(policy, workers)
    workers[3] = make_worker(3, 250)
    policy.join(workers[3].load, newcomer=True)
    for _ in range(40):
        hand(policy, workers)
    assert workers[3].load.connections == 10
    policy.end_newcomer(workers[3].load)
    for _ in range(100):
        assert hand(policy, workers) is workers[3]
    assert max(connections(workers)) - min(connections(workers)) <= 1


@not_round_robin
def test_a_newcomer_gets_all_if_no_other_worker_has_room(new):
    policy = new()
    workers = fleet(policy, 3, window=2)
    while hand(policy, workers):
        pass
    workers[3] = make_worker(3, window=8)
    policy.join(workers[3].load, newcomer=True)
    for _ in range(8):
        assert hand(policy, workers) is workers[3]
    assert not policy.ready()


# --- round robin


@LAW
@given(st.integers(1, 40), st.integers(0, 300))
def test_round_robin_goes_in_turn_over_workers_that_take_at_once(size, count):
    policy = RoundRobin()
    workers = fleet(policy, size)
    for _ in range(count):
        hand(policy, workers).take()
    assert max(connections(workers)) - min(connections(workers)) <= 1


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_round_robin_is_the_order_of_taking(order):
    """Node's free list: a worker that has taken its connection queues up again."""
    policy = RoundRobin()
    workers = fleet(policy, 4)
    assert [hand(policy, workers).load.id for _ in range(4)] == [0, 1, 2, 3]
    for n in order:
        workers[n].take()
        policy.ready()  # the master looks
    assert tuple(hand(policy, workers).load.id for _ in range(4)) == order


def test_round_robin_skips_a_worker_that_has_not_taken_while_others_are_free():
    policy = RoundRobin()
    workers = fleet(policy, 4)
    for _ in range(60):
        worker = hand(policy, workers)
        if worker is not workers[2]:
            worker.take()
    assert connections(workers)[2] == 1
    workers[2].take()
    assert workers[2] in [hand(policy, workers) for _ in range(4)]


@pytest.mark.parametrize("size", range(1, 25))
def test_round_robin_goes_in_turn_also_while_no_worker_takes(size):
    """While no worker is free the window lets one connection wait behind another, and still all get one in turn."""
    policy = RoundRobin()
    workers = fleet(policy, size, window=8)
    for _ in range(8 * size):
        assert hand(policy, workers)
        assert max(connections(workers)) - min(connections(workers)) <= 1


# --- random two


@LAW
@given(st.integers(1, 10), st.integers(0, 2**32), st.lists(st.integers(0, 9), max_size=60))
def test_random_two_never_picks_the_more_loaded_of_its_pair(size, seed, closings):
    policy, twin = RandomTwo(random=random.Random(seed)), random.Random(seed)
    workers = fleet(policy, size)
    for which in closings:
        pair = twin.sample([w.load for w in workers.values()], min(2, size))
        before = [load.connections for load in pair]
        assert hand(policy, workers).load.connections - 1 == min(before)
        serve_all(policy, workers)
        workers[which % size].close(2)
        settle(policy, workers[which % size])


def test_random_two_keeps_the_load_close_to_the_mean():
    """Two choices: log log n above the mean, where one choice would be some 40 above it."""
    policy = RandomTwo(random=random.Random(7))
    workers = fleet(policy, 16)
    for _ in range(1600):
        hand(policy, workers)
        serve_all(policy, workers)
    assert max(connections(workers)) <= 105


# --- ip-hash


hosts = st.ip_addresses().map(str)


@LAW
@given(hosts, st.integers(1, 20), st.lists(st.integers(1, 65535), min_size=1, max_size=5))
def test_the_same_client_gets_the_same_worker(host, size, ports):
    policy = IpHash()
    workers = fleet(policy, size)
    chosen = set()
    for port in ports:
        worker = hand(policy, workers, (host, port))
        chosen.add(worker.load.slot)
        worker.take()
        worker.close(1)
        settle(policy, worker)
    assert len(chosen) == 1


def test_a_client_finds_its_worker_with_all_connections_of_a_browser_and_beside_those_of_others():
    policy = IpHash()
    workers = fleet(policy, 4)
    assert len({hand(policy, workers, ("10.0.0.1", port)).load.slot for port in range(6)}) == 1
    hosts_of = {host: policy.choose((host, 1)).slot for host in (f"10.0.0.{n}" for n in range(1, 21))}
    for host, slot in hosts_of.items():
        if connections(workers)[slot] < STICKY_LEAST:
            assert hand(policy, workers, (host, 1)).load.slot == slot, host


@LAW
@given(st.lists(hosts, max_size=60), st.integers(1, 12))
def test_stickiness_overloads_no_worker(clients, size):
    """Consistent hashing with bounded loads: no worker above ceil(1.25 of the mean), the new one included, or 8."""
    policy = IpHash()
    workers = fleet(policy, size)
    for host in clients:
        worker = hand(policy, workers, (host, 1))
        assert worker.load.connections <= max(ceil(STICKY_BOUND * sum(connections(workers)) / size), STICKY_LEAST)


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_a_single_client_with_many_connections_overloads_no_worker(size):
    policy = IpHash()
    workers = fleet(policy, size)
    for _ in range(10 * size):
        worker = hand(policy, workers, PEER)
        assert worker.load.connections <= max(ceil(STICKY_BOUND * sum(connections(workers)) / size), STICKY_LEAST)


@LAW
@given(st.lists(hosts, min_size=1, max_size=50), st.integers(2, 12), st.data())
def test_a_worker_that_leaves_moves_only_its_own_clients(clients, size, data):
    policy = IpHash()
    workers = fleet(policy, size)

    def homes() -> dict[str, int]:
        assert policy.ready()
        return {host: policy.choose((host, 1)).slot for host in clients}

    before, gone = homes(), data.draw(st.integers(0, size - 1))
    policy.leave(workers[gone].load)
    after = homes()
    assert all(after[host] == before[host] for host in clients if before[host] != gone)
    policy.join(make_worker(99, slot=gone).load, newcomer=False)
    assert homes() == before, "a replacement inherits its slot's clients"


def test_clients_are_spread_over_all_slots():
    policy = IpHash()
    fleet(policy, 8)
    policy.ready()
    counts = [0] * 8
    for n in range(8_000):
        counts[policy.choose((f"10.{n % 7}.{n // 256}.{n % 256}", 1)).slot] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


@pytest.mark.parametrize("peer", ["", b"\0abstract", None])
def test_clients_without_an_address_go_to_the_least_loaded(peer):
    policy = IpHash()
    workers = fleet(policy, 4)
    for _ in range(40):
        assert hand(policy, workers, peer)
    assert connections(workers) == [10] * 4


# --- the user's own policy


def test_the_users_policy_is_given_the_workers_with_room_and_the_peer():
    seen = []

    def rule(candidates, peer):
        seen.append((candidates, peer))
        return candidates[-1]

    policy = UserPolicy(rule=rule, on_error=pytest.fail)
    workers = fleet(policy, 3, window=1)
    assert [hand(policy, workers).load.id for _ in range(3)] == [2, 1, 0]
    assert seen[1] == ((Candidate(0, 0, 0, 0), Candidate(1, 1, 0, 0)), PEER)


def raises(candidates, peer):
    raise RuntimeError("no idea")


@pytest.mark.parametrize(
    "rule",
    [
        raises,
        lambda candidates, peer: None,
        lambda candidates, peer: 0,
        lambda candidates, peer: list(candidates),
        lambda candidates, peer: Candidate(77, 77, 0, 0),
        lambda candidates, peer: candidates[99],
        lambda candidates: candidates[0],
    ],
)
def test_the_failure_of_a_users_policy_is_reported_and_the_least_loaded_is_chosen(rule):
    errors = []
    policy = UserPolicy(rule=rule, on_error=errors.append)
    workers = fleet(policy, 4)
    for n in range(8):
        assert hand(policy, workers)
        assert len(errors) == n + 1
    assert connections(workers) == [2] * 4
    assert "the policy failed" in errors[0]


# --- workers that leave a listener and come back


@every_policy
def test_a_worker_may_leave_and_come_back_as_often_as_it_likes(new):
    policy, workers = new(), [make_worker(n) for n in range(3)]
    for worker in workers:
        policy.join(worker.load, newcomer=False)
    for _ in range(5):
        policy.leave(workers[0].load)
        policy.join(workers[0].load, newcomer=False)
        assert policy.ready()
        policy.count_handoff(policy.choose(("127.0.0.1", 1)))
    assert sum(worker.load.handed for worker in workers) == 5
