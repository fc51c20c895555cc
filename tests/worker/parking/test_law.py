"""A worker parks at once where the next request would wait, and where nothing blocks it parks what has rested."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.protocol.parking.lane import MAX_MEMO
from rrmaster.protocol.proxy_header import Header
from rrmaster.worker.parking.law import FEW, LATE_S, MEMORY_S, PRICE_S, SPREAD_S, ParkingLaw
from rrmaster.worker.parking.memo import Memo

LAW = settings(max_examples=150, deadline=None, derandomize=True, database=None)

LOOK_S = 0.01


def after_a_minute(
    hold: float, period: float, requests: int = 1, waited: float = 0.0, ran: float = 0.0
) -> tuple[ParkingLaw, float]:
    """The law of a loop that something has held for `hold` seconds in each `period`, on a processor for `ran`."""
    law, now = ParkingLaw(1.0), 0.0
    while now < 60.0:
        now += period
        law.looked(hold, waited, ran, requests, now)
    return law, now


@pytest.mark.parametrize(
    ("hold", "period", "requests", "ran", "at_once"),
    [
        (0.1, 1.0, 1, 0.0, True),  # 3 % of requests hold it for 100 ms
        (0.1, 0.4, 4, 0.001, True),  # the same, and three others that were behind it end in the same turn
        (0.1, 0.4, 4, 0.1, True),  # the same, and it computes
        (0.05, 5.0, 1, 0.0, False),  # 0.3 ms on average: less than it would cost
        (0.02, 0.1, 1, 0.02, True),  # slow requests that compute
        (0.002, 0.012, 1, 0.002, False),  # the ordinary work of a turn
        (0.013, 0.02, 256, 0.013, False),  # a closed loop of 256 clients: each turn is long, and no request is
        (0.013, 0.02, 256, 0.018, False),
        (1.0, 30.0, 1, 1.0, True),
    ],
)
def test_a_loop_that_requests_hold_parks_at_once_and_a_busy_one_does_not(hold, period, requests, ran, at_once):
    law, now = after_a_minute(hold, period, requests, ran=ran)
    assert law.at_once(now, full=False) is at_once


def test_a_machine_without_free_processors_is_no_reason():
    law, now = after_a_minute(0.1, 0.2, waited=0.098)
    assert not law.at_once(now, full=False)


def test_holds_are_forgotten():
    law, now = after_a_minute(0.1, 0.5)
    assert law.at_once(now, full=False)
    assert not law.at_once(now + 10 * MEMORY_S, full=False)


def test_a_full_worker_one_that_drains_and_one_beside_a_new_one_park_at_once():
    assert ParkingLaw(1.0).at_once(0.0, full=True)
    assert not ParkingLaw(1.0, waits=True).at_once(0.0, full=True), "WSGI, where nothing was asked for"
    law = ParkingLaw(1.0)
    law.spread(0.0)
    assert law.at_once(SPREAD_S / 2, full=False)
    assert not law.at_once(SPREAD_S, full=False)
    law.drain()
    assert law.at_once(SPREAD_S, full=False)
    assert ParkingLaw(0.0).at_once(0.0, full=False)


def test_where_places_are_few_a_connection_that_rests_holds_none():
    assert ParkingLaw(1.0, places=FEW).at_once(0.0, full=False)
    assert not ParkingLaw(1.0, places=10_000).at_once(0.0, full=False)


def test_where_each_place_has_a_thread_connections_rest_until_most_of_them_are_taken():
    law = ParkingLaw(1.0, places=8, threaded=True)
    assert not law.at_once(0.0, full=False, connections=4)
    assert law.at_once(0.0, full=False, connections=5)


@LAW
@given(st.lists(st.tuples(*[st.floats(0, 5)] * 3, st.integers(0, 500), st.floats(0, 5)), max_size=50))
def test_the_expected_wait_is_that_of_a_request_at_a_random_moment(looks):
    """Never negative, never more than the holds could cause, and it only sinks while nothing holds the loop."""
    law, now, worst = ParkingLaw(1.0), 0.0, 0.0
    for late, waited, ran, requests, passed in looks:
        now += passed
        law.looked(late, waited, ran, requests, now)
        held = late - waited
        worst += held * held / 2 if held >= LATE_S else 0.0
        assert 0.0 <= law.expected_wait(now) <= worst / MEMORY_S + 1e-9
        assert law.expected_wait(now + 1.0) <= law.expected_wait(now)
        assert law.at_once(now, full=False) is (law.expected_wait(now) > PRICE_S)


addresses = st.builds(lambda ip, port: (str(ip), port), st.ip_addresses(v=4), st.integers(0, 65535))
addresses_6 = st.builds(lambda ip, port: (str(ip), port), st.ip_addresses(v=6), st.integers(0, 65535))
headers = (
    st.none()
    | st.just(Header())
    | st.builds(Header, addresses, addresses)
    | st.builds(Header, addresses_6, addresses_6)
)


@LAW
@given(st.floats(0, 1e9), st.integers(0, 2**32 - 1), headers)
def test_the_next_worker_reads_what_the_last_one_has_written(accepted, requests, header):
    memo = Memo(accepted, requests, header)
    assert len(memo.encode()) <= MAX_MEMO
    assert Memo.decode(memo.encode(), math.inf) == memo


@LAW
@given(st.binary(max_size=MAX_MEMO))
def test_a_memo_that_cannot_be_read_says_nothing(memo):
    assert isinstance(Memo.decode(memo, 3.0), Memo)
    assert Memo.decode(b"", 3.0) == Memo(3.0)
