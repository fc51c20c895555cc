"""The table of workers: what fits, how it is aligned, and that each column is explained."""

from __future__ import annotations

import pytest

from rrmaster.status.tables import COLUMNS, legend, shown_state, workers_table
from tests.status.snapshots import FOUR, a_snapshot, a_worker


def test_of_a_traceback_the_last_line_is_shown() -> None:
    snapshot = a_snapshot(a_worker(last_exit="Traceback (most recent call last):\n  File\nRuntimeError: no\n"))
    assert workers_table(snapshot, 80)[-1] == "last exit in slot 0: RuntimeError: no"
    assert workers_table(snapshot, 200)[-1].endswith(" RuntimeError: no")
    assert "Traceback" not in workers_table(snapshot, 200)[-1]


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
        ({"full": True}, "full"),
        ({"full": True, "suspended": True}, "suspended"),
        ({"taking": False, "suspended": True}, "paused"),
        ({"leaving": True, "suspended": True}, "leaving"),
        ({"state": "draining", "suspended": True}, "draining"),
    ],
)
def test_the_state_is_one_word(more: dict[str, object], said: str) -> None:
    assert shown_state(a_worker(**more)) == said


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_legend_explains_every_column_within_the_width(width: int) -> None:
    lines = legend(COLUMNS, width)
    assert [line[:9].rstrip() for line in lines if not line.startswith(" ")] == [column.title for column in COLUMNS]
    assert all(column.about for column in COLUMNS)
    assert max(map(len, lines)) <= width
