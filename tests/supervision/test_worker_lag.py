"""How late is a worker's loop: the worst is kept for a while, and a report that is overdue counts at once."""

from __future__ import annotations

from typing import Any

from rrmaster.protocol.wire import Report
from rrmaster.rules.lifecycle import State
from rrmaster.rules.recycling import Wear
from rrmaster.supervision.worker_record import LAG_WINDOW, WorkerRecord

HEARTBEAT = 0.5


def a_record() -> WorkerRecord:
    nothing: Any = None
    wear: Any = Wear
    record = WorkerRecord(1, 0, 1, nothing, nothing, 0.0, 0.0, wear)
    record.became_ready()
    return record


def say(worker: WorkerRecord, now: float, lag: float = 0.0) -> None:
    worker.heard_from(now)
    worker.reported(Report(0, lag_us=int(lag * 1e6)), HEARTBEAT)


def test_an_overdue_report_shows_at_once_and_grows():
    worker = a_record()
    say(worker, 100.0)
    assert worker.lag(100.4, HEARTBEAT) == 0.0
    assert worker.lag(101.5, HEARTBEAT) == 1.0
    assert worker.lag(103.5, HEARTBEAT) == 3.0
    assert [worker.overdue(now, HEARTBEAT) for now in (100.4, 101.5, 103.5)] == [0.0, 1.0, 3.0]
    say(worker, 104.0)
    assert worker.overdue(104.1, HEARTBEAT) == 0.0, "it is well again"


def test_a_worker_that_has_ended_is_not_later_and_later():
    worker = a_record()
    say(worker, 100.0, 0.2)
    worker.enter(State.GONE, 100.1)
    assert worker.lag(101.5, HEARTBEAT) == 0.2


def test_the_worst_outlives_the_reports_that_follow_it():
    worker = a_record()
    say(worker, 100.0, 3.0)
    for number in range(9):
        say(worker, 100.002 + number * HEARTBEAT)
        assert worker.lag(100.002 + number * HEARTBEAT, HEARTBEAT) == 3.0


def test_the_worst_is_kept_for_one_window_and_forgotten_after_two():
    worker = a_record()
    say(worker, 100.0)
    say(worker, 100.0 + LAG_WINDOW - 0.1, 3.0)
    now = 100.0 + LAG_WINDOW
    while now < 100.0 + 2 * LAG_WINDOW - 0.2:
        say(worker, now)
        assert worker.lag(now, HEARTBEAT) == 3.0
        now += HEARTBEAT
    say(worker, 100.0 + 2 * LAG_WINDOW)
    assert worker.lag(100.0 + 2 * LAG_WINDOW, HEARTBEAT) == 0.0
