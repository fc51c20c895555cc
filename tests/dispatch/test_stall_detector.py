"""Late workers and suspects: each worker that takes nothing, none that does, and none for a pause of the master."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.dispatch.load import SUSPECT_PENALTY, WorkerLoad
from rrmaster.dispatch.stall_detector import LENGTHEN_AT, SHORTEN_AT, STUCK, StallDetector, idle_receivers
from rrmaster.protocol import wire
from rrmaster.protocol.wire import REPORT_AFTER
from tests.dispatch.workers import Worker, make_worker

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def late_at(detector: StallDetector, now: float, *worker_loads: WorkerLoad) -> list[WorkerLoad]:
    return [load for load in detector.late(now) if load in worker_loads]


def give(detector: StallDetector, worker: Worker, now: float) -> None:
    worker.letterbox.append("handoff")
    worker.load.handed += 1
    worker.load.unclaimed += 1
    detector.watch(worker.load, now)


def test_a_worker_that_takes_nothing_for_the_time_is_late():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    assert detector.due == 15
    assert detector.late(14) == []
    assert detector.late(15) == [worker.load]
    assert detector.due == 15 + REPORT_AFTER, "now the detector waits only for a report"
    assert worker.load.late_in_a_row == 1


def test_a_worker_that_has_taken_all_is_not_late():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    worker.take()
    worker.load.apply(wire.Report(0))
    assert detector.late(15) == []
    assert detector.due == float("inf")


def test_progress_gives_the_whole_time_again():
    detector, worker = StallDetector(5), make_worker(0)
    worker.load.late_in_a_row = 2
    give(detector, worker, 10)
    give(detector, worker, 10)
    worker.take()
    assert detector.late(15) == []
    assert worker.load.late_in_a_row == 0
    assert detector.late(19) == []
    assert detector.late(20) == [worker.load]


def test_a_report_ends_a_row_of_late_judgements():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    assert detector.late(15) == [worker.load]
    worker.load.apply(wire.Report(0))
    assert worker.load.late_in_a_row == 0


def test_a_worker_dismissed_meanwhile_is_not_late():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    worker.load.serving = False
    assert detector.late(15) == []


def test_a_nudge_in_the_letterbox_is_no_connection_to_be_late_with():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    worker.letterbox.append("nudge")
    worker.load.asides_sent += 1
    worker.take()
    assert detector.late(15) == []


def test_after_a_pause_of_the_master_each_worker_gets_the_whole_time():
    detector, workers = StallDetector(5), [make_worker(n) for n in range(3)]
    for now, worker in enumerate(workers):
        give(detector, worker, now)
    detector.restart(100)
    assert detector.due == 105
    assert detector.late(104) == []
    assert detector.late(105) == [worker.load for worker in workers]


@LAW
@given(
    st.lists(st.tuples(st.sampled_from(["give", "take", "look"]), st.integers(0, 2), st.integers(0, 4)), max_size=80)
)
def test_no_worker_that_has_taken_something_within_the_time_is_late(steps):
    after, now = 5, 0
    detector, workers = StallDetector(after), [make_worker(n) for n in range(3)]
    moved = {worker.load: 0 for worker in workers}  # when it last took something, or last had nothing to take
    for what, which, wait in steps:
        now += wait
        worker = workers[which]
        if what == "give":
            if not worker.letterbox:
                moved[worker.load] = now
            give(detector, worker, now)
        elif what == "take" and worker.letterbox:
            worker.take()
            moved[worker.load] = now
        elif what == "look":
            for load in detector.late(now):
                assert now - moved[load] >= after
                detector.watch(load, now)


@LAW
@given(st.lists(st.integers(0, 3), max_size=20))
def test_a_worker_that_stops_taking_is_late_within_twice_the_time(gives):
    """Twice, since the count that its progress is measured by may be old at first."""
    detector, worker, now = StallDetector(5), make_worker(0), 0
    for wait in gives:
        now += wait
        give(detector, worker, now)
        detector.late(now)
        worker.take()
    give(detector, worker, now)
    found = [moment for moment in range(now, now + 11) if detector.late(moment)]
    assert len(found) == 1


def test_looking_costs_what_is_due_and_no_more():
    """Each worker stands once in the queue, however many it was handed."""
    detector, worker = StallDetector(5), make_worker(0)
    for _ in range(1000):
        give(detector, worker, 10)
    assert len(detector._queue) == 1


# --- suspicion


def suspected(detector: StallDetector, worker: Worker, now: float = 10) -> Worker:
    """It is given something, takes it, and does not report."""
    give(detector, worker, now)
    worker.take()
    assert detector.late(now + detector.recall_after) == []
    detector.late(now + detector.recall_after + REPORT_AFTER)
    assert worker.load.penalty == SUSPECT_PENALTY
    return worker


def test_a_worker_that_takes_something_and_reports_nothing_is_suspect_until_it_reports():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    worker.take()
    assert detector.late(15) == [], "it has taken all, so it is not late"
    assert worker.load.penalty == 0, "its report may still come"
    assert detector.due == 15 + REPORT_AFTER
    detector.late(detector.due)
    assert detector.suspects == {worker.load}
    assert worker.load.cost == worker.load.connections + SUSPECT_PENALTY
    assert detector.due == float("inf"), "there is nothing to do about it"
    worker.load.apply(wire.Report(0))
    detector.clear(worker.load)
    assert detector.suspects == set()
    assert worker.load.cost == worker.load.connections


@pytest.mark.parametrize("at", [11, 15])
def test_a_worker_that_reports_in_time_is_not_suspect(at):
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    worker.take()
    for now in (at, 15, 16):
        if now == at:
            detector.late(now)
            worker.load.apply(wire.Report(0))
        detector.late(now)
    assert detector.suspects == set()


def test_a_worker_dismissed_meanwhile_is_not_suspect():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    detector.late(15)
    worker.load.serving = False
    detector.late(16)
    assert detector.suspects == set()


def test_after_a_pause_of_the_master_no_worker_is_suspect_for_it():
    detector, worker = StallDetector(5), make_worker(0)
    give(detector, worker, 10)
    detector.late(15)
    worker.take()
    detector.restart(100)
    detector.late(104)
    assert detector.suspects == set()


def test_a_suspect_that_is_given_more_is_watched_as_any_other():
    detector, worker = StallDetector(5), make_worker(0)
    suspected(detector, worker)
    give(detector, worker, 30)
    assert detector.late(35) == [worker.load]


@pytest.mark.parametrize("workers", [1, 4, 8, 9])
def test_letterboxes_are_short_from_half_of_the_workers_on_until_less_than_a_quarter(workers):
    detector, short = StallDetector(5), False
    crew = [make_worker(n) for n in range(workers)]
    seen = []
    for worker in crew:
        suspected(detector, worker)
        short = detector.many_suspect(workers, short)
        seen.append(short)
    assert seen == [SHORTEN_AT * count >= workers for count in range(1, workers + 1)]
    seen.clear()
    for worker in crew:
        detector.clear(worker.load)
        short = detector.many_suspect(workers, short)
        seen.append(short)
    assert seen == [left > 0 and LENGTHEN_AT * left >= workers for left in range(workers - 1, -1, -1)]


@LAW
@given(st.lists(st.tuples(st.sampled_from(["give", "take", "say", "look"]), st.integers(0, 4)), max_size=60))
def test_a_suspect_was_given_something_and_has_not_reported_for_the_time(steps):
    detector, worker, now, given_at = StallDetector(5), make_worker(0), 0, None
    for what, wait in steps:
        now += wait
        if what == "give":
            give(detector, worker, now)
            given_at = now if given_at is None else given_at
        elif what == "take":
            worker.take()
        elif what == "say":
            worker.load.apply(worker.report())
            detector.clear(worker.load)
            given_at = now if worker.letterbox else None
        detector.late(now)
        assert bool(worker.load.penalty) == (worker.load in detector.suspects)
        if worker.load.penalty:
            assert given_at is not None
            assert now - given_at >= detector.recall_after


# --- which workers may get a late worker's connections


def test_a_full_worker_is_a_receiver_only_for_what_a_stuck_worker_has():
    late, full = make_worker(0), make_worker(1)
    late.letterbox.extend(["handoff"] * 2)
    late.load.handed = late.load.unclaimed = 2
    full.load.apply(full.report(full=True))
    assert idle_receivers(late.load, [late.load, full.load]) == []
    late.load.late_in_a_row = STUCK
    assert idle_receivers(late.load, [late.load, full.load]) == [full.load]


def test_a_full_worker_is_suspected_as_any_other():
    detector, worker = StallDetector(0.003), make_worker(0)
    worker.load.apply(worker.report(full=True))
    worker.load.count_handoff()
    worker.letterbox.append("handoff")
    worker.take()
    detector.watch(worker.load, 0.0)
    worker.load.recount()
    detector.late(0.004)
    detector.late(1.0)
    assert detector.suspects == {worker.load}


def test_receivers_are_idle_workers_with_less_to_do():
    late, idle, waiting, busier, suspended, gone, suspect = (make_worker(n) for n in range(7))
    late.letterbox.extend(["handoff"] * 2)
    late.load.handed = late.load.unclaimed = 2
    waiting.letterbox.append("handoff")
    waiting.load.handed = waiting.load.unclaimed = 1
    busier.load.handed = 5
    suspended.load.suspended = True
    gone.load.serving = False
    suspect.load.suspect()
    worker_loads = [w.load for w in (late, idle, waiting, busier, suspended, gone, suspect)]
    assert len(idle_receivers(late.load, worker_loads)) == 1
    late.load.late_in_a_row = STUCK
    assert len(idle_receivers(late.load, worker_loads)) == 2, "from a stuck one it is moved to a busier one, too"
    waiting.take()
    assert len(idle_receivers(late.load, worker_loads)) == 3, (
        "a worker that has taken meanwhile is idle: the kernel is asked"
    )
