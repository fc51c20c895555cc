"""How many requests may a client reset?"""

from rrmaster.worker.serving.anycorn_calls import RESETS, RESETS_PER_S, ResetBudget


def test_a_client_may_reset_a_thousand_requests_at_once_and_then_33_a_second() -> None:
    budget = ResetBudget()
    assert [budget.spend(500.0) for _ in range(RESETS)] == [True] * RESETS
    assert [budget.spend(502.0) for _ in range(2 * RESETS_PER_S)] == [True] * 2 * RESETS_PER_S
    assert not budget.spend(502.0)
    assert budget.spend(10_000.0), "and what it has not used is kept"
