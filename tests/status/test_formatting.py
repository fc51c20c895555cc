"""One value in a few printable characters."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rrmaster.status.formatting import duration, lag, plain, size, sparkline


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
