"""Receipts rise, and a reading that is disputed is disputed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.ledger import CountersignedReceipt, UsageDispute, UsageDisputeState
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.errors import LedgerError

Ask = Callable[..., AttemptRequest]
OPEN, SUPERSEDED = UsageDisputeState.OPEN, UsageDisputeState.SUPERSEDED
GRANTED, REFUSED = UsageDisputeState.GRANTED, UsageDisputeState.REFUSED


def receipt(cumulative: int, period_end: int, tenant: str = "0xT", provider: str = "0xP", root: str = "0x1") -> Receipt:
    return Receipt(tenant, provider, MicroUSD(cumulative), period_end, root)


async def test_a_receipt_is_kept_once_with_both_signatures(ledger: SqlLedger, now: datetime) -> None:
    assert await ledger.append_receipt(receipt(5, 10), b"\x01\xff", b"\x02", now)
    assert not await ledger.append_receipt(receipt(5, 10), b"\x01\xff", b"\x02", now + timedelta(hours=1))
    assert not await ledger.append_receipt(receipt(5, 10), b"another nonce", b"\x02", now)
    assert await ledger.receipts() == (CountersignedReceipt(receipt(5, 10), b"\x01\xff", b"\x02", now),)


async def test_neither_cumulative_nor_period_end_falls(ledger: SqlLedger, now: datetime) -> None:
    for good in (receipt(5, 10), receipt(5, 20), receipt(9, 20), receipt(12, 30)):
        assert await ledger.append_receipt(good, b"", b"", now)
    for bad in (receipt(11, 31), receipt(13, 29), receipt(8, 25), receipt(12, 30, root="0x2")):
        with pytest.raises(LedgerError, match="receipt"):
            await ledger.append_receipt(bad, b"", b"", now)
    assert not await ledger.append_receipt(receipt(9, 20), b"", b"", now), "an old one again is no contradiction"
    every = await ledger.receipts(newest_only=False)
    assert [(kept.receipt.cumulative, kept.receipt.period_end) for kept in every] == [
        (5, 10),
        (5, 20),
        (9, 20),
        (12, 30),
    ]


async def test_the_newest_receipt_of_each_pair_is_found(ledger: SqlLedger, now: datetime) -> None:
    for tenant, provider in (("0xB", "0xP"), ("0xA", "0xQ"), ("0xA", "0xP")):
        for n in (1, 2):
            await ledger.append_receipt(receipt(n, n, tenant, provider), b"", b"", now)
    assert [kept.pair for kept in await ledger.receipts()] == [("0xA", "0xP"), ("0xA", "0xQ"), ("0xB", "0xP")]
    assert {kept.receipt.cumulative for kept in await ledger.receipts()} == {2}
    assert [kept.pair for kept in await ledger.receipts(tenant="0xA", provider="0xQ")] == [("0xA", "0xQ")]
    assert await ledger.receipts(provider="0xZ") == ()


def dispute(now: datetime, sequence: int = 3, claimed: int = 130, lease: str = "job-1") -> UsageDispute:
    return UsageDispute(lease, sequence, claimed, 100, "HubClock", '{"é":1}', now)


async def test_a_dispute_is_kept_until_it_is_ruled_on(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    assert await ledger.dispute_usage(dispute(now))
    assert not await ledger.dispute_usage(dispute(now))
    assert await ledger.usage_disputes(open_only=True) == (dispute(now),)
    with pytest.raises(LedgerError, match="other figures"):
        await ledger.dispute_usage(dispute(now, claimed=131))
    ruled = await ledger.rule_usage_dispute("job-1", 3, GRANTED, "clock was wrong", now)
    assert ruled == replace(dispute(now), state=GRANTED, note="clock was wrong", ruled_at=now)
    assert await ledger.rule_usage_dispute("job-1", 3, GRANTED, "again", now + timedelta(hours=1)) == ruled
    assert await ledger.usage_disputes() == (ruled,)
    for sequence, state in ((3, REFUSED), (4, REFUSED)):
        with pytest.raises(LedgerError):
            await ledger.rule_usage_dispute("job-1", sequence, state, "", now)


async def test_a_later_reading_takes_over_the_dispute_of_its_lease(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    for job in ("job", "other"):
        await open_attempt(ledger, ask(job_uid=job, tenant=f"team-{job}"), now)
        await ledger.dispute_usage(dispute(now, lease=f"{job}-1"))
    later = now + timedelta(minutes=1)
    await ledger.dispute_usage(replace(dispute(later, 4, 150)))
    states = [(d.lease_name, d.sequence, d.state) for d in await ledger.usage_disputes()]
    assert states == [("job-1", 3, SUPERSEDED), ("other-1", 3, OPEN), ("job-1", 4, OPEN)]
    assert not await ledger.dispute_usage(dispute(now)), "the superseded one again is no news"
    with pytest.raises(LedgerError, match="later reading"):
        await ledger.dispute_usage(dispute(now, 2))
    assert [d.lease_name for d in await ledger.usage_disputes(tenant="team-other")] == ["other-1"]
    assert [d.sequence for d in await ledger.usage_disputes(lease_name="job-1", open_only=True)] == [4]
    with pytest.raises(LedgerError, match="ruled Granted or Refused, not Superseded"):
        await ledger.rule_usage_dispute("other-1", 3, SUPERSEDED, "", now)


async def test_a_dispute_without_a_lease_or_a_difference_is_refused(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    with pytest.raises(LedgerError, match="job-1"):
        await ledger.dispute_usage(dispute(now))
    await open_attempt(ledger, ask(), now)
    with pytest.raises(LedgerError):
        await ledger.dispute_usage(dispute(now, claimed=100))
    assert await ledger.usage_disputes() == ()
