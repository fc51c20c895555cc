"""What a worker counts of the times of requests and connections, as the master reads it."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.protocol.pages import figures
from rrmaster.protocol.pages.figures import DURATIONS, GRAIN, WAITS, Counting, Figures, Histogram, open_page, read_page

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)

some_seconds = st.lists(st.floats(0, 100) | st.sampled_from(DURATIONS + WAITS), max_size=20)


@contextmanager
def a_page() -> Iterator[tuple[int, Counting]]:
    """The master's descriptor, and the worker's side of the page."""
    fd = open_page()
    try:
        assert read_page(fd) is None, "no worker counts there yet"
        yield fd, Counting.inherit(os.dup(fd))
    finally:
        os.close(fd)


def read(fd: int) -> Figures:
    found = read_page(fd)
    assert found is not None
    return found


def in_buckets(bounds: tuple[float, ...], seconds: list[float]) -> tuple[int, ...]:
    """As Prometheus defines them: what equals a bound belongs below it."""
    counts = [0] * (len(bounds) + 1)
    for each in seconds:
        counts[next((place for place, bound in enumerate(bounds) if each <= bound), len(bounds))] += 1
    return tuple(counts)


@LAW
@given(some_seconds, some_seconds)
def test_the_master_reads_each_observation_in_its_bucket(durations: list[float], waits: list[float]) -> None:
    with a_page() as (fd, counting):
        for each in durations:
            counting.durations.observe(each)
        for each in waits:
            counting.waits.observe(each)
        found = read(fd)
        assert found.durations.counts == in_buckets(DURATIONS, durations)
        assert found.waits.counts == in_buckets(WAITS, waits)
        assert found.durations.sum_s == pytest.approx(sum(durations), abs=2 / GRAIN)
        assert found.waits.sum_s == pytest.approx(sum(waits), abs=2 / GRAIN)


@LAW
@given(st.lists(some_seconds, min_size=2, max_size=5), st.randoms())
def test_the_sum_over_workers_is_the_same_in_whatever_order_they_end(
    workers: list[list[float]], random: Random
) -> None:
    """A counter that fell by a last digit would be taken for one that began again."""
    found = []
    for seconds in workers:
        with a_page() as (fd, counting):
            for each in seconds:
                counting.durations.observe(each)
            found.append(read(fd).durations)
    in_order = reduce(Histogram.plus, found)
    random.shuffle(found)
    assert reduce(Histogram.plus, found) == in_order


@pytest.mark.parametrize("accepted_at", [1, 1_000_000, 2**32 - 4_000])
def test_the_wait_of_a_connection_is_right_when_the_clock_of_32_bits_begins_anew(
    accepted_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "clock_us", lambda: (accepted_at + 7_000) % 2**32)
    with a_page() as (fd, counting):
        counting.taken(accepted_at)
        waits = read(fd).waits
        assert waits.sum_s == pytest.approx(0.007, abs=2 / GRAIN)
        assert waits.counts[bisect_left(WAITS, 0.007)] == 1


def test_a_connection_whose_accept_is_not_known_is_not_counted() -> None:
    with a_page() as (fd, counting):
        counting.taken(0)
        assert read(fd).waits.count == 0


@LAW
@given(st.binary(max_size=1000))
def test_a_page_that_a_worker_has_filled_with_anything_is_read(data: bytes) -> None:
    with a_page() as (fd, _):
        os.pwrite(fd, data, 0)
        for histogram in (found.durations, found.waits) if (found := read_page(fd)) else ():
            assert all(0 <= count < 2**64 for count in histogram.counts)
            assert 0.0 <= histogram.sum_s < float("inf")


@pytest.mark.parametrize("size", [0, 1, 100, 1 << 40])
def test_a_page_that_a_worker_has_cut_or_stretched_harms_no_master(size: int) -> None:
    with a_page() as (fd, counting):
        counting.durations.observe(0.1)
        os.ftruncate(fd, size)
        found = read_page(fd)
        assert (found is not None and found.durations.count == 1) if size > 1000 else found is None


@LAW
@given(some_seconds, some_seconds)
def test_what_was_observed_later_is_the_present_less_the_past(first: list[float], second: list[float]) -> None:
    def histogram(seconds: list[float]) -> Histogram:
        return Histogram(in_buckets(DURATIONS, seconds), sum(seconds)) if seconds else Histogram()

    both = histogram(first).plus(histogram(second))
    assert both.count == len(first) + len(second)
    later = both.since(histogram(first))
    assert later.count == len(second)
    assert later.sum_s == pytest.approx(sum(second), abs=1e-6)
