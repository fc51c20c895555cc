"""One snapshot, and its forms for people and programs."""

from __future__ import annotations

import json
import math

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from rrmaster.status.model import (
    NARROWEST,
    RESULTS,
    ListenerStatus,
    ReloadStatus,
    Snapshot,
    WorkerStatus,
    as_json_text,
    duration,
    from_json,
    lag,
    plain,
    reload_line,
    report,
    shown_state,
    size,
    sparkline,
    to_json,
    troubles,
    workers_table,
)

STATES = ("booting", "proving", "serving", "draining", "stopping", "killed")


def a_worker(slot: int = 0, **more: object) -> WorkerStatus:
    known = dict(  # noqa: C408  # as the constructor would read
        slot=slot, id=slot + 1, pid=4_000_000 + slot, generation=2, state="serving", state_s=61.0, uptime_s=61.0,
        open=12, unclaimed=1, handed=345, closed=333, busy=3, requests=340, lag_us=850, rss=26 << 20, cpu_us=12_300_000,
    )  # fmt: skip
    return WorkerStatus(**(known | more))  # type: ignore[arg-type]


def a_snapshot(*workers: WorkerStatus, **more: object) -> Snapshot:
    known = dict(  # noqa: C408  # as above
        name="shop", pid=4711, version="0.1.0", application="shop.main:app", policy="least-loaded", time=1.75e9,
        uptime_s=7300.0, size=max(len(workers), 1), generation=2, accepted=1380, recalled_from_late=4,
        recalled_from_dead=2, suspensions=3, breaches=0, lost=1, workers=workers,
        listeners=(ListenerStatus("127.0.0.1:8000", 3, 2048), ListenerStatus("unix:/run/shop.sock", None, 2048)),
    )  # fmt: skip
    return Snapshot(**(known | more))  # type: ignore[arg-type]


FOUR = a_snapshot(*(a_worker(slot) for slot in range(4)))

counts = st.integers(0, 10**6)
some_workers = st.lists(
    st.builds(
        WorkerStatus,
        slot=st.integers(0, 1023), id=counts, pid=st.none() | st.integers(1, 4_194_304), generation=st.integers(1, 999),
        state=st.sampled_from(STATES), state_s=st.floats(0, 1e8), uptime_s=st.none() | st.floats(0, 1e8),
        open=st.integers(0, 99_999), unclaimed=st.integers(0, 250), handed=counts, closed=counts,
        busy=st.none() | st.integers(0, 9999), lag_us=st.none() | st.integers(0, 2**32), last_exit=st.text(max_size=60),
        rss=st.none() | st.integers(0, 2**40), cpu_us=st.none() | st.integers(0, 2**48), restarts=st.integers(0, 999),
    ),
    max_size=6,
)  # fmt: skip


# --- JSON


@given(some_workers)
def test_what_is_told_is_what_is_read(workers: list[WorkerStatus]) -> None:
    snapshot = a_snapshot(*workers, reload=ReloadStatus("soaking", 3))
    assert from_json(json.loads(json.dumps(to_json(snapshot)))) == snapshot


def test_an_older_reader_skips_what_it_does_not_know() -> None:
    told = to_json(FOUR)
    told["mood"] = "good"
    told["workers"][0]["mood"] = "better"
    assert from_json(told) == FOUR


def test_a_newer_reader_fills_in_what_is_not_told() -> None:
    told = to_json(FOUR)
    del told["refused"], told["workers"][0]["last_exit"]
    assert from_json(told) == FOUR


@pytest.mark.parametrize("told", [{}, {"workers": 3}, {"workers": [1]}, {"reload": "no"}])
def test_what_is_no_status_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no status"):
        from_json(told)


def test_the_text_for_programs_is_one_json_object() -> None:
    assert json.loads(as_json_text(FOUR))["workers"][3]["slot"] == 3


def test_a_rollback_is_no_trouble_and_is_said() -> None:
    def disk(**more: object) -> list[str]:
        return [line for line in report(evolve(FOUR, **more), 120) if line.startswith("disk")]

    assert not troubles(evolve(FOUR, gone_back=True))
    assert len(disk(gone_back=True)) == 1
    assert disk() == disk(gone_back=True, refused="SyntaxError") == []


# --- the table


def test_of_a_traceback_the_last_line_is_shown() -> None:
    snapshot = a_snapshot(a_worker(last_exit="Traceback (most recent call last):\n  File\nRuntimeError: no\n"))
    assert workers_table(snapshot, 80)[-1] == "last exit in slot 0: RuntimeError: no"
    assert workers_table(snapshot, 200)[-1].endswith(" RuntimeError: no")
    assert "Traceback" not in workers_table(snapshot, 200)[-1]


@given(some_workers, st.integers(NARROWEST, 250))
def test_no_line_is_wider_than_the_terminal(workers: list[WorkerStatus], width: int) -> None:
    snapshot = a_snapshot(*workers, refused="Traceback\n  RuntimeError: " + "x" * 100)
    assert max(len(line) for line in report(snapshot, width)) <= width


@given(some_workers)
def test_no_control_character_reaches_the_terminal(workers: list[WorkerStatus]) -> None:
    snapshot = a_snapshot(*workers, refused="\x1b[31mred", application="a\x07:b")
    assert all(line.isprintable() for line in report(snapshot, 120))


def test_80_columns_have_room_for_what_matters() -> None:
    head, row, *_ = workers_table(FOUR, 80)
    assert head.split() == ["SLOT", "ID", "PID", "GEN", "STATE", "FOR", "OPEN", "UNCL", "BUSY", "LAG", "RSS", "CPU",
                            "UP", "RST"] or head.split() == [
                            "SLOT", "ID", "PID", "GEN", "STATE", "OPEN", "UNCL", "BUSY", "LAG", "RSS", "CPU", "UP",
                            "RST"]  # fmt: skip
    assert "…" not in row


def test_200_columns_are_used() -> None:
    head, *_ = workers_table(FOUR, 200)
    assert {"HANDED", "CLOSED", "FOR"} < set(head.split())
    assert head.endswith("LAST EXIT")


def test_a_last_exit_that_has_no_column_stands_below_once_for_all_it_happened_to() -> None:
    ended = "was ended by SIGKILL"
    snapshot = a_snapshot(a_worker(0, last_exit=ended), a_worker(1), a_worker(2, last_exit=ended))
    assert workers_table(snapshot, 80)[-1] == f"last exit in slot 0, 2: {ended}"
    assert not any("last exit in" in line for line in workers_table(snapshot, 200))


def test_columns_stand_below_each_other() -> None:
    lines = workers_table(a_snapshot(a_worker(0, open=9), a_worker(1, open=12_345)), 80)
    assert lines[1].index("9 ", lines[1].index("serving")) == lines[2].index("12345") + 4


def test_the_narrowest_terminal_keeps_slot_pid_state_and_open() -> None:
    assert workers_table(FOUR, 10)[0].split()[:3] == ["SLOT", "PID", "STATE"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "serving"),
        ({"suspended": True}, "suspended"),
        ({"taking": False, "suspended": True}, "paused"),
        ({"leaving": True, "suspended": True}, "leaving"),
        ({"state": "draining", "suspended": True}, "draining"),
    ],
)
def test_the_state_is_one_word(more: dict[str, object], said: str) -> None:
    assert shown_state(a_worker(**more)) == said


# --- the lines above it


def test_a_healthy_master_has_no_troubles() -> None:
    assert troubles(FOUR) == []


def test_troubles_stand_first() -> None:
    snapshot = evolve(FOUR, crash_loop=True, refused="Traceback ...\nRuntimeError: bad", workers=())
    first, second, third, *_ = report(snapshot, 100)
    assert "crash loop" in first
    assert second.endswith("code on disk was refused: RuntimeError: bad")
    assert "nobody serves" in third


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


# --- single values


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (0, "0s"), (59.9, "59s"), (60, "1m00s"), (605, "10m"), (7380, "2h03m"), (86399, "23h"),
     (90000, "1d01h"), (864000, "10d")],
)  # fmt: skip
def test_a_duration_is_short(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@given(st.floats(0, 8e9))
def test_a_duration_has_at_most_six_characters(seconds: float) -> None:
    assert len(duration(seconds)) <= 6


@given(st.integers(0, 2**44))
def test_a_size_has_at_most_six_characters(count: int) -> None:
    assert len(size(count)) <= 6


@example(9_999)
@example(99_999_999)
@given(st.integers(0, 2**32 - 1))
def test_a_lag_has_at_most_five_characters(us: int) -> None:
    assert len(lag(us)) <= 5


@given(st.text())
def test_plain_text_is_printable(text: str) -> None:
    assert plain(text).isprintable()


@given(st.lists(st.floats(0, 1e6), max_size=50), st.integers(0, 60), st.floats(0, 1e6))
def test_a_sparkline_is_as_wide_as_was_asked(values: list[float], width: int, most: float) -> None:
    assert len(sparkline(values, width, most)) == width
    assert sparkline(values, width, most, ascii_only=True).isascii()


def test_a_sparkline_rises_with_its_values_and_shows_the_latest_at_the_right() -> None:
    assert sparkline([0, 1, 2, 3], 6, 3) == "  ▁▃▆█"
    assert sparkline([9, 0, 0], 2, 9) == "▁▁"
    assert sparkline([math.inf], 1, 0) == "▁"
