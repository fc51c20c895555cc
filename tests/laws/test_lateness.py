"""Who is late: nobody who takes, everybody who does not, and not because we were away ourselves."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster import wire
from rrmaster.balance import Post
from rrmaster.lateness import STUCK, Lateness, receivers
from tests.laws.workers import Worker, hire

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
    assert lateness.due == float("inf"), "it is watched no more"
    assert worker.post.strikes == 1


def test_who_has_taken_all_is_not_late():
    lateness, worker = Lateness(5), hire(0)
    give(lateness, worker, 10)
    worker.take()
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


# --- to whom the late one's connections may go


def test_receivers_are_the_idle_with_less_to_do():
    late, idle, waiting, busier, suspended, gone = (hire(n) for n in range(6))
    late.letterbox.extend(["handoff"] * 2)
    late.post.handed = late.post.unclaimed = 2
    waiting.letterbox.append("handoff")
    waiting.post.handed = waiting.post.unclaimed = 1
    busier.post.handed = 5
    suspended.post.suspended = True
    gone.post.serving = False
    posts = [w.post for w in (late, idle, waiting, busier, suspended, gone)]
    assert len(receivers(late.post, posts)) == 1
    late.post.strikes = STUCK
    assert len(receivers(late.post, posts)) == 2, "from a stuck one it is moved to a busier one, too"
    waiting.take()
    assert len(receivers(late.post, posts)) == 3, "who has taken meanwhile is idle: the kernel is asked"
