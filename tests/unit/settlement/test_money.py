"""Money is exact: text round-trips, and charges round once and never against the tenant."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.money import MAX_MICRO_USD, MicroUSD, accrue, charge, format_usd, parse_usd

AMOUNTS = st.integers(0, MAX_MICRO_USD)


@given(AMOUNTS)
def test_text_round_trips(amount: int) -> None:
    assert parse_usd(format_usd(amount)) == amount


@given(AMOUNTS)
def test_text_is_worth_the_amount(amount: int) -> None:
    assert Fraction(format_usd(amount)) == Fraction(amount, 10**6)
    assert Fraction(format_usd(-amount)) == -Fraction(amount, 10**6)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("0", 0), ("1.25", 1_250_000), ("007.50", 7_500_000), ("0.000001", 1), ("18446744073709.551615", MAX_MICRO_USD)],
)
def test_parse(text: str, amount: int) -> None:
    assert parse_usd(text) == amount


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("1.0000001", "6 decimals"),
        ("18446744073709.551616", "the most is 18446744073709.551615"),
        ("9" * 5000, "the most is"),
        *[
            (text, '"1.25"')
            for text in ("", " 1", "1 ", "-1", "+1", "1e3", "1,5", ".5", "1.", "1_0", "NaN", "٣", "1\n")
        ],
    ],
)
def test_parse_refuses_with_the_fix(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix.replace(".", r"\.")):
        parse_usd(text)


@pytest.mark.parametrize(("amount", "text"), [(0, "0.00"), (1, "0.000001"), (1_250_000, "1.25"), (1_200_000, "1.20")])
def test_format(amount: int, text: str) -> None:
    assert format_usd(amount) == text


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_charge_rounds_once_and_down(rate: int, gpu_seconds: int) -> None:
    exact = Fraction(rate * gpu_seconds, 3600)
    assert 0 <= exact - charge(MicroUSD(rate), gpu_seconds) < 1


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), max_size=20))
def test_accruals_add_up_however_they_are_cut(rate: int, parts: list[int]) -> None:
    assert sum(accrue(MicroUSD(rate), part) for part in parts) // 3600 == charge(MicroUSD(rate), sum(parts))


def test_an_h100_hour_costs_its_price() -> None:
    assert charge(parse_usd("1.25"), 3600) == parse_usd("1.25")


@pytest.mark.parametrize(("rate", "gpu_seconds"), [(-1, 1), (1, -1)])
def test_nothing_is_negative(rate: int, gpu_seconds: int) -> None:
    with pytest.raises(ValueError, match="never negative"):
        charge(MicroUSD(rate), gpu_seconds)
