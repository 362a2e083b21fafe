"""A member's budget: what is spent is refused until half of it is there again, and nobody waits for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.adapters.kube.client import MINUTE, Allowance, Budget
from fedgpu_operator.errors import BudgetExceededError

SMALL = Allowance(received=1000, seconds=10.0)


def open_at(budget: Budget, now: float) -> bool:
    try:
        budget.check(now)
    except BudgetExceededError:
        return False
    return True


def test_a_minutes_allowance_may_be_spent_at_one_moment() -> None:
    budget = Budget(SMALL, 0.0)
    budget.spend(0.0, received=1000, seconds=10.0)
    assert open_at(budget, 0.0)


@pytest.mark.parametrize("spent", [{"received": 1}, {"seconds": 0.1}])
def test_what_goes_beyond_it_closes_until_half_has_refilled(spent: dict[str, int]) -> None:
    budget = Budget(SMALL, 0.0)
    budget.spend(0.0, received=1000, seconds=10.0)
    with pytest.raises(BudgetExceededError, match="within a minute"):
        budget.spend(0.0, **spent)
    assert not open_at(budget, 29.0)
    assert open_at(budget, 31.0)


def test_a_debt_is_paid_off_first() -> None:
    budget = Budget(SMALL, 0.0)
    with pytest.raises(BudgetExceededError):
        budget.spend(0.0, received=3000)
    assert not open_at(budget, 2 * MINUTE)
    assert open_at(budget, 2.6 * MINUTE)


def test_a_clock_that_stands_or_goes_back_refills_nothing() -> None:
    budget = Budget(SMALL, 100.0)
    with pytest.raises(BudgetExceededError):
        budget.spend(100.0, received=1001)
    assert not open_at(budget, 0.0)
    assert not open_at(budget, 129.9)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 3000)), max_size=40))
def test_over_any_time_no_more_passes_than_a_minutes_allowance_for_each_minute_and_one_more(
    calls: list[tuple[float, int]],
) -> None:
    """Of what is known to be too much when it comes; the last answer before that counts in full."""
    budget, now, passed, last = Budget(SMALL, 0.0), 0.0, 0, 0
    for pause, size in calls:
        now += pause
        if not open_at(budget, now):
            continue
        last = max(last, size)
        passed += size
        try:
            budget.spend(now, received=size)
        except BudgetExceededError:
            continue
    assert passed <= SMALL.received * (1 + now / MINUTE) + last + 1e-6


def test_an_honest_member_of_the_size_that_the_documents_name_is_let_through() -> None:
    """290 MB and 10 seconds for a count, one a minute, and its watches besides: for an hour."""
    budget = Budget(Allowance(), 0.0)
    for minute in range(60):
        for page in range(140):
            budget.spend(minute * MINUTE + page / 10, received=290_000_000 // 140, seconds=10.0 / 140)
        for second in range(15, 60):
            budget.spend(minute * MINUTE + second, received=1_000_000, seconds=0.03)
