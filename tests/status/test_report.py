"""The lines of `status`: troubles, the master, its listeners and counters, its reload."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.status.model import DeadlyRequest, ReloadStatus, WorkerStatus
from rrmaster.status.report import RESULTS, reload_line, report, troubles
from rrmaster.status.tables import NARROWEST
from tests.status.snapshots import FOUR, a_snapshot, a_worker, some_workers


@given(some_workers, st.integers(NARROWEST, 250))
def test_no_line_is_wider_than_the_terminal(workers: list[WorkerStatus], width: int) -> None:
    snapshot = a_snapshot(*workers, refused="Traceback\n  RuntimeError: " + "x" * 100)
    assert max(len(line) for line in report(snapshot, width)) <= width


@given(some_workers)
def test_no_control_character_reaches_the_terminal(workers: list[WorkerStatus]) -> None:
    snapshot = a_snapshot(*workers, refused="\x1b[31mred", application="a\x07:b")
    assert all(line.isprintable() for line in report(snapshot, 120))


def test_a_healthy_master_has_no_troubles() -> None:
    assert troubles(FOUR) == []


def test_troubles_stand_first() -> None:
    snapshot = evolve(FOUR, crash_loop=True, refused="Traceback ...\nRuntimeError: bad", workers=())
    first, second, third, *_ = report(snapshot, 100)
    assert "crash loop" in first
    assert second.endswith("code on disk was refused: RuntimeError: bad")
    assert "no worker serves" in third


def test_the_request_that_was_in_hand_at_most_deaths_is_a_trouble() -> None:
    deadly = (DeadlyRequest("GET /boom", 14), DeadlyRequest("GET /shop", 1))
    assert troubles(evolve(FOUR, deadly_requests=deadly)) == [
        "a request kills workers: GET /boom was in hand when 14 workers died in the last minutes"
    ]


@pytest.mark.parametrize(
    ("stuck", "said"), [(0, "2 of 2 workers serve, "), (2, "2 of 2 workers serve (0 take connections now)")]
)
def test_the_first_line_says_if_workers_that_serve_take_nothing(stuck: int, said: str) -> None:
    workers = [a_worker(slot, overdue_ms=5_000 if slot < stuck else 0) for slot in range(2)]
    assert said in " ".join(report(a_snapshot(*workers), 200))


def test_a_backlog_that_the_kernel_does_not_tell_is_a_dash() -> None:
    text = "\n".join(report(FOUR, 100))
    assert "127.0.0.1:8000, backlog 3 of 2048" in text
    assert "unix:/run/shop.sock, backlog - of 2048" in text


def test_a_master_that_stops_says_so() -> None:
    assert "stopping, 1 worker left" in "\n".join(report(a_snapshot(a_worker(state="draining"), size=0), 100))


def test_a_reload_that_runs_shows_its_phase_and_one_that_ended_its_result() -> None:
    assert reload_line(ReloadStatus("probation", 3)) == "generation 3: probation"
    refused = ReloadStatus("refused", 3, 10, "Traceback\nValueError: no")
    assert reload_line(refused) == "generation 3 was refused before any traffic: ValueError: no"
    assert set(RESULTS) == {0, 10, 11, 12, 13}


def test_a_rollback_is_no_trouble_and_is_said() -> None:
    def disk(**more: object) -> list[str]:
        return [line for line in report(evolve(FOUR, **more), 120) if line.startswith("disk")]

    assert not troubles(evolve(FOUR, gone_back=True))
    assert len(disk(gone_back=True)) == 1
    assert disk() == disk(gone_back=True, refused="SyntaxError") == []
