"""Double entries in the ledger: what changed is posted once, and everything always sums to zero."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from tests.ledgers import postings_of

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.ledger import Position, PostingKind, TrialBalance
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError

T, P, Q = "0xT", "0xP", "0xQ"


def charged(total: int, provider: str = P) -> Position:
    return Position(PostingKind.CHARGED, T, provider, MicroUSD(total))


def aside(total: int) -> Position:
    return Position(PostingKind.SET_ASIDE, T, "", MicroUSD(total))


def paid(total: int, provider: str = P) -> Position:
    return Position(PostingKind.PAID, T, provider, MicroUSD(total))


def refunded(total: int) -> Position:
    return Position(PostingKind.REFUNDED, T, P, MicroUSD(total))


async def test_the_life_of_a_debt_is_told_by_its_accounts(ledger: SqlLedger, now: datetime) -> None:
    steps = [
        ([charged(100), charged(40, Q)], {"tenant": 140, "escrow": 0, P: -100, Q: -40}),
        ([charged(100), charged(40, Q), aside(120)], {"tenant": 20, "escrow": 120, P: -100, Q: -40}),
        ([aside(120), paid(70), paid(40, Q)], {"tenant": 20, "escrow": 10, P: -30, Q: 0}),
        # A dispute is closed for the tenant: 10 flow back to its balance, and the provider is owed 10 less.
        ([aside(110), refunded(10)], {"tenant": 20, "escrow": 0, P: -20, Q: 0}),
    ]
    for block, (positions, expected) in enumerate(steps, start=1):
        assert await ledger.post(positions, now, block=block)
        assert await ledger.post(positions, now + timedelta(hours=1), block=block) == ()
        found = await ledger.balances()
        told = {name: found.get(f"provider/{name}", 0) for name in (P, Q)}
        told |= {name: found.get(f"{name}/{T}", 0) for name in ("tenant", "escrow")}
        assert told == expected
        balance = await ledger.trial_balance()
        assert balance.balanced
        assert sum(found.values()) == balance.total == 0
    assert (await ledger.verify()).sound


async def test_an_empty_journal_balances(ledger: SqlLedger) -> None:
    assert await ledger.trial_balance() == TrialBalance(0, 0, 0)
    assert await ledger.balances() == {}


async def test_positions_of_an_older_block_change_nothing(ledger: SqlLedger, now: datetime) -> None:
    await ledger.post([aside(50)], now, block=10)
    assert await ledger.post([aside(30)], now, block=9) == ()
    assert (await ledger.balances())[f"escrow/{T}"] == 50
    back = await ledger.post([aside(0)], now, block=11)
    assert [posting.amount for posting in back] == [-50, 50]


async def test_what_was_charged_paid_or_refunded_never_falls(ledger: SqlLedger, now: datetime) -> None:
    for position in (charged(100), paid(50), refunded(5)):
        await ledger.post([position], now)
        less = Position(position.kind, T, P, MicroUSD(position.total - 1))
        with pytest.raises(LedgerError, match="fell by 1 µUSD"):
            await ledger.post([aside(1000), less], now)
    with pytest.raises(LedgerError, match="given twice"):
        await ledger.post([charged(101), charged(102)], now)
    assert len(await postings_of(ledger)) == 6
    assert [posting.amount for posting in await postings_of(ledger, account=f"tenant/{T}")] == [-5, 100]
