"""How long the settler's coins last, by what the next transaction needs, what epochs cost, and what was spent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.transactions import Fees, FeeView
from fedgpu_operator.settlement.fees import LONELY, Extent
from fedgpu_operator.settlement.funding import FEW_EPOCHS, Ebb, Purse, PurseLevel, burn_of, purse_of

GWEI = 10**9
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
NOBODY = Extent(0, 0, 0, 0, 0)
MOST = 500_000
WARN = 3 * 86_400.0


def purse(balance: int, **changed: int) -> Purse:
    return Purse(**{"balance": balance, "epoch": 100, "next": 150, "burn": 0, **changed})


@pytest.mark.parametrize(
    ("held", "standing"),
    [
        (purse(149), PurseLevel.EMPTY),
        (purse(150), PurseLevel.LOW),
        (purse(FEW_EPOCHS * 100 - 1), PurseLevel.LOW),
        (purse(FEW_EPOCHS * 100), PurseLevel.FUNDED),
        (purse(3_000, burn=1_001), PurseLevel.LOW),
        (purse(3_000, burn=1_000), PurseLevel.FUNDED),
        (purse(0, epoch=0, next=0), PurseLevel.FUNDED),
    ],
)
def test_it_warns_by_what_is_spent_and_by_what_epochs_cost(held: Purse, standing: PurseLevel) -> None:
    assert held.standing(WARN) is standing


def test_free_gas_lasts_for_ever_and_an_idle_settler_as_well() -> None:
    free = purse_of(0, FeeView(base_fee=0, tip=0), 500 * GWEI, NOBODY, 0, 0)
    assert (free.epochs, free.lasts, free.next) == (inf, inf, 0)


def test_an_epoch_is_sized_by_those_before_it_and_a_rollups_data_is_paid_for_besides() -> None:
    view = FeeView(base_fee=10 * GWEI, tip=GWEI)
    alone = purse_of(10**18, view, 500 * GWEI, NOBODY, 0, 0)
    assert alone.epoch == LONELY.gas * 11 * GWEI
    limit = LONELY.gas * 5 // 4
    assert alone.next == limit * 21 * GWEI, (
        "a node wants the whole limit at what is offered: twice the base fee, and the tip"
    )
    twice = Extent(epochs=2, tenants=2, providers=2, lines=2, runs=2)
    assert purse_of(10**18, view, 500 * GWEI, twice, 7, 0) == Purse(10**18, alone.epoch + 7, alone.next + 7, 0)
    crowd = Extent(epochs=1, tenants=1, providers=1_000, lines=1_000, runs=1)
    assert purse_of(10**18, view, 500 * GWEI, crowd, 0, 0).next == 2**24 * 21 * GWEI, "a larger claim is several"
    assert purse_of(10**18, view, 12 * GWEI, NOBODY, 0, 0).next == limit * 12 * GWEI, "no more than the cap"


def test_what_is_on_its_way_needs_what_it_was_signed_with() -> None:
    view, signed = (
        FeeView(base_fee=10 * GWEI, tip=GWEI),
        [(800_000, Fees(90 * GWEI, GWEI)), (200_000, Fees(121 * GWEI, GWEI))],
    )
    needed = 800_000 * 90 * GWEI
    for balance, empty in ((needed - 1, True), (needed, False)):
        held = purse_of(balance, view, 500 * GWEI, NOBODY, 0, 0, signed)
        assert (held.next, held.standing(WARN) is PurseLevel.EMPTY) == (needed, empty)
    small = purse_of(10**18, view, 500 * GWEI, NOBODY, 0, 0, [(21_000, Fees(5 * GWEI, GWEI))])
    assert small.next == 21_000 * 5 * GWEI, "not what another one would need"


def test_what_was_spent_within_a_day_is_what_a_day_costs() -> None:
    assert burn_of([5, 7], NOW - timedelta(hours=1), NOW) == 12
    assert burn_of([5, 9], NOW - timedelta(days=7), NOW) == 2


@given(st.lists(st.tuples(st.integers(1, 20_000), st.integers(-(10**6), 10**6)), max_size=40))
def test_top_ups_hide_no_spending_and_neither_they_nor_withdrawals_count(moves: list[tuple[int, int]]) -> None:
    ebb, now, balance = Ebb(), NOW, 10**9
    assert ebb.see(balance, MOST, now) == 0
    falls: list[tuple[datetime, int]] = []
    burn = 0
    for seconds, change in moves:
        now += timedelta(seconds=seconds)
        balance += change
        if -MOST <= change < 0:
            falls.append((now, -change))
        burn = ebb.see(balance, MOST, now)
    lately = [fall for at, fall in falls if now - at < timedelta(days=7)]
    days = min(7.0, max(1.0, (now - NOW) / timedelta(days=1)))
    assert burn == pytest.approx(sum(lately) / days, abs=1)
