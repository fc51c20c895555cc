"""What a soak shows: code that finishes nothing beside code that does is found; slow code is not taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.rules.evidence import Evidence, Seen

SOAK = 2.0


def watched(finished: int, in_hand: int, new: list[Seen]) -> str:
    """Ten seconds of the old code, the last two beside the new."""
    evidence = Evidence()
    for tick in range(40):
        evidence.look(tick * 0.2, Seen(tick * finished // 50, in_hand), Seen())
    for number, seen in enumerate(new):
        evidence.look(8 + number * 0.2, Seen((40 + number) * finished // 50, in_hand), seen)
    return evidence.hangs(10.0, SOAK)


def test_code_that_finishes_nothing_beside_code_that_does_is_found_and_compared() -> None:
    why = watched(1000, 1, [Seen(0, 3, 3)] * 11)
    assert "connections for 2.0 s and finished nothing, with 3 in hand" in why
    assert "the old code finished 1000, in about 0.01 s each" in why


@pytest.mark.parametrize(
    ("case", "finished", "in_hand", "new"),
    [
        ("no traffic", 1000, 1, [Seen()] * 11),
        ("an idle connection", 1000, 1, [Seen(0, 0, 1)] * 11),
        ("one request at the end", 1000, 1, [Seen(0, 0, 1)] * 10 + [Seen(0, 1, 1)]),
        ("it came late", 1000, 1, [Seen()] * 7 + [Seen(0, 3, 3)] * 4),
        ("one answer", 1000, 1, [Seen(0, 3, 3)] * 10 + [Seen(1, 2, 2)]),
        ("websockets that stay for minutes", 15, 1000, [Seen(0, 20, 20)] * 11),
        ("answers that take a second", 100, 10, [Seen(0, 5, 5)] * 11),
        ("the old code hangs too", 0, 10, [Seen(0, 5, 5)] * 11),
    ],
)
def test_what_proves_nothing_rolls_nothing_back(case: str, finished: int, in_hand: int, new: list[Seen]) -> None:
    assert watched(finished, in_hand, new) == "", case


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_code_that_has_finished_anything_is_never_called_hanging(looks: list[tuple[int, int, int]]) -> None:
    evidence, finished = Evidence(), 1
    for tick, (more, in_hand, connections) in enumerate(looks):
        finished += more
        evidence.look(tick * 0.2, Seen(tick * 100, in_hand), Seen(finished, in_hand, connections))
    assert evidence.hangs(10.0, SOAK) == ""


def starving(starved: float, soak: float = SOAK) -> str:
    """Ten looks in a soak at new code that has something in hand, with what it waited for a processor before each."""
    evidence, step = Evidence(), soak / 10
    evidence.look(0.0, Seen(), Seen())
    for tick in range(1, 12):
        evidence.look(tick * step, Seen(tick * 100, 1), Seen(0, 3, 3), starved * step)
    return evidence.hangs(11 * step, soak)


def test_time_for_which_the_new_code_waited_for_a_processor_is_not_held_against_it() -> None:
    assert "connections for 2.0 s" in starving(0.0)
    assert "connections for 1.5 s" in starving(0.25), "the rest was enough"
    assert starving(0.75) == ""
    assert starving(7.0) == "", "of many threads each waits"


def test_a_soak_in_which_a_first_request_may_still_be_loading_proves_no_hang() -> None:
    assert starving(0.0, soak=0.1) == ""
    assert "connections for 0.6 s" in starving(0.0, soak=0.6)


def test_a_soak_without_traffic_says_so() -> None:
    evidence = Evidence()
    evidence.look(0.0, Seen(), Seen())
    assert "no connection came in the soak" in evidence.remark()
    evidence.look(1.0, Seen(), Seen(1, 0, 1))
    assert evidence.remark() == ""
