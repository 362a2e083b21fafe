"""What may still be committed: never negative, never rising with work, and never enough to outspend the escrow."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.books import Attempt, AttemptRequest, LeaseUsage, PairTotal
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.hub.funds import Exposure, Standing, exposure, standing

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROVIDERS = ("alpha", "beta", "gamma")


def run(provider: str, price: int, gpus: int, limit: int, used: int = 0) -> LeaseUsage:
    terms = AttemptRequest("job", "after-0", "team", "job", provider, "H100", MicroUSD(price), gpus, limit)
    return LeaseUsage(Attempt(terms, 1, NOW), used, 1)


def totals(runs: list[LeaseUsage]) -> list[PairTotal]:
    """What the ledger would sum up over these runs."""
    pairs = []
    for provider in PROVIDERS:
        mine = [entry for entry in runs if entry.attempt.terms.provider == provider]
        if mine:
            seconds, numerator = sum(e.gpu_seconds for e in mine), sum(e.numerator for e in mine)
            pairs.append(PairTotal("team", provider, seconds, numerator, len(mine), 0))
    return pairs


def finished(entry: LeaseUsage) -> LeaseUsage:
    """The same run, used to its very limit."""
    terms = entry.attempt.terms
    return LeaseUsage(entry.attempt, terms.gpus * terms.run_limit, 2)


@st.composite
def runs(draw: st.DrawFn) -> LeaseUsage:
    gpus, limit = draw(st.integers(1, 16)), draw(st.integers(1, 100_000))
    used = draw(st.integers(0, gpus * limit))
    return run(draw(st.sampled_from(PROVIDERS)), draw(st.integers(0, 10_000_000)), gpus, limit, used)


MONEY = st.integers(0, 10**12).map(MicroUSD)
STANDINGS = st.builds(Standing, MONEY, MONEY, MONEY, MONEY, MONEY)


@given(STANDINGS, st.lists(runs(), max_size=6))
def test_never_negative_and_nothing_without_a_limit(stands: Standing, work: list[LeaseUsage]) -> None:
    owed = exposure(totals(work), work)
    assert 0 <= stands.available(owed) <= stands.free
    assert owed.worst >= owed.accrued >= 0
    if not stands.limit:
        assert stands.available(owed) == 0


@given(STANDINGS, st.lists(runs(), max_size=6), runs())
def test_more_work_never_leaves_more(stands: Standing, work: list[LeaseUsage], more: LeaseUsage) -> None:
    before = stands.available(exposure(totals(work), work))
    assert stands.available(exposure(totals([*work, more]), [*work, more])) <= before


@given(st.integers(0, 10**9), st.lists(runs(), max_size=5), st.lists(runs(), min_size=1, max_size=5))
def test_reserving_what_is_available_never_outspends_the_escrow(
    deposit: int, work: list[LeaseUsage], wanted: list[LeaseUsage]
) -> None:
    """Runs begin only while their worst case fits; then all of them run to their limits."""
    stands = Standing(*map(MicroUSD, (deposit, 0, 0, 0, deposit)))
    running: list[LeaseUsage] = []
    for each in wanted:
        new = LeaseUsage(each.attempt, 0, 0)
        terms = new.attempt.terms
        worst = terms.price * terms.gpus * terms.run_limit // 3600
        if worst <= stands.available(exposure(totals(running), running)):
            running.append(new)
    spent = exposure(totals([finished(entry) for entry in running]), [])
    # Pairs round down once for all their runs: together they may carry at most 1 µUSD more than each run alone.
    assert spent.accrued <= deposit + len(PROVIDERS)


def test_billed_money_moves_through_the_escrow_without_changing_what_is_available() -> None:
    work = [run("alpha", 3_600_000, 1, 100, used=40)]
    owed = exposure(totals(work), work)
    assert owed == Exposure(MicroUSD(40_000), MicroUSD(100_000))
    assert owed.committed == 60_000
    stages = [(500_000, 0, 0, 0), (460_000, 0, 40_000, 0), (460_000, 40_000, 0, 0), (460_000, 0, 0, 40_000)]
    for free, allocated, pending, paid in stages:
        stands = Standing(*map(MicroUSD, (free, allocated, pending, paid, 500_000)))
        assert stands.available(owed) == 400_000


def test_an_account_that_was_never_read_has_no_standing() -> None:
    spec = {"wallet": "0x" + "11" * 20}
    account = ComputeAccount.parse({"metadata": {"name": "default"}, "spec": spec})
    assert standing(account) is None
    status = {"balance": "5.00", "settled": "1.25", "epochLimit": "2.00", "observedBlock": 7}
    read = ComputeAccount.parse({"metadata": {"name": "default"}, "spec": spec, "status": status})
    assert standing(read) == Standing(*map(MicroUSD, (5_000_000, 0, 0, 1_250_000, 2_000_000)))
