"""The settler's equation: never more than the chain allows, nothing twice, nothing lost, fair when it is short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import AccountState, ChainSnapshot, Funding, Pair
from fedgpu_operator.settlement import MAX_DEBITS, advances, fund

Address = Callable[[int], str]
Snapshot = Callable[..., ChainSnapshot]
Case = tuple[list[AccountState], dict[tuple[int, int], tuple[MicroUSD, MicroUSD, MicroUSD]]]

AMOUNT = st.integers(0, 1000).map(MicroUSD)
ACCOUNT = st.builds(AccountState, balance=AMOUNT, allocated=AMOUNT, pending=AMOUNT, limit=AMOUNT)
CASE = st.tuples(
    st.lists(ACCOUNT, min_size=3, max_size=3),
    st.dictionaries(st.tuples(st.integers(0, 2), st.integers(10, 13)), st.tuples(AMOUNT, AMOUNT, AMOUNT)),
)


def account(**amounts: int) -> AccountState:
    every = {"balance": 0, "allocated": 0, "pending": 0, "limit": 0} | amounts
    return AccountState(**{name: MicroUSD(amount) for name, amount in every.items()})


@given(case=CASE)
def test_what_fund_promises_is_there(case: Case, address: Address, snapshot: Snapshot) -> None:
    states, books = case
    accounts = {address(i): state for i, state in enumerate(states)}
    pair_of = {key: (address(key[0]), address(key[1])) for key in books}
    paid = {pair_of[key]: book[0] for key, book in books.items()}
    owed = {pair_of[key]: MicroUSD(book[0] + book[1]) for key, book in books.items()}
    committed = {pair_of[key]: MicroUSD(book[0] + book[2]) for key, book in books.items()}
    funding = fund(owed, snapshot(accounts, paid), committed)
    for tenant, state in accounts.items():
        debit = funding.debits.get(tenant, 0)
        due = sum(owed[pair] - paid[pair] for pair in owed if pair[0] == tenant)
        carried = sum(total - paid[pair] for pair, total in funding.payable.items() if pair[0] == tenant)
        held = state.allocated + state.pending
        assert 0 <= debit <= min(state.limit, state.balance)
        assert carried == min(due, held + debit), "all the money there is, and no more than is due"
        assert funding.unfunded.get(tenant, 0) == due - carried
        assert debit == max(0, min(due - held, state.limit, state.balance)), "the settler's equation"
    for pair, total in funding.payable.items():
        assert paid[pair] < total <= owed[pair]


@given(case=CASE, data=st.data())
def test_order_of_the_books_does_not_matter(
    case: Case, data: st.DataObject, address: Address, snapshot: Snapshot
) -> None:
    states, books = case
    accounts = {address(i): state for i, state in enumerate(states)}
    owed = {(address(t), address(p)): MicroUSD(a + b) for (t, p), (a, b, _) in books.items()}
    paid = {(address(t), address(p)): a for (t, p), (a, _, _) in books.items()}
    shuffled = dict(data.draw(st.permutations(list(owed.items()))))
    chain = snapshot(accounts, paid)
    assert fund(owed, chain) == fund(shuffled, chain)
    assert list(fund(owed, chain).debits) == list(fund(shuffled, chain).debits)


def settle(funding: Funding, state: AccountState, tenant: str) -> AccountState:
    """The account after the epoch of `funding` has become active."""
    debit = funding.debits.get(tenant, MicroUSD(0))
    return replace(
        state,
        balance=MicroUSD(state.balance - debit),
        allocated=MicroUSD(state.allocated + state.pending + debit),
        pending=MicroUSD(0),
    )


def test_nothing_is_debited_twice_and_a_short_tenant_catches_up(address: Address, snapshot: Snapshot) -> None:
    tenant, p, q = address(0), address(1), address(2)
    owed = {(tenant, p): MicroUSD(300), (tenant, q): MicroUSD(100)}
    paid: dict[Pair, MicroUSD] = dict.fromkeys(owed, MicroUSD(0))
    state = account(balance=1000, limit=200)
    first = fund(owed, snapshot({tenant: state}, paid))
    assert (first.debits, first.unfunded) == ({tenant: 200}, {tenant: 200})
    assert first.payable == {(tenant, p): 150, (tenant, q): 50}, "pro rata"
    state = settle(first, state, tenant)
    second = fund(owed, snapshot({tenant: state}, paid), first.payable)
    assert (second.debits, second.unfunded) == ({tenant: 200}, {}), "the rest, though nobody has claimed yet"
    assert second.payable == owed
    state = settle(second, state, tenant)
    third = fund(owed, snapshot({tenant: state}, paid), second.payable)
    assert third.debits == {}
    assert not advances(third, second.payable)


def test_a_cancelled_epoch_is_billed_again(address: Address, snapshot: Snapshot) -> None:
    tenant, p = address(0), address(1)
    owed = {(tenant, p): MicroUSD(100)}
    chain = snapshot({tenant: account(balance=500, limit=500)}, {(tenant, p): MicroUSD(0)})
    assert fund(owed, chain) == fund(owed, chain, {})
    assert fund(owed, chain).debits == {tenant: 100}


def test_what_an_older_root_promised_comes_first(address: Address, snapshot: Snapshot) -> None:
    tenant, early, late = address(0), address(1), address(2)
    owed = {(tenant, early): MicroUSD(100), (tenant, late): MicroUSD(900)}
    paid = dict.fromkeys(owed, MicroUSD(0))
    funding = fund(owed, snapshot({tenant: account(allocated=100)}, paid), {(tenant, early): MicroUSD(100)})
    assert funding.payable == {(tenant, early): 100}
    assert funding.unfunded == {tenant: 900}


def test_an_announced_withdrawal_does_not_reduce_what_is_owed(address: Address, snapshot: Snapshot) -> None:
    tenant, p = address(0), address(1)
    leaving = replace(account(balance=100, limit=100), withdraw_units=MicroUSD(100), withdraw_at=5)
    funding = fund({(tenant, p): MicroUSD(60)}, snapshot({tenant: leaving}, {(tenant, p): MicroUSD(0)}))
    assert funding.debits == {tenant: 60}
    assert leaving.free == 0, "but new work finds nothing"


def test_pairs_paid_in_full_are_left_out(address: Address, snapshot: Snapshot) -> None:
    tenant, p = address(0), address(1)
    owed = {(tenant, p): MicroUSD(60)}
    assert fund(owed, snapshot({tenant: account(balance=100, limit=100)}, owed)).payable == {}


def test_the_501st_tenant_waits(address: Address, snapshot: Snapshot) -> None:
    tenants = [address(i) for i in range(MAX_DEBITS + 1)]
    owed = {(tenant, address(9000)): MicroUSD(i + 1) for i, tenant in enumerate(tenants)}
    accounts = {tenant: account(balance=1000, limit=1000) for tenant in tenants}
    funding = fund(owed, snapshot(accounts, dict.fromkeys(owed, MicroUSD(0))))
    assert len(funding.debits) == MAX_DEBITS
    assert funding.unfunded == {tenants[0]: 1}, "the one that owes least"


def test_a_snapshot_of_other_pairs_is_refused(address: Address, snapshot: Snapshot) -> None:
    with pytest.raises(ValueError, match="lacks 1 of the pairs"):
        fund({(address(0), address(1)): MicroUSD(1)}, snapshot({}, {}))
