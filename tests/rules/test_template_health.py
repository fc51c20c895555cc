"""Who is to blame for newborns that die: only a trial says, and a template is not given up without one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.template_health import ENOUGH, Trust

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def one_that_was_good() -> Trust:
    trust = Trust()
    trust.forked(ready=True)
    return trust


def dies(trust: Trust, times: int) -> list[bool]:
    return [trust.forked(ready=False) for _ in range(times)]


def test_two_deaths_in_a_row_raise_a_doubt():
    trust = one_that_was_good()
    assert dies(trust, ENOUGH) == [False, True]
    assert trust.doubted


def test_who_becomes_ready_between_them_lays_it():
    trust = one_that_was_good()
    for _ in range(20):
        assert dies(trust, ENOUGH - 1) == [False]
        trust.forked(ready=True)
    assert not trust.doubted


def test_an_application_that_has_never_been_ready_is_not_doubted():
    assert not any(dies(Trust(), 100))


def test_one_that_was_ready_without_the_template_is_as_good():
    trust = Trust()
    assert not trust.imported(ready=True)
    assert dies(trust, ENOUGH) == [False, True]


def test_if_the_next_one_lives_without_it_the_template_is_condemned_once():
    trust = one_that_was_good()
    dies(trust, ENOUGH)
    assert [trust.imported(ready=True) for _ in range(3)] == [True, False, False]


def test_if_that_one_dies_as_well_the_template_is_not_to_blame():
    trust = one_that_was_good()
    dies(trust, ENOUGH)
    assert not trust.imported(ready=False)
    assert not trust.doubted
    assert not trust.imported(ready=True), "another one that was under way: it proves nothing now"


def test_a_crash_loop_of_the_application_costs_fewer_and_fewer_imports():
    trust = one_that_was_good()
    trials = []
    for n in range(1, 1001):
        if trust.forked(ready=False):
            trials.append(n)
            trust.imported(ready=False)
    assert trials == [2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_another_template_begins_without_a_past():
    trust = one_that_was_good()
    dies(trust, 1)
    trust.anew()
    assert dies(trust, ENOUGH) == [False, True]


@LAW
@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_nobody_is_condemned_who_has_just_shown_that_it_can(happenings):
    trust, since_good = Trust(), 0
    for forked, ready in happenings:
        if forked:
            trust.forked(ready)
            since_good = 0 if ready else since_good + 1
        elif trust.imported(ready):
            assert since_good >= ENOUGH
