"""Epochs: one at a time, all or nothing, along known steps; a dead one covers nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import cast

import pytest
from tests.ledgers import coverage_of, open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.ledger import LedgerHead
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Coverage, EpochDraft, EpochLine, EpochStage, LeaseCover
from fedgpu_operator.domain.transactions import ChainTx, TxState
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.metering import covers

Ask = Callable[..., AttemptRequest]
PREPARED, POSTED, FINALIZED = EpochStage.PREPARED, EpochStage.POSTED, EpochStage.FINALIZED


def draft(now: datetime, name: str, *covered: LeaseCover, **fields: object) -> EpochDraft:
    """An epoch whose hashes are made of `name`."""
    line = EpochLine("team-a", "berlin", "0xT", "0xB", MicroUSD(125))
    values = {
        "seq": 1,
        "prev_root": "0x00",
        "root": f"0xroot-{name}",
        "manifest": name.encode() + b"\x00\xff",
        "manifest_hash": f"0x{name}",
        "period_end": now,
        "total": MicroUSD(125),
        "lines": (line,),
        "covers": covered,
    }
    return cast("Callable[..., EpochDraft]", EpochDraft)(**{**values, **fields})


@pytest.fixture
async def used(ledger: SqlLedger, ask: Ask, now: datetime) -> SqlLedger:
    """A ledger in which lease job-1 used 100 gpu-seconds."""
    await open_attempt(ledger, ask(), now)
    await ledger.record_usage("job-1", 1, 100, now)
    return ledger


async def test_an_epoch_comes_back_as_it_was_given(used: SqlLedger, now: datetime) -> None:
    given = draft(now, "a", LeaseCover("job-1", 100))
    stored = await used.store_epoch(given, now)
    assert (stored.number, stored.draft, stored.stage) == (1, given, PREPARED)
    assert await used.store_epoch(given, now) == stored
    assert await used.epochs() == (stored,)
    assert await used.epoch(1) == stored
    assert await used.epoch(2) is None


async def test_one_epoch_at_a_time(used: SqlLedger, now: datetime) -> None:
    await used.store_epoch(draft(now, "a"), now)
    for stage in (PREPARED, POSTED):
        await used.mark_epoch(1, stage)
        with pytest.raises(LedgerError, match=stage):
            await used.store_epoch(draft(now, "b"), now)
    await used.mark_epoch(1, FINALIZED)
    assert (await used.store_epoch(draft(now, "b"), now)).number == 2
    assert [epoch.number for epoch in await used.epochs()] == [2, 1]


async def test_steps_lead_where_the_chain_leads(used: SqlLedger, now: datetime) -> None:
    await used.store_epoch(draft(now, "a"), now)
    with pytest.raises(LedgerError, match="Prepared"):
        await used.mark_epoch(1, EpochStage.PAID)
    posted = await used.mark_epoch(1, POSTED, post_tx="0xabc")
    assert (posted.stage, posted.post_tx) == (POSTED, "0xabc")
    assert (await used.mark_epoch(1, PREPARED)).stage is PREPARED
    await used.mark_epoch(1, POSTED)
    final = await used.mark_epoch(1, FINALIZED, chain_epoch=7)
    assert (final.chain_epoch, final.post_tx) == (7, "0xabc")
    assert (await used.mark_epoch(1, FINALIZED)) == final
    with pytest.raises(LedgerError, match="Finalized"):
        await used.mark_epoch(1, PREPARED)
    with pytest.raises(LedgerError, match="epoch 9 not found"):
        await used.mark_epoch(9, POSTED)


async def test_that_one_epoch_is_paid_says_nothing_of_the_one_before(used: SqlLedger, now: datetime) -> None:
    for name in ("a", "b"):
        number = (await used.store_epoch(draft(now, name), now)).number
        await used.mark_epoch(number, POSTED)
        await used.mark_epoch(number, FINALIZED)
    await used.mark_epoch(2, EpochStage.PAID)
    assert [epoch.stage for epoch in await used.epochs()] == [EpochStage.PAID, FINALIZED]


async def test_a_cover_is_lost_with_its_epoch_and_found_again_by_the_next(used: SqlLedger, now: datetime) -> None:
    assert await coverage_of(used, "job-1") == Coverage("job-1", 100, 0, None, None)
    snapshot = await used.settlement_snapshot()
    pair = snapshot.pairs[0]
    found = covers(snapshot, {(pair.tenant_wallet, pair.provider_wallet): pair.cumulative})
    assert found == (LeaseCover("job-1", 100),)
    await used.store_epoch(draft(now, "a", *found), now)
    assert (await used.settlement_snapshot()).uncovered == ()
    covered = await coverage_of(used, "job-1")
    assert (covered.complete, covered.epoch, covered.stage) == (True, 1, PREPARED)

    await used.record_usage("job-1", 2, 130, now)
    assert not (await coverage_of(used, "job-1")).complete
    rest = (await used.settlement_snapshot()).uncovered
    assert [(lease.gpu_seconds, lease.covered_gpu_seconds) for lease in rest] == [(130, 100)]

    for stage in (POSTED, FINALIZED, EpochStage.CANCELLED):
        await used.mark_epoch(1, stage)
    assert await coverage_of(used, "job-1") == Coverage("job-1", 130, 0, None, None)
    rest = (await used.settlement_snapshot()).uncovered
    assert [(lease.gpu_seconds, lease.covered_gpu_seconds) for lease in rest] == [(130, 0)]
    await used.store_epoch(draft(now, "b", LeaseCover("job-1", 130)), now)
    assert (await coverage_of(used, "job-1")).epoch == 2


async def test_there_is_work_to_settle_while_a_paid_lease_is_billed_beyond_its_cover(
    ledger: SqlLedger, ask: Ask, now: datetime
) -> None:
    wallets = {"tenant_wallet": "0xT", "provider_wallet": "0xB"}
    await open_attempt(ledger, ask(job_uid="free", price=MicroUSD(0), **wallets), now)
    await open_attempt(ledger, ask(job_uid="nobody's"), now)
    await open_attempt(ledger, ask(job_uid="paid", **wallets), now)
    free, nobodys, paid = [each.attempt.lease_name for each in await ledger.open_attempts()]
    for lease in (free, nobodys):
        await ledger.record_usage(lease, 1, 100, now)
    assert not await ledger.work_to_settle()
    await ledger.record_usage(paid, 1, 100, now)
    assert await ledger.work_to_settle()
    await ledger.store_epoch(draft(now, "a", LeaseCover(paid, 100)), now)
    assert not await ledger.work_to_settle()
    await ledger.record_usage(paid, 2, 130, now)
    assert await ledger.work_to_settle()


async def test_an_epoch_that_covers_too_much_leaves_nothing_behind(used: SqlLedger, now: datetime) -> None:
    for cover in (LeaseCover("job-1", 101), LeaseCover("job-1", 0), LeaseCover("job-9", 1)):
        with pytest.raises(LedgerError, match=cover.lease_name):
            await used.store_epoch(draft(now, "a", cover), now)
    twice = draft(now, "a", lines=(draft(now, "x").lines[0],) * 2)
    with pytest.raises(LedgerError):
        await used.store_epoch(twice, now)
    assert await used.epochs() == ()
    with pytest.raises(LedgerError, match="job-9"):
        await coverage_of(used, "job-9")


async def test_the_heads_of_the_ledger_are_kept_with_an_epoch(used: SqlLedger, now: datetime) -> None:
    sealed = await used.seal()
    head = sealed.head
    assert (sealed.books, head) == (await used.settlement_snapshot(), await used.head())
    stored = await used.store_epoch(draft(now, "a", ledger_head=str(head)), now)
    assert LedgerHead.parse(stored.draft.ledger_head) == head
    assert head.chains["usage_records"].length == 1


async def test_a_transaction_is_kept_before_it_is_sent(used: SqlLedger, now: datetime) -> None:
    await used.store_epoch(draft(now, "a"), now)
    post = ChainTx("0x1", "post", 1, None, "0xS", nonce=4, raw=b"\x02\xf8")
    claim = ChainTx("0x2", "claim", 1, "0xB", "0xS", nonce=5)
    for tx in (post, claim, post):
        await used.store_tx(tx, now)
    with pytest.raises(LedgerError, match="0x1"):
        await used.store_tx(ChainTx("0x1", "post", 1, None, "0xS", nonce=4, raw=b"\x02"), now)
    assert await used.transactions(epoch=1) == (post, claim)
    await used.mark_tx("0x1", TxState.INCLUDED, 12)
    await used.mark_tx("0x1", TxState.FINALIZED, 12)
    await used.mark_tx("0x1", TxState.FINALIZED, 12)
    with pytest.raises(LedgerError, match="for good"):
        await used.mark_tx("0x1", TxState.BROADCAST)
    with pytest.raises(LedgerError, match="0x9"):
        await used.mark_tx("0x9", TxState.BROADCAST)
    assert await used.transactions(pending_only=True) == (claim,)
    assert [tx.block_number for tx in await used.transactions()] == [12, None]
