"""Pauses between tries: doubled to their bound, spread by chance, and short again after a success."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.backoff import SPREAD, Backoff


def test_pauses_double_to_their_bound_and_a_success_makes_them_short_again() -> None:
    backoff = Backoff(0.5, 3.0, chance=lambda: 0.0)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.failed() == 0.5


def test_a_first_pause_is_never_longer_than_the_longest() -> None:
    assert Backoff(5.0, 2.0, chance=lambda: 0.0).failed() == 2.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_chance_makes_a_pause_longer_by_a_bounded_share_and_never_shorter(drawn: list[float]) -> None:
    chances = iter(drawn)
    spread, plain = Backoff(1.0, 8.0, chance=lambda: next(chances)), Backoff(1.0, 8.0, chance=lambda: 0.0)
    for _ in drawn:
        least = plain.failed()
        assert least <= spread.failed() <= least * (1 + SPREAD)


def test_two_that_fail_together_do_not_come_back_together() -> None:
    assert Backoff(1.0, 8.0).failed() != Backoff(1.0, 8.0).failed()
