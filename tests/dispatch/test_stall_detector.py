"""Who is late: nobody who takes, everybody who does not, and not because we were away ourselves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.dispatch.load import DOUBT, Post
from rrmaster.dispatch.stall_detector import FEW, MANY, STUCK, Lateness, receivers
from rrmaster.protocol import wire
from rrmaster.protocol.wire import REPORT_AFTER
from tests.dispatch.workers import Worker, hire

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def late_at(lateness: Lateness, now: float, *posts: Post) -> list[Post]:
    return [post for post in lateness.late(now) if post in posts]


def give(lateness: Lateness, worker: Worker, now: float) -> None:
    worker.letterbox.append("handoff")
    worker.post.handed += 1
    worker.post.unclaimed += 1
    lateness.watch(worker.post, now)


def test_late_is_who_takes_nothing_for_the_time():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    assert lateness.due == 15
    assert lateness.late(14) == []
    assert lateness.late(15) == [worker.post]
    assert lateness.due == 15 + REPORT_AFTER, "only whether it says anything is of interest now"
    assert worker.post.strikes == 1


def test_who_has_taken_all_is_not_late():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    worker.take()
    worker.post.settle(wire.Report(0))
    assert lateness.late(15) == []
    assert lateness.due == float("inf")


def test_progress_gives_the_whole_time_again():
    lateness, worker = Lateness(5), hire(0)
    worker.post.strikes = 2
    give(lateness, worker, 10)
    give(lateness, worker, 10)
    worker.take()
    assert lateness.late(15) == []
    assert worker.post.strikes == 0
    assert lateness.late(19) == []
    assert lateness.late(20) == [worker.post]


def test_a_report_is_a_sign_of_life_and_forgives():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    assert lateness.late(15) == [worker.post]
    worker.post.settle(wire.Report(0))
    assert worker.post.strikes == 0


def test_who_was_dismissed_meanwhile_is_not_late():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    worker.post.serving = False
    assert lateness.late(15) == []


def test_a_nudge_in_the_letterbox_is_no_connection_to_be_late_with():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    worker.letterbox.append("nudge")
    worker.post.asides += 1
    worker.take()
    assert lateness.late(15) == []


def test_after_an_absence_of_our_own_everybody_gets_the_whole_time():
    lateness, workers = Lateness(5), [hire(n) for n in range(3)]
    for now, worker in enumerate(workers):
        give(lateness, worker, now)
    lateness.restart(100)
    assert lateness.due == 105
    assert lateness.late(104) == []
    assert lateness.late(105) == [worker.post for worker in workers]


@LAW
@given(
    st.lists(st.tuples(st.sampled_from(["give", "take", "look"]), st.integers(0, 2), st.integers(0, 4)), max_size=80)
)
def test_nobody_is_late_who_has_taken_something_within_the_time(steps):
    after, now = 5, 0
    lateness, workers = Lateness(after), [hire(n) for n in range(3)]
    moved = {worker.post: 0 for worker in workers}  # when it last took something, or last had nothing to take
    for what, which, wait in steps:
        now += wait
        worker = workers[which]
        if what == "give":
            if not worker.letterbox:
                moved[worker.post] = now
            give(lateness, worker, now)
        elif what == "take" and worker.letterbox:
            worker.take()
            moved[worker.post] = now
        elif what == "look":
            for post in lateness.late(now):
                assert now - moved[post] >= after
                lateness.watch(post, now)


@LAW
@given(st.lists(st.integers(0, 3), max_size=20))
def test_who_takes_nothing_any_more_is_late_within_twice_the_time(gives):
    """Twice: the count that its progress is measured by may be old at first."""
    lateness, worker, now = Lateness(5), hire(0), 0
    for wait in gives:
        now += wait
        give(lateness, worker, now)
        lateness.late(now)
        worker.take()
    give(lateness, worker, now)
    found = [moment for moment in range(now, now + 11) if lateness.late(moment)]
    assert len(found) == 1


def test_looking_costs_what_is_due_and_no_more():
    """Each worker stands once in the queue, however many it was handed."""
    lateness, worker = Lateness(5), hire(0)
    for _ in range(1000):
        give(lateness, worker, 10)
    assert len(lateness._queue) == 1


# --- suspicion


def suspected(lateness: Lateness, worker: Worker, now: float = 10) -> Worker:
    """It is given something, takes it, and falls silent over it."""
    give(lateness, worker, now)
    worker.take()
    assert lateness.late(now + lateness.after) == []
    lateness.late(now + lateness.after + REPORT_AFTER)
    assert worker.post.doubt == DOUBT
    return worker


def test_suspect_is_who_takes_something_and_says_nothing_until_he_does():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    worker.take()
    assert lateness.late(15) == [], "it has taken all, so it is not late"
    assert worker.post.doubt == 0, "and it may still gather its news"
    assert lateness.due == 15 + REPORT_AFTER
    lateness.late(lateness.due)
    assert lateness.suspects == {worker.post}
    assert worker.post.burden == worker.post.load + DOUBT
    assert lateness.due == float("inf"), "nothing is to be done about it"
    worker.post.settle(wire.Report(0))
    lateness.clear(worker.post)
    assert lateness.suspects == set()
    assert worker.post.burden == worker.post.load


@pytest.mark.parametrize("at", [11, 15])
def test_who_says_something_in_time_is_not_suspect(at):
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    worker.take()
    for now in (at, 15, 16):
        if now == at:
            lateness.late(now)
            worker.post.settle(wire.Report(0))
        lateness.late(now)
    assert lateness.suspects == set()


def test_who_was_dismissed_meanwhile_is_not_suspect():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    lateness.late(15)
    worker.post.serving = False
    lateness.late(16)
    assert lateness.suspects == set()


def test_after_an_absence_of_our_own_nobody_is_suspect_for_it():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    lateness.late(15)
    worker.take()
    lateness.restart(100)
    lateness.late(104)
    assert lateness.suspects == set()


def test_a_suspect_is_watched_as_anybody_if_it_is_given_more():
    lateness, worker = Lateness(5), hire(0)
    suspected(lateness, worker)
    give(lateness, worker, 30)
    assert lateness.late(35) == [worker.post]


@pytest.mark.parametrize("workers", [1, 4, 8, 9])
def test_letterboxes_are_short_from_half_of_the_workers_on_until_less_than_a_quarter(workers):
    lateness, short = Lateness(5), False
    crew = [hire(n) for n in range(workers)]
    seen = []
    for worker in crew:
        suspected(lateness, worker)
        short = lateness.many(workers, short)
        seen.append(short)
    assert seen == [MANY * count >= workers for count in range(1, workers + 1)]
    seen.clear()
    for worker in crew:
        lateness.clear(worker.post)
        short = lateness.many(workers, short)
        seen.append(short)
    assert seen == [left > 0 and FEW * left >= workers for left in range(workers - 1, -1, -1)]


@LAW
@given(st.lists(st.tuples(st.sampled_from(["give", "take", "say", "look"]), st.integers(0, 4)), max_size=60))
def test_a_suspect_has_had_something_and_been_silent_for_the_time(steps):
    lateness, worker, now, given_at = Lateness(5), hire(0), 0, None
    for what, wait in steps:
        now += wait
        if what == "give":
            give(lateness, worker, now)
            given_at = now if given_at is None else given_at
        elif what == "take":
            worker.take()
        elif what == "say":
            worker.post.settle(worker.report())
            lateness.clear(worker.post)
            given_at = now if worker.letterbox else None
        lateness.late(now)
        assert bool(worker.post.doubt) == (worker.post in lateness.suspects)
        if worker.post.doubt:
            assert given_at is not None
            assert now - given_at >= lateness.after


# --- to whom the late one's connections may go


def test_receivers_are_the_idle_with_less_to_do():
    late, idle, waiting, busier, suspended, gone, suspect = (hire(n) for n in range(7))
    late.letterbox.extend(["handoff"] * 2)
    late.post.handed = late.post.unclaimed = 2
    waiting.letterbox.append("handoff")
    waiting.post.handed = waiting.post.unclaimed = 1
    busier.post.handed = 5
    suspended.post.suspended = True
    gone.post.serving = False
    suspect.post.doubt = DOUBT
    posts = [w.post for w in (late, idle, waiting, busier, suspended, gone, suspect)]
    assert len(receivers(late.post, posts)) == 1
    late.post.strikes = STUCK
    assert len(receivers(late.post, posts)) == 2, "from a stuck one it is moved to a busier one, too"
    waiting.take()
    assert len(receivers(late.post, posts)) == 3, "who has taken meanwhile is idle: the kernel is asked"
