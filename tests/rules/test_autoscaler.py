"""The fleet follows its load within its bounds, and neither a burst nor a pause moves it at once."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.rules.autoscaler import Autoscaler, Scaling, busy_share


def scaling(
    least: int, most: int, target: float = 0.7, up_window: float = 3.0, down_window: float = 300.0
) -> Autoscaler:
    return Autoscaler(Scaling(least, most, target, up_window, down_window))


def test_a_busy_fleet_grows_once_more_workers_are_wanted_for_the_window():
    scaler = scaling(2, 8, target=0.5, up_window=3.0)
    assert [scaler.sample(float(t), 2, 1.0) for t in range(2)] == [4, 4]
    scaler = scaling(2, 8, target=0.5, up_window=3.0)
    assert scaler.sample(0.0, 2, 0.5) == 2
    assert [scaler.sample(float(t), 2, 1.0) for t in range(1, 4)] == [2, 2, 2]
    assert scaler.sample(4.0, 2, 1.0) == 4


def test_a_quiet_fleet_shrinks_only_after_its_window():
    scaler = scaling(2, 8, target=0.5, down_window=10.0)
    assert scaler.sample(0.0, 8, 0.5) == 8
    assert {scaler.sample(float(t), 8, 0.0) for t in range(1, 11)} == {8}
    assert scaler.sample(11.0, 8, 0.0) == 2


def test_nothing_changes_within_the_tolerance():
    scaler = scaling(1, 100, target=0.7)
    assert {scaler.sample(float(t), 10, share) for t, share in enumerate((0.64, 0.7, 0.76))} == {10}


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0, 1)), max_size=50), st.integers(1, 8))
def test_the_bounds_hold_whatever_the_load(looks: list[tuple[float, float]], start: int):
    scaler, now, size = scaling(2, 8), 0.0, start
    for later, share in looks:
        now += later
        size = scaler.sample(now, size, share)
        assert 2 <= size <= 8


@frozen
class Load:
    in_hand: int = 0
    unclaimed: int = 0
    busy: int = 0
    tells_requests: bool = True


@pytest.mark.parametrize(
    ("load", "busy"),
    [
        (Load(), False),
        (Load(in_hand=9), False),
        (Load(in_hand=9, busy=1), True),
        (Load(in_hand=9, unclaimed=1), True),
        (Load(busy=1), True),
        (Load(tells_requests=False), False),
        (Load(in_hand=9, tells_requests=False), True),
    ],
)
def test_a_worker_is_busy_with_requests_and_with_connections_only_if_it_tells_nothing_of_requests(load, busy):
    assert busy_share([load]) == busy
    assert busy_share([load, Load()]) == busy / 2
