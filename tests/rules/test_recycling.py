"""A worker is replaced when it has served, lived or grown enough, and never without a limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.rules.recycling import JITTER, SAMPLES, Limits, Wear


def limits(requests: int = 0, age: float = 0.0, memory: int = 0) -> Limits:
    return Limits(requests, age, memory)


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_limits_vary_within_the_jitter_and_never_vanish(requests: int, chance: float):
    varied = limits(requests=requests, age=100.0).with_jitter(chance)
    assert varied.requests >= 1
    assert abs(varied.requests - requests) <= JITTER * requests + 1
    assert varied.age == pytest.approx(100.0 * (1 + JITTER * (2 * chance - 1)))


def test_without_limits_no_worker_is_replaced():
    assert Wear(limits()).reason(10**9, 10.0**9, 2**60) == ""


def test_each_limit_has_its_reason():
    assert "served 5" in Wear(limits(requests=5)).reason(5, 0, 0)
    assert "old" in Wear(limits(age=5.0)).reason(0, 5.0, 0)


def test_memory_counts_only_when_it_stays_high():
    wear = Wear(limits(memory=100))
    for _ in range(10):
        for _ in range(SAMPLES - 1):
            assert wear.reason(0, 0, 101) == ""
        assert wear.reason(0, 0, 100) == ""
    assert [bool(wear.reason(0, 0, 101)) for _ in range(SAMPLES)] == [False] * (SAMPLES - 1) + [True]
