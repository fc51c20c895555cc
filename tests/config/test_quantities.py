"""Durations in every unit are understood, and anything else is refused.  (`values` has the other quantities.)"""

import pytest

from rrmaster.config.quantities import parse_duration
from tests.config.values import HUGE


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("500ms", 0.5), ("30s", 30.0), ("30", 30.0), ("2m", 120.0), ("1h", 3600.0), ("1d", 86400.0), ("250us", 250e-6),
        ("1.5s", 1.5), (".5s", 0.5), ("2.m", 120.0), (" 3 s ", 3.0), (7, 7.0), (0.25, 0.25), (0, 0.0), ("0", 0.0),
    ],
)  # fmt: skip
def test_a_duration_is_understood(value, seconds):
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        "", "s", "ms", "-1s", "1 s s", "1e3", "5S", "3 weeks", "1,5s", "nan", "inf", -1, -0.5, True, None, [], b"1s",
        float("nan"), float("inf"), pytest.param("9" * 400, id="digits"), pytest.param(HUGE, id="huge"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_a_duration_is_refused_and_the_message_says_how_to_write_one(value):
    with pytest.raises(ValueError, match="write 500ms, 30s, 2m"):
        parse_duration(value)
