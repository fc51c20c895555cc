"""A worker is replaced when it has served, lived or grown enough, and never without a limit."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.rules.recycling import (
    EARLY_S,
    FIRST_PAUSE_S,
    JITTER,
    LONGEST_PAUSE_S,
    SAMPLES,
    Limits,
    MemoryPace,
    Wear,
)


def limits(requests: int = 0, age: float = 0.0, memory: int = 0) -> Limits:
    return Limits(requests, age, memory)


def a_wear(limits: Limits) -> Wear:
    return Wear(limits, MemoryPace())


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_limits_vary_within_the_jitter_and_never_vanish(requests: int, chance: float):
    varied = limits(requests=requests, age=100.0).with_jitter(chance)
    assert varied.requests >= 1
    assert abs(varied.requests - requests) <= JITTER * requests + 1
    assert varied.age == pytest.approx(100.0 * (1 + JITTER * (2 * chance - 1)))


def test_without_limits_no_worker_is_replaced():
    assert a_wear(limits()).reason(10**9, 10.0**9, 2**60, 0.0) == ""


def test_each_limit_has_its_reason():
    assert "served 5" in a_wear(limits(requests=5)).reason(5, 0, 0, 0.0)
    assert "old" in a_wear(limits(age=5.0)).reason(0, 5.0, 0, 0.0)


def test_memory_counts_only_when_it_stays_high():
    wear = a_wear(limits(memory=100))
    for _ in range(10):
        for _ in range(SAMPLES - 1):
            assert wear.reason(0, 100.0, 101, 0.0) == ""
        assert wear.reason(0, 100.0, 100, 0.0) == ""
    assert [bool(wear.reason(0, 100.0, 101, 0.0)) for _ in range(SAMPLES)] == [False] * (SAMPLES - 1) + [True]


def test_a_limit_below_the_applications_size_is_said_and_paced() -> None:
    """A fleet of one, whose replacements are all above the limit after 1.5 s, for an hour."""
    pace, replaced, now = MemoryPace(), [], 0.0
    while now < 3600.0:
        wear, age = Wear(limits(memory=100), pace), 0.0
        while not wear.reason(0, age, 101, now):
            now, age = now + 0.5, age + 0.5
        replaced.append(now)
        assert wear.early
    assert len(replaced) < 20, "not one each 1.5 s: that would be 2,400"
    assert max(b - a for a, b in pairwise(replaced)) <= LONGEST_PAUSE_S + 1.0


def test_the_first_early_replacement_says_what_is_wrong_and_when_the_next_one_comes() -> None:
    wear = a_wear(limits(memory=100))
    words = [wear.reason(0, 1.5, 60 << 20, 0.0) for _ in range(SAMPLES)][-1]
    assert "the limit is below what the application needs" in words
    assert f"{FIRST_PAUSE_S:.0f} s at the earliest" in words


@given(st.lists(st.tuples(st.floats(0.1, 2000.0), st.floats(0.0, 10_000.0)), max_size=50))
def test_a_pause_ends_with_a_worker_that_lasted_and_is_never_longer_than_the_longest(times):
    pace, now = MemoryPace(), 0.0
    for gap, age in times:
        now += gap
        if pace.may_replace(now, age):
            assert (pace.pause == 0.0) is (age >= EARLY_S)
        assert pace.pause <= LONGEST_PAUSE_S


def test_a_leak_that_takes_its_time_is_not_paced() -> None:
    pace = MemoryPace()
    assert all(pace.may_replace(float(number), EARLY_S) for number in range(10))
