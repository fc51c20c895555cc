"""Quantiles of the last seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.events.latency import WINDOW, Recent, quantile
from rrmaster.protocol.pages.figures import DURATIONS, NOTHING, Histogram

histograms = st.lists(st.integers(0, 1000), min_size=len(DURATIONS) + 1, max_size=len(DURATIONS) + 1).map(
    lambda counts: Histogram(tuple(counts))
)


def of(**places: int) -> Histogram:
    """A histogram with these counts: ``of(b3=10)`` has ten in its fourth bucket."""
    counts = [0] * (len(DURATIONS) + 1)
    for place, count in places.items():
        counts[int(place[1:])] = count
    return Histogram(tuple(counts))


@pytest.mark.parametrize("nothing", [NOTHING, of()])
def test_without_observations_no_quantile_is_told(nothing: Histogram) -> None:
    assert quantile(nothing, 0.5) is None


def test_a_quantile_lies_within_the_bucket_of_its_rank_as_prometheus_computes_it() -> None:
    assert quantile(of(b3=100), 0.5) == pytest.approx(0.00175), "the middle between 1 and 2.5 ms"
    assert quantile(of(b3=98, b9=2), 0.99) == pytest.approx(0.175), "the middle between 100 and 250 ms"
    assert quantile(of(b0=4), 1.0) == DURATIONS[0]


def test_what_exceeds_the_last_bound_counts_as_that_bound() -> None:
    assert quantile(of(b17=3), 0.5) == DURATIONS[-1]


@given(histograms, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_share_never_has_a_lower_quantile(histogram: Histogram, one: float, other: float) -> None:
    low, high = (quantile(histogram, q) for q in sorted((one, other)))
    if low is None or high is None:
        assert low is high is None
        assert not histogram.count
    else:
        assert 0 <= low <= high <= DURATIONS[-1]


def test_an_hour_of_the_past_does_not_hide_the_present() -> None:
    recent, counted = Recent(), of(b2=0)
    for tick in range(720):
        counted = counted.plus(of(b2=10_000))
        if recent.is_due(tick * WINDOW):
            recent.note(counted, tick * WINDOW)
    counted = counted.plus(of(b12=50))
    lately = recent.of(counted)
    assert lately.counts[12] == 50
    assert lately.count <= 10_050 * 2, "no more than two windows"
    assert quantile(recent.of(counted.plus(of(b12=50_000))), 0.5) == pytest.approx(2, abs=1.0)


def test_a_worker_that_was_not_looked_at_for_long_begins_a_new_window() -> None:
    recent = Recent()
    recent.note(of(b2=5), 0.0)
    assert recent.is_due(1000.0)
    recent.note(of(b2=900), 1000.0)
    assert recent.of(of(b2=901)).count == 1
