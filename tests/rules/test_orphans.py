"""An orphan ends when no living process of the master can have started it, and not before."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.rules.orphans import Living, Orphan, must_end

TEMPLATE, UNMARKED = 0, None


@pytest.mark.parametrize("began", [5, 50, 500])
def test_one_that_names_its_worker_lives_as_long_as_that_worker(began: int) -> None:
    orphan = Orphan(1, began, worker=7)
    assert not must_end(orphan, Living({7: 100, 8: 1}), all_are_ours=True)
    assert must_end(orphan, Living({8: 1}), all_are_ours=False)


@pytest.mark.parametrize("mark", [UNMARKED, TEMPLATE])
def test_one_that_does_not_lives_as_long_as_any_that_may_have_started_it(mark: int | None) -> None:
    orphan = Orphan(1, 100, mark)
    assert not must_end(orphan, Living({7: 90, 8: 110}), all_are_ours=True)
    assert must_end(orphan, Living({8: 110}), all_are_ours=True), "that worker began later"
    assert not must_end(orphan, Living({8: 100}), all_are_ours=True), "it may have begun a moment before"


def test_what_an_import_started_lives_as_long_as_its_template() -> None:
    orphan = Orphan(1, 100, TEMPLATE)
    assert not must_end(orphan, Living({}, [(90, 120.0)]), all_are_ours=True)
    assert not must_end(orphan, Living({}, [(90, math.inf)]), all_are_ours=True), "it still imports"
    assert must_end(orphan, Living({}, [(90, 95.0), (130, 140.0)]), all_are_ours=True), "neither imported then"


@given(st.one_of(st.none(), st.integers(1, 9)), st.integers(0, 99), st.dictionaries(st.integers(1, 9), st.integers()))
def test_where_strangers_come_too_one_without_a_mark_is_never_ended(mark, began, workers) -> None:
    ends = must_end(Orphan(1, began, mark), Living(workers), all_are_ours=False)
    assert ends == (mark is not None and mark not in workers)


@given(st.one_of(st.none(), st.integers(0, 9)), st.integers(0, 99))
def test_when_all_have_ended_each_orphan_ends(mark, began) -> None:
    assert must_end(Orphan(1, began, mark), Living({}), all_are_ours=True)
