"""A test decides whether a template or the application is at fault, and no template is given up without one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.rules.template_health import ENOUGH, TemplateHealth

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def after_a_ready_worker() -> TemplateHealth:
    health = TemplateHealth()
    health.forked(ready=True)
    return health


def ends(health: TemplateHealth, times: int) -> list[bool]:
    return [health.forked(ready=False) for _ in range(times)]


def test_two_early_ends_in_a_row_raise_a_doubt():
    health = after_a_ready_worker()
    assert ends(health, ENOUGH) == [False, True]
    assert health.doubted


def test_a_ready_worker_between_them_leaves_no_doubt():
    health = after_a_ready_worker()
    for _ in range(20):
        assert ends(health, ENOUGH - 1) == [False]
        health.forked(ready=True)
    assert not health.doubted


def test_a_template_whose_application_was_never_ready_is_not_doubted():
    assert not any(ends(TemplateHealth(), 100))


def test_a_worker_that_was_ready_without_the_template_counts_too():
    health = TemplateHealth()
    assert not health.imported(ready=True)
    assert ends(health, ENOUGH) == [False, True]


def test_a_worker_that_is_ready_without_the_template_condemns_it_once():
    health = after_a_ready_worker()
    ends(health, ENOUGH)
    assert [health.imported(ready=True) for _ in range(3)] == [True, False, False]


def test_a_worker_that_ends_early_without_the_template_acquits_it():
    health = after_a_ready_worker()
    ends(health, ENOUGH)
    assert not health.imported(ready=False)
    assert not health.doubted
    assert not health.imported(ready=True), "a second one that had been started too: it proves nothing now"


def test_a_crash_loop_of_the_application_costs_fewer_and_fewer_imports():
    health = after_a_ready_worker()
    tests = []
    for n in range(1, 1001):
        if health.forked(ready=False):
            tests.append(n)
            health.imported(ready=False)
    assert tests == [2, 4, 8, 16, 32, 64, 128, 256, 512]


def test_another_template_begins_without_deaths():
    health = after_a_ready_worker()
    ends(health, 1)
    health.reset()
    assert ends(health, ENOUGH) == [False, True]


@LAW
@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_no_template_is_condemned_right_after_a_worker_of_it_was_ready(history):
    health, since_good = TemplateHealth(), 0
    for forked, ready in history:
        if forked:
            health.forked(ready)
            since_good = 0 if ready else since_good + 1
        elif health.imported(ready):
            assert since_good >= ENOUGH
