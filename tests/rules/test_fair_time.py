"""A process is blamed for its silence only as far as it had a processor, and what is stuck is found all the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.fair_time import BOUND, FIRST_LOOK, NEXT_LOOK, Observed, more_time, own_time

LAW = settings(max_examples=300, deadline=None, derandomize=True, database=None)
LIMIT = 30.0
shares = st.floats(0, 1)


def seen(passed: float, ran: float = 0.0, waited: float = 0.0, delay: float = 0.0, runnable: bool = False) -> Observed:
    """Measured from the first look on."""
    return Observed(passed, passed - FIRST_LOOK * LIMIT, ran, waited, delay, runnable)


@LAW
@given(st.floats(LIMIT, 100 * LIMIT), shares)
def test_a_process_that_sleeps_is_guilty_at_its_limit(passed, ran):
    assert more_time(LIMIT, seen(passed, ran=ran)) == 0


def test_a_process_that_runs_without_end_on_a_free_processor_is_guilty_at_its_limit():
    assert more_time(LIMIT, seen(LIMIT, ran=(1 - FIRST_LOOK) * LIMIT, runnable=True)) == 0


@LAW
@given(st.floats(LIMIT, BOUND * LIMIT - 1), st.floats(0, 0.8))
def test_a_process_that_waited_for_a_processor_has_more_time(passed, ran):
    measured = passed - FIRST_LOOK * LIMIT
    ran = min(ran * measured, 0.8 * LIMIT)
    assert more_time(LIMIT, seen(passed, ran=ran, waited=measured - ran)) > 0


def test_a_wait_that_has_not_ended_is_in_no_account_and_counts_all_the_same():
    assert more_time(LIMIT, seen(2 * LIMIT, ran=1.0, runnable=True)) > 0
    assert more_time(LIMIT, seen(2 * LIMIT, ran=1.0)) == 0


def test_what_the_master_waited_is_not_held_against_the_process():
    assert more_time(LIMIT, seen(LIMIT, delay=10.0)) > 0


def test_what_was_not_measured_counts_up_to_the_first_look_only():
    late = Observed(LIMIT, 1.0, 0.0, 0.0, 0.0, False)
    assert own_time(LIMIT, late) == FIRST_LOOK * LIMIT + 1.0
    assert more_time(LIMIT, late) > 0


@LAW
@given(shares, shares, shares, st.booleans())
def test_a_process_that_is_never_heard_is_found_in_the_end(ran, waited, delay, runnable):
    """Whatever it had: judged when it is due, it is guilty after `BOUND` limits, and not after endless looks."""
    passed, looks = LIMIT, 0
    while True:
        measured = passed - FIRST_LOOK * LIMIT
        more = more_time(LIMIT, seen(passed, ran * measured, waited * measured, delay * measured, runnable))
        if more == 0:
            break
        passed, looks = passed + more, looks + 1
    assert passed <= BOUND * LIMIT
    assert looks <= BOUND / NEXT_LOOK
