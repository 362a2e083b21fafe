"""The entries between two positions always sum to zero, and tell the same story in whatever steps it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.domain.ledger import Position, PositionKey, Posting, PostingKind
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import AccountState, ChainSnapshot, PairState
from fedgpu_operator.settlement.journal import RISING, entries, positions

NOW = datetime(2025, 6, 1, tzinfo=UTC)
TENANTS, PROVIDERS = ("0xA", "0xB"), ("0xP", "0xQ")
KEYS: list[PositionKey] = [
    *((kind, tenant, provider) for kind in sorted(RISING) for tenant in TENANTS for provider in PROVIDERS),
    *((PostingKind.SET_ASIDE, tenant, "") for tenant in TENANTS),
]

changes = st.lists(st.dictionaries(st.sampled_from(KEYS), st.integers(-(10**9), 10**9), max_size=8), max_size=8)
"""Steps of changes by position; those that can only rise take the size of it."""


def sequence(steps: list[dict[PositionKey, int]]) -> Iterable[list[Position]]:
    """Positions after each step, all that were ever named."""
    totals: Counter[PositionKey] = Counter()
    for step in steps:
        for key, change in step.items():
            totals[key] += abs(change) if key[0] in RISING else change
        yield [Position(*key, MicroUSD(total)) for key, total in totals.items()]


def after(before: Mapping[PositionKey, MicroUSD], made: Iterable[Posting]) -> dict[PositionKey, MicroUSD]:
    """What the first legs of entries make of positions."""
    totals = Counter(before)
    for posting in list(made)[::2]:
        totals[posting.kind, posting.tenant, posting.provider] += posting.amount
    return {key: MicroUSD(total) for key, total in totals.items()}


@given(changes)
def test_every_entry_sums_to_zero_and_a_replay_adds_nothing(steps: list[dict[PositionKey, int]]) -> None:
    booked: dict[PositionKey, MicroUSD] = {}
    balances: Counter[str] = Counter()
    number = 1
    for now in sequence(steps):
        made = entries(booked, now, NOW, first=number)
        legs = [(posting.entry, posting.amount) for posting in made]
        assert [entry for entry, _ in legs] == [number + index // 2 for index in range(len(legs))]
        assert all(legs[i][1] == -legs[i + 1][1] != 0 for i in range(0, len(legs), 2))
        number += len(made) // 2
        booked = after(booked, made)
        for posting in made:
            balances[posting.account] += posting.amount
        assert sum(balances.values()) == 0
        assert entries(booked, reversed(now), NOW, first=number) == ()
        assert all(booked.get(position.key, 0) == position.total for position in now)


@given(changes)
def test_one_big_step_comes_to_the_same_balances_as_many(steps: list[dict[PositionKey, int]]) -> None:
    booked: dict[PositionKey, MicroUSD] = {}
    many: Counter[str] = Counter()
    last: list[Position] = []
    for last in sequence(steps):
        made = entries(booked, last, NOW, first=1)
        booked = after(booked, made)
        for posting in made:
            many[posting.account] += posting.amount
    once: Counter[str] = Counter()
    for posting in entries({}, last, NOW, first=1):
        once[posting.account] += posting.amount
    assert {name: total for name, total in many.items() if total} == {n: total for n, total in once.items() if total}


@pytest.mark.parametrize("kind", sorted(RISING))
def test_what_can_only_rise_does_not_fall(kind: PostingKind) -> None:
    before = {(kind, "0xA", "0xP"): MicroUSD(10)}
    with pytest.raises(ValueError, match="fell by 3"):
        entries(before, [Position(kind, "0xA", "0xP", MicroUSD(7))], NOW, first=1)


def snapshot(books: Mapping[tuple[str, str], PairState], accounts: Mapping[str, AccountState]) -> ChainSnapshot:
    return ChainSnapshot(
        chain_id=1,
        escrow="0xE",
        block_number=1,
        block_hash="0x",
        timestamp=0,
        seq=0,
        last_epoch=0,
        head_epoch=0,
        head_root="0x",
        active_epoch=0,
        active_at=0,
        accounts=accounts,
        books=books,
    )


def account(allocated: int = 0, pending: int = 0, held: int = 0) -> AccountState:
    zero = MicroUSD(0)
    return AccountState(zero, MicroUSD(allocated), MicroUSD(pending), zero, held=MicroUSD(held))


def test_positions_are_what_the_books_and_the_chain_hold() -> None:
    books = {
        ("0xA", "0xP"): PairState(paid=MicroUSD(70), deducted=MicroUSD(5), reserved=MicroUSD(11)),
        ("0xA", "0xQ"): PairState(paid=MicroUSD(1)),
    }
    chain = snapshot(books, {"0xA": account(allocated=100, pending=20, held=3), "0xB": account()})
    found = {p.key: p.total for p in positions({("0xA", "0xP"): MicroUSD(200)}, chain)}
    assert found == {
        (PostingKind.CHARGED, "0xA", "0xP"): 200,
        (PostingKind.PAID, "0xA", "0xP"): 70,
        (PostingKind.PAID, "0xA", "0xQ"): 1,
        (PostingKind.REFUNDED, "0xA", "0xP"): 5,
        (PostingKind.REFUNDED, "0xA", "0xQ"): 0,
        (PostingKind.SET_ASIDE, "0xA", ""): 100 + 20 + 3 + 70 + 11 + 1,
        (PostingKind.SET_ASIDE, "0xB", ""): 0,
    }


def test_a_pair_without_its_tenants_account_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks 1 of the tenants"):
        positions({}, snapshot({("0xA", "0xP"): PairState()}, {}))


def test_money_that_flows_back_leaves_the_escrow() -> None:
    before = {(PostingKind.SET_ASIDE, "0xA", ""): MicroUSD(50)}
    (escrow, tenant) = entries(before, positions({}, snapshot({}, {"0xA": account()})), NOW, first=9)
    assert (escrow.account, escrow.amount, escrow.entry) == ("escrow/0xA", -50, 9)
    assert (tenant.account, tenant.amount) == ("tenant/0xA", 50)
