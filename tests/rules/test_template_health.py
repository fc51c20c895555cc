"""Who is to blame for newborns that die: only a trial says, and a template is not given up without one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.template_health import ENOUGH, TemplateHealth

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def one_that_was_good() -> TemplateHealth:
    health = TemplateHealth()
    health.forked(ready=True)
    return health


def dies(health: TemplateHealth, times: int) -> list[bool]:
    return [health.forked(ready=False) for _ in range(times)]


def test_two_deaths_in_a_row_raise_a_doubt():
    health = one_that_was_good()
    assert dies(health, ENOUGH) == [False, True]
    assert health.doubted


def test_who_becomes_ready_between_them_lays_it():
    health = one_that_was_good()
    for _ in range(20):
        assert dies(health, ENOUGH - 1) == [False]
        health.forked(ready=True)
    assert not health.doubted


def test_an_application_that_has_never_been_ready_is_not_doubted():
    assert not any(dies(TemplateHealth(), 100))


def test_one_that_was_ready_without_the_template_is_as_good():
    health = TemplateHealth()
    assert not health.imported(ready=True)
    assert dies(health, ENOUGH) == [False, True]


def test_if_the_next_one_lives_without_it_the_template_is_condemned_once():
    health = one_that_was_good()
    dies(health, ENOUGH)
    assert [health.imported(ready=True) for _ in range(3)] == [True, False, False]


def test_if_that_one_dies_as_well_the_template_is_not_to_blame():
    health = one_that_was_good()
    dies(health, ENOUGH)
    assert not health.imported(ready=False)
    assert not health.doubted
    assert not health.imported(ready=True), "another one that was under way: it proves nothing now"


def test_a_crash_loop_of_the_application_costs_fewer_and_fewer_imports():
    health = one_that_was_good()
    trials = []
    for n in range(1, 1001):
        if health.forked(ready=False):
            trials.append(n)
            health.imported(ready=False)
    assert trials == [2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_another_template_begins_without_a_past():
    health = one_that_was_good()
    dies(health, 1)
    health.reset()
    assert dies(health, ENOUGH) == [False, True]


@LAW
@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_nobody_is_condemned_who_has_just_shown_that_it_can(happenings):
    health, since_good = TemplateHealth(), 0
    for forked, ready in happenings:
        if forked:
            health.forked(ready)
            since_good = 0 if ready else since_good + 1
        elif health.imported(ready):
            assert since_good >= ENOUGH
