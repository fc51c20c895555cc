"""A place that is free is told at once, because a request may wait for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rrmaster.protocol import wire
from rrmaster.worker.duty import Duty
from rrmaster.worker.load.places import AHEAD, FEW, PER_S, Places
from rrmaster.worker.load.requests import Requests
from tests.worker.test_duty import Master, finish, on_duty, take


@contextmanager
def with_places(most: int) -> Iterator[tuple[Master, Duty]]:
    with on_duty() as (master, duty):
        duty.count(Requests(one_at_a_time=True))
        duty.park_with(os.close, most)
        yield master, duty


def begin(duty: Duty) -> None:
    assert duty.requests is not None
    duty.requests.begin()
    if not duty.busy_report_due:
        duty.requests_changed()


def end(duty: Duty) -> None:
    assert duty.requests is not None
    duty.requests.end()
    if not duty.busy_report_due:
        duty.requests_changed()


def free_places(most: int, report: wire.Report, handed: int) -> int:
    """As the master counts them."""
    return most - (handed - report.closed + report.orphaned)


def test_a_connection_that_is_parked_from_within_its_last_call_frees_its_place_when_the_call_returns() -> None:
    with with_places(1) as (master, duty):
        master.hand()
        taken = take(duty)
        begin(duty)
        duty.gave_away(taken)
        assert master.heard() == [], "the request is in progress: its place is not free"
        end(duty)
        report = master.report()
        assert free_places(1, report, handed=1) == 1
        assert not duty.report_due, "no second report follows"
        finish(duty, taken)
        assert master.heard() == []


def test_a_request_that_goes_on_when_its_connection_is_parked_keeps_its_place_until_it_ends() -> None:
    with with_places(1) as (master, duty):
        master.hand()
        taken = take(duty)
        begin(duty)
        duty.gave_away(taken)
        finish(duty, taken)
        duty.report()  # 2 ms later
        assert free_places(1, master.report(), handed=1) == 0
        end(duty)
        assert free_places(1, master.report(), handed=1) == 1


def test_a_place_is_told_at_once_though_another_connection_lies_in_the_letterbox() -> None:
    """The worker does not see it, but the master has counted it: it may believe that all is taken."""
    with with_places(2) as (master, duty):
        master.hand(2)
        taken = take(duty)
        begin(duty)
        duty.gave_away(taken)
        end(duty)
        assert free_places(2, master.report(), handed=2) == 1


def test_a_worker_with_many_places_gathers_its_reports_until_they_are_nearly_taken() -> None:
    many = AHEAD + 10
    with with_places(many) as (master, duty):
        master.hand(10)
        taken = [take(duty) for _ in range(10)]
        finish(duty, taken[0])
        assert len(master.heard()) == 1, "with those in the letterbox all places may be taken"
        finish(duty, taken[1])
        assert master.heard() == []
        assert duty.report_due


def test_reports_at_once_are_never_a_flood() -> None:
    """The master takes more than 5,000 a second for a breach."""
    places, told, began = Places(1), 0, time.monotonic()
    for number in range(1, 20_000):
        if places.owes(number, number):
            places.has_told(number)
            told += 1
    assert told <= PER_S / 10 + PER_S * (time.monotonic() - began) + 1


def test_requests_cost_no_call_where_places_are_many() -> None:
    with with_places(FEW + 1) as (_, duty):
        begin(duty)
        assert duty.busy_report_due
    with with_places(FEW) as (_, duty):
        begin(duty)
        assert not duty.busy_report_due
