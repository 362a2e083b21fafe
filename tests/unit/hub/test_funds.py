"""What may still be committed: never negative, never rising with work, and never enough to outspend the escrow."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage, PairTotal
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import AccountState, ChainSnapshot, PairState
from fedgpu_operator.hub.views.accounts import (
    EscrowFunds,
    Exposure,
    account_funds,
    chain_funds,
    exposure,
    outlook,
    run_of,
)
from fedgpu_operator.settlement import Burn, Cover

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROVIDERS = ("alpha", "beta", "gamma")


def run(provider: str, price: int, gpus: int, limit: int, used: int = 0) -> AttemptUsage:
    terms = AttemptRequest("job", "after-0", "team", "job", provider, "H100", MicroUSD(price), gpus, limit)
    return AttemptUsage(Attempt(terms, 1, NOW), used, 1)


def totals(runs: list[AttemptUsage]) -> list[PairTotal]:
    """What the ledger would sum up over these runs."""
    pairs = []
    for provider in PROVIDERS:
        mine = [entry for entry in runs if entry.attempt.terms.provider == provider]
        if mine:
            seconds, numerator = sum(e.gpu_seconds for e in mine), sum(e.numerator for e in mine)
            pairs.append(PairTotal("team", provider, seconds, numerator, len(mine), 0))
    return pairs


def finished(entry: AttemptUsage) -> AttemptUsage:
    """The same run, used to its very limit."""
    terms = entry.attempt.terms
    return AttemptUsage(entry.attempt, terms.gpus * terms.run_limit, 2)


@st.composite
def runs(draw: st.DrawFn) -> AttemptUsage:
    gpus, limit = draw(st.integers(1, 16)), draw(st.integers(1, 100_000))
    used = draw(st.integers(0, gpus * limit))
    return run(draw(st.sampled_from(PROVIDERS)), draw(st.integers(0, 10_000_000)), gpus, limit, used)


MONEY = st.integers(0, 10**12).map(MicroUSD)
STANDINGS = st.builds(EscrowFunds, st.builds(Cover, MONEY, MONEY), MONEY)


@given(STANDINGS, st.lists(runs(), max_size=6))
def test_never_negative_and_nothing_without_a_limit(stands: EscrowFunds, work: list[AttemptUsage]) -> None:
    owed = exposure(totals(work), work)
    assert 0 <= stands.available(owed) <= stands.cover.balance
    assert owed.worst >= owed.accrued >= 0
    if not stands.cover.limit:
        assert stands.available(owed) == 0


@given(STANDINGS, st.lists(runs(), max_size=6), runs())
def test_more_work_never_leaves_more(stands: EscrowFunds, work: list[AttemptUsage], more: AttemptUsage) -> None:
    before = stands.available(exposure(totals(work), work))
    assert stands.available(exposure(totals([*work, more]), [*work, more])) <= before


@given(st.integers(0, 10**9), st.lists(runs(), max_size=5), st.lists(runs(), min_size=1, max_size=5))
def test_reserving_what_is_available_never_outspends_the_escrow(
    deposit: int, work: list[AttemptUsage], wanted: list[AttemptUsage]
) -> None:
    """Runs begin only while their worst case fits; then all of them run to their limits."""
    stands = EscrowFunds(Cover(MicroUSD(deposit), MicroUSD(deposit)), MicroUSD(0))
    running: list[AttemptUsage] = []
    for each in wanted:
        new = AttemptUsage(each.attempt, 0, 0)
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
    stages = [(500_000, 0), (460_000, 40_000)]
    for free, secured in stages:
        stands = EscrowFunds(Cover(MicroUSD(free), MicroUSD(500_000)), MicroUSD(secured))
        assert stands.available(owed) == 400_000


def test_an_account_that_was_never_read_has_no_standing() -> None:
    spec = {"wallet": "0x" + "11" * 20}
    account = ComputeAccount.parse({"metadata": {"name": "default"}, "spec": spec})
    assert account_funds(account) is None
    leaving = {"amount": "3.00", "until": "2026-01-01T00:01:00Z"}
    status = {
        "balance": "5.00",
        "secured": "1.25",
        "epochLimit": "2.00",
        "observedBlock": 7,
        "pendingWithdrawal": leaving,
    }
    read = ComputeAccount.parse({"metadata": {"name": "default"}, "spec": spec, "status": status})
    cover = Cover(MicroUSD(5_000_000), MicroUSD(2_000_000))
    assert account_funds(read) == EscrowFunds(cover, MicroUSD(1_250_000)), "new work counts on nothing that leaves"
    lasting = replace(cover, leaving=MicroUSD(3_000_000), leaving_in=60)
    assert account_funds(read, NOW) == EscrowFunds(lasting, MicroUSD(1_250_000))


@pytest.mark.parametrize("used", [0, 1000, 4000])
def test_a_run_counts_as_running_since_it_was_opened_whatever_was_billed(used: int) -> None:
    entry = run("alpha", 3600, 2, 3000, used)
    seen = run_of(entry, NOW + timedelta(seconds=2000))
    assert (seen.burn, seen.unbilled) == (Burn(MicroUSD(7200), 1000), 3600 * (4000 - used))
    late = run_of(entry, NOW + timedelta(seconds=9000))
    assert (late.burn.seconds, late.unbilled) == (0, 3600 * (6000 - used))
    stopped = run_of(entry, NOW + timedelta(seconds=2000), NOW + timedelta(seconds=2030))
    assert (stopped.burn.seconds, stopped.unbilled) == (30, 3600 * (4000 - used))


def test_the_chain_says_what_needs_no_debit_any_more() -> None:
    """Paid, refunded and held by a dispute, up to what was charged; set aside, pending and held without a provider."""
    amounts = {"balance": 900, "allocated": 30, "pending": 20, "limit": 1000, "held": 4}
    account = AccountState(**{name: MicroUSD(amount) for name, amount in amounts.items()})
    books = {
        ("me", "alpha"): PairState(MicroUSD(100), MicroUSD(5), MicroUSD(3)),
        ("me", "beta"): PairState(MicroUSD(50)),
        ("other", "alpha"): PairState(MicroUSD(7)),
    }
    chain = ChainSnapshot(1, "e", 7, "h", 0, 0, 0, 0, "r", 0, 0, {"me": account}, books)
    charged = {("me", "alpha"): MicroUSD(200), ("me", "beta"): MicroUSD(40)}
    stands = chain_funds(chain, "me", charged, NOW, 600)
    assert stands.secured == 108 + 40 + 30 + 20 + 4
    assert stands.cover.balance == 900


@pytest.mark.parametrize(("ahead", "left"), [(-500, 400), (0, 400), (100, 300)])
def test_the_finalized_block_is_behind_and_the_later_clock_counts(ahead: int, left: int) -> None:
    now = int(NOW.timestamp())
    amounts = {"balance": 900, "allocated": 0, "pending": 0, "limit": 1000, "withdraw_units": 500}
    account = AccountState(**{name: MicroUSD(amount) for name, amount in amounts.items()})
    account = replace(account, withdraw_at=now + 1000)
    chain = ChainSnapshot(1, "e", 7, "h", now + ahead, 0, 0, 0, "r", 0, 0, {"me": account}, {})
    assert chain_funds(chain, "me", {}, NOW, 600).cover.leaving_in == left


@given(st.integers(0, 10**9), st.lists(runs(), min_size=1, max_size=5), st.integers(0, 100_000))
def test_what_was_let_start_on_its_worst_case_is_covered_to_its_end(
    deposit: int, wanted: list[AttemptUsage], seconds: int
) -> None:
    stands = EscrowFunds(Cover(MicroUSD(deposit), MicroUSD(deposit)), MicroUSD(0))
    running: list[AttemptUsage] = []
    for each in wanted:
        worst = exposure([], [AttemptUsage(each.attempt, 0, 0)]).worst
        if worst <= stands.available(exposure(totals(running), running)):
            running.append(each)
    seen = outlook(stands, totals(running), running, NOW + timedelta(seconds=seconds))
    # Each run alone may round away nearly one unit that all of them together do not.
    if deposit >= exposure(totals(running), running).worst:
        assert seen.lasts is None


def test_a_fraction_of_a_unit_that_a_receipt_rounds_away_stops_nothing() -> None:
    entry = run("alpha", 1_250_000, 1, 605)
    worst = exposure([], [entry]).worst
    enough, short = (EscrowFunds(Cover(MicroUSD(worst - less), MicroUSD(worst)), MicroUSD(0)) for less in (0, 1))
    assert worst * 3600 < 1_250_000 * 605, "it is rounded down"
    assert outlook(enough, [], [entry], NOW).lasts is None
    assert outlook(short, [], [entry], NOW).lasts == 604


def test_the_oldest_has_the_right_of_way_in_whatever_order_the_ledger_says_it() -> None:
    old, young = run("alpha", 3600, 1, 100), run("beta", 3600, 1, 100)
    later = replace(young.attempt, attempt=2, created_at=NOW + timedelta(seconds=1))
    young = replace(young, attempt=later)
    stands = EscrowFunds(Cover(MicroUSD(150), MicroUSD(150)), MicroUSD(0))
    for order in ([old, young], [young, old]):
        seen = outlook(stands, [], order, NOW + timedelta(seconds=1))
        assert seen.secured == {old.attempt.lease_name}
        assert [each.lease for each in seen.running] == [old.attempt.lease_name, young.attempt.lease_name]
