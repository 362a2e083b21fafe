"""Two honest readings are never a dispute, and nobody can hide more than the tolerance in one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.metering import disputed, tolerance

SECONDS = st.integers(0, 10**12)
GPUS = st.integers(1, 1024)


@pytest.mark.parametrize(
    ("claimed", "payable", "gpus", "rest"),
    [
        (100, 100, 1, 0),
        (100, 98, 1, 0),  # two seconds of one GPU
        (100, 97, 1, 3),
        (800, 784, 8, 0),  # two seconds of eight
        (800, 783, 8, 17),
        (100_000, 99_000, 1, 0),  # one percent
        (100_000, 98_999, 1, 1001),
        (4, 0, 2, 0),
        (5, 0, 2, 5),
        (10, 20, 1, 0),  # what was billed before stays billed
    ],
)
def test_the_edges(claimed: int, payable: int, gpus: int, rest: int) -> None:
    assert disputed(claimed, payable, gpus) == rest


@given(SECONDS, SECONDS, GPUS)
def test_all_of_the_difference_or_nothing(claimed: int, payable: int, gpus: int) -> None:
    rest = disputed(claimed, payable, gpus)
    assert rest in (0, claimed - payable)
    unpaid_and_silent = max(0, claimed - payable) - rest
    assert 0 <= unpaid_and_silent <= max(2 * gpus, claimed / 100)


@given(st.integers(0, 10**7), GPUS, st.integers(-1, 1), st.integers(-1, 1))
def test_whole_seconds_at_both_ends_are_no_dispute(seconds: int, gpus: int, begin: int, end: int) -> None:
    """Either end of a run may be written one second off by either side."""
    claimed = gpus * seconds
    assert not disputed(claimed, gpus * max(0, seconds + begin + end), gpus)


@given(SECONDS, SECONDS, GPUS)
def test_a_larger_claim_never_tolerates_less(first: int, second: int, gpus: int) -> None:
    assert tolerance(min(first, second), gpus) <= tolerance(max(first, second), gpus)
