"""Receipts round once per pair, and an epoch covers only what its lines pay."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.attempts import PairTotal, UncoveredLease
from fedgpu_operator.domain.money import MicroUSD, accrue, charge
from fedgpu_operator.domain.settlement import LeaseCover, SettlementSnapshot
from fedgpu_operator.metering import covers, receipt_cumulative

LEASES = st.lists(st.tuples(st.integers(0, 10**8), st.integers(0, 10**7)), max_size=20)


@given(LEASES)
def test_a_receipt_rounds_once_whatever_the_order(leases: list[tuple[int, int]]) -> None:
    numerators = [accrue(MicroUSD(price), seconds) for price, seconds in leases]
    whole = receipt_cumulative(numerators)
    assert whole == receipt_cumulative(reversed(numerators))
    assert whole * 3600 <= sum(numerators) < (whole + 1) * 3600
    one_by_one = sum(charge(MicroUSD(price), seconds) for price, seconds in leases)
    assert one_by_one <= whole <= one_by_one + len(leases)


def test_the_price_of_an_hour_is_the_price() -> None:
    assert receipt_cumulative([accrue(MicroUSD(1_250_000), 3600)]) == 1_250_000


WALLETS = ("0xtenant", "0xprovider")


def snapshot(leases: list[tuple[int, int]], before: int = 0) -> SettlementSnapshot:
    """One pair with these (price, gpu_seconds) leases uncovered and `before` µUSD·s/h covered already."""
    uncovered = tuple(
        UncoveredLease(f"l{n}", "t", "p", MicroUSD(price), seconds, 0, *WALLETS)
        for n, (price, seconds) in enumerate(leases)
    )
    total = before + sum(accrue(lease.price, lease.gpu_seconds) for lease in uncovered)
    return SettlementSnapshot((PairTotal("t", "p", 0, total, 0, len(leases), *WALLETS),), uncovered)


@given(LEASES, st.integers(0, 10**9), st.integers(0, 10**13))
def test_an_epoch_covers_the_oldest_leases_its_line_pays(
    leases: list[tuple[int, int]], before: int, payable: int
) -> None:
    state = snapshot(leases, before)
    covered = covers(state, {WALLETS: MicroUSD(payable)})
    paid = [
        total // 3600 <= payable for total in accumulate((accrue(MicroUSD(p), s) for p, s in leases), initial=before)
    ][1:]
    assert covered == tuple(LeaseCover(f"l{n}", leases[n][1]) for n in range(len(leases)) if paid[n])
    assert len(covers(state, {WALLETS: state.pairs[0].cumulative})) == len(leases)


def test_a_lease_settled_in_part_counts_only_its_rest() -> None:
    lease = UncoveredLease("l", "t", "p", MicroUSD(3600), 100, 40, *WALLETS)
    state = SettlementSnapshot((PairTotal("t", "p", 100, 360_000, 0, 1, *WALLETS),), (lease,))
    assert covers(state, {WALLETS: MicroUSD(99)}) == ()
    assert covers(state, {WALLETS: MicroUSD(100)}) == (LeaseCover("l", 100),)


def test_two_tenants_with_one_wallet_share_a_line() -> None:
    leases = tuple(UncoveredLease(f"{t}-1", t, "p", MicroUSD(3600), 10, 0, *WALLETS) for t in ("a", "b"))
    pairs = tuple(PairTotal(t, "p", 10, 36_000, 0, 1, *WALLETS) for t in ("a", "b"))
    state = SettlementSnapshot(pairs, leases)
    assert covers(state, {WALLETS: MicroUSD(10)}) == (LeaseCover("a-1", 10),)
    assert len(covers(state, {WALLETS: MicroUSD(20)})) == 2


def test_a_pair_without_a_line_is_not_covered() -> None:
    assert covers(snapshot([(3600, 5)]), {}) == ()
