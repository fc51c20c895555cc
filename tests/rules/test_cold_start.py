"""The first workers of a fleet leave the others their share, and clients wait for a moment at most."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rrmaster.rules.cold_start import AT_ONCE, COLD_START_S, cold_until, fair_share


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 128))
def test_the_shares_of_a_whole_fleet_hold_all_that_is_here_and_hardly_more(in_hand, waiting, size):
    share = fair_share(in_hand, waiting, size)
    assert share * size >= in_hand + waiting
    assert share == AT_ONCE or share * size < in_hand + waiting + size


def test_a_light_load_is_served_at_once_by_the_first_worker():
    assert fair_share(0, AT_ONCE, 64) == AT_ONCE


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_the_next_worker_is_waited_for_a_second_and_all_of_them_two(pauses):
    first = now = 100.0
    until = cold_until(first, now)
    for pause in pauses:
        now += pause
        if now >= until:
            break
        until = cold_until(first, now)
        assert until <= now + COLD_START_S
    assert until <= first + 2 * COLD_START_S
