"""The phases of a reload: which event leads to which phase, and the exit status of each end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.rules.plan import Goal
from rrmaster.rules.rollout import STATUS, Phase, Rollout, Trial


def a_rollout(
    size: int = 4, batch: int = 4, probation: float = 2.0, soak: float = 2.0, timeout: float = 600.0
) -> Rollout:
    return Rollout(2, Goal(size, surge=batch), Trial(probation, soak, timeout), began=0.0, batch=batch)


def test_a_good_generation_goes_through_probation_and_soak():
    rollout = a_rollout()
    assert not rollout.advance(1.0, ready=3, serving=0)
    assert rollout.advance(1.5, ready=4, serving=0)
    assert rollout.phase is Phase.PROBATION
    assert rollout.due() == 3.5
    assert not rollout.advance(3.4, ready=4, serving=0)
    assert rollout.advance(3.5, ready=4, serving=0)
    assert rollout.phase is Phase.SOAKING
    assert not rollout.advance(5.4, ready=0, serving=4)
    assert rollout.advance(5.5, ready=0, serving=4)
    assert (rollout.phase, rollout.status) == (Phase.COMMITTED, 0)


def test_a_failure_before_any_traffic_is_10_and_after_it_11():
    rollout = a_rollout()
    rollout.fail("it cannot be imported", 0.5)
    assert (rollout.status, rollout.reason) == (10, "it cannot be imported")
    rollout = a_rollout(probation=0, soak=5)
    while rollout.advance(1.0, ready=4, serving=0) and rollout.phase is not Phase.SOAKING:
        pass
    rollout.fail("it dies", 2.0)
    assert rollout.status == 11


def test_a_small_surge_goes_in_batches_and_a_failure_after_the_first_is_11():
    rollout = a_rollout(size=3, batch=1, probation=0, soak=0)
    approved = []
    serving = 0
    while not rollout.over:
        assert rollout.advance(1.0, ready=1, serving=serving)
        if rollout.phase is Phase.SOAKING:
            serving += 1
        approved.append(rollout.approved)
    assert sorted(set(approved)) == [0, 1, 2, 3]
    rollout = a_rollout(size=3, batch=1, probation=0, soak=0)
    for _ in range(3):
        rollout.advance(1.0, ready=1, serving=0)
    assert (rollout.phase, rollout.approved) == (Phase.STARTING, 1)
    rollout.fail("the second dies", 2.0)
    assert rollout.status == 11


def test_out_of_time_is_12():
    rollout = a_rollout(timeout=10.0)
    assert rollout.advance(10.0, ready=0, serving=0)
    assert (rollout.status, rollout.reason) == (12, "it was not done after 10 s")
    assert rollout.lines == ["given up"], "the reason is no line of progress"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 3), st.booleans()), max_size=40))
def test_a_reload_that_is_over_stays_over(steps: list[tuple[int, int, float, bool]]):
    rollout, now, end = a_rollout(), 0.0, None
    for ready, serving, later, fails in steps:
        now += later
        if fails:
            rollout.fail("so", now)
        rollout.advance(now, ready, serving)
        if end is not None:
            assert rollout.phase is end
        end = rollout.phase if rollout.over else None
        assert rollout.due() > now or rollout.phase in (Phase.PROBATION, Phase.SOAKING, Phase.STARTING)
        assert rollout.over == (rollout.phase in STATUS) == (rollout.status is not None)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_end_has_its_own_status(phase: Phase):
    values = list(STATUS.values())
    assert len(set(values)) == len(values)
    assert (phase in STATUS) == (phase.value not in ("starting", "probation", "soaking"))


def test_the_seconds_of_each_phase_are_known_while_it_lasts_and_afterwards():
    rollout = a_rollout()
    assert rollout.times(1.0) == {"starting": 1.0}
    rollout.advance(1.5, ready=4, serving=0)
    rollout.advance(3.5, ready=4, serving=0)
    assert rollout.times(4.0) == {"starting": 1.5, "probation": 2.0, "soaking": 0.5}
    rollout.advance(5.5, ready=0, serving=4)
    assert rollout.times(99.0) == {"starting": 1.5, "probation": 2.0, "soaking": 2.0}
    assert list(rollout.times(99.0)) == ["starting", "probation", "soaking"]


def test_the_seconds_of_a_phase_add_up_over_batches():
    rollout = a_rollout(size=2, batch=1)
    rollout.advance(1.0, ready=1, serving=0)
    rollout.advance(3.0, ready=1, serving=0)
    rollout.advance(5.0, ready=0, serving=1)
    assert rollout.phase is Phase.STARTING
    rollout.fail("it dies", 6.0)
    assert rollout.times(9.0) == {"starting": 2.0, "probation": 2.0, "soaking": 2.0}
