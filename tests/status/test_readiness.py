"""Readiness: a yes means that a new connection would be served."""

import pytest
from attrs import evolve

from rrmaster.config.readiness import ReadyWhen, parse_ready_when
from rrmaster.status.readiness import why_not_ready
from tests.status.snapshots import a_snapshot, a_worker

ANY = ReadyWhen(count=1)


def fleet(size, *workers):
    return evolve(a_snapshot(), size=size, workers=workers)


SERVES = a_worker(state="serving", taking=True)
BOOTS = a_worker(state="booting")
DRAINS = a_worker(state="draining")
PAUSED = a_worker(state="serving", taking=False)
BLOCKED = a_worker(state="serving", taking=True, suspended=True, overdue_ms=1_500)
BLOCKED_WITHOUT_TRAFFIC = a_worker(state="serving", taking=True, suspended=False, overdue_ms=1_500)
BRIEFLY_BLOCKED = a_worker(state="serving", taking=True, suspended=True, overdue_ms=20)
GIVEN_NONE = a_worker(state="serving", taking=True, suspended=True, silent_ms=300)
TAKES_NONE = a_worker(state="serving", taking=True, unclaimed=1, silent_ms=300)
SILENT_FOR_A_MOMENT = a_worker(state="serving", taking=True, suspended=True, unclaimed=1, silent_ms=40)
IDLE = a_worker(state="serving", taking=True, unclaimed=0, silent_ms=490)
WAS_BLOCKED = a_worker(state="serving", taking=True, suspended=True, overdue_ms=0, lag_us=1_500_000)


@pytest.mark.parametrize(
    ("workers", "ready"),
    [
        ([], False),
        ([BOOTS, BOOTS], False),
        ([DRAINS, BOOTS], False),
        ([PAUSED, BOOTS], False),
        ([SERVES, BOOTS], True),
        ([PAUSED, SERVES], True),
        ([BLOCKED, BLOCKED], False),
        ([BLOCKED_WITHOUT_TRAFFIC, BLOCKED], False),
        ([BRIEFLY_BLOCKED, BLOCKED], True),
        ([WAS_BLOCKED, BLOCKED], True),
        ([GIVEN_NONE, TAKES_NONE], False),
        ([SILENT_FOR_A_MOMENT, TAKES_NONE], True),
        ([IDLE, GIVEN_NONE], True),
    ],
)
def test_a_fleet_is_ready_when_a_worker_takes_connections(workers, ready):
    assert (why_not_ready(fleet(2, *workers), ANY) == "") is ready


def test_a_fleet_that_stops_is_not_ready_though_its_workers_serve():
    assert why_not_ready(fleet(0, SERVES, SERVES), ANY) == "the master is stopping"


@pytest.mark.parametrize(
    ("text", "size", "needed"),
    [
        ("any", 8, 1),
        ("all", 8, 8),
        ("3", 8, 3),
        ("50%", 8, 4),
        ("50%", 3, 2),
        ("1%", 8, 1),
        ("100%", 8, 8),
        ("all", 1, 1),
    ],
)
def test_how_many_must_take_connections_is_a_number_or_a_share(text, size, needed):
    assert parse_ready_when(text).needed(size) == needed


@pytest.mark.parametrize("text", ["", "none", "0", "0%", "101%", "-1", "1.5", "x%", "%", "2000", "٣"])
def test_anything_else_says_what_to_write(text):
    with pytest.raises(ValueError, match="write all, any, N or N%"):
        parse_ready_when(text)


def test_the_reason_says_how_many_are_missing():
    found = why_not_ready(fleet(4, SERVES, SERVES), parse_ready_when("all"))
    assert found == "2 of 4 workers take connections, and 4 must"
