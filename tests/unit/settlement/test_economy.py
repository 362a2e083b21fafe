"""An epoch goes out when it is worth its gas, or when it has waited as long as it may."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.settlement import Terms, worth_its_gas
from fedgpu_operator.settlement.fees import LONELY, Extent, cost_of, share_of_run

GWEI = 10**9
TERMS = Terms(
    every=timedelta(hours=1),
    at_most=timedelta(days=7),
    native_usd=MicroUSD(3_000_000_000),
    max_cost_share=0.05,
)
"""One native coin costs 3,000 USD, and gas may be a twentieth of what is paid."""


def test_what_gas_costs_is_rounded_up_against_ourselves() -> None:
    assert cost_of(200_000, 20 * GWEI, MicroUSD(3_000_000_000)) == 12_000_000
    assert cost_of(1, 1, MicroUSD(1)) == 1


@pytest.mark.parametrize(("pays", "goes"), [(240_000_000, True), (239_999_999, False)])
def test_an_epoch_waits_while_its_gas_is_more_than_its_share(pays: int, goes: bool) -> None:
    assert worth_its_gas(MicroUSD(pays), 200_000, 20 * GWEI, TERMS, timedelta(hours=1)) is goes


def test_it_never_waits_longer_than_it_may() -> None:
    assert not worth_its_gas(MicroUSD(1), 200_000, 20 * GWEI, TERMS, TERMS.at_most - timedelta(seconds=1))
    assert worth_its_gas(MicroUSD(1), 200_000, 20 * GWEI, TERMS, TERMS.at_most)


def test_where_no_price_of_the_coin_is_set_gas_is_not_counted() -> None:
    free = Terms(every=TERMS.every, at_most=TERMS.at_most)
    assert worth_its_gas(MicroUSD(1), 10**9, 10**6 * GWEI, free, timedelta(0))


@given(st.integers(0, 10**12), st.integers(21_000, 10**8), st.integers(1, 10**4 * GWEI), st.integers(0, 10**9))
def test_paying_more_or_dearer_gas_never_turns_the_verdict_the_wrong_way(
    pays: int, gas: int, wei: int, more: int
) -> None:
    waited = timedelta(hours=1)
    if worth_its_gas(MicroUSD(pays), gas, wei, TERMS, waited):
        assert worth_its_gas(MicroUSD(pays + more), gas, wei, TERMS, waited)
    else:
        assert not worth_its_gas(MicroUSD(pays), gas, wei + more, TERMS, waited)


def test_a_run_bears_its_share_of_what_past_epochs_cost() -> None:
    two = Extent(epochs=2, tenants=5, providers=3, lines=6, runs=100)
    assert two.gas == 2 * (92_000 + 55_000) + 5 * 8_000 + 3 * 32_000 + 6 * 36_000
    coin = MicroUSD(3_000_000_000)
    assert share_of_run(two, GWEI, coin) == -(-cost_of(two.gas, GWEI, coin) // 100)
    assert share_of_run(two, 0, coin) == 0
    nobody = Extent(0, 0, 0, 0, 0)
    assert share_of_run(nobody, GWEI, coin) == cost_of(LONELY.gas, GWEI, coin), "dearest before anything is known"
