"""The newest usage of a lease is one live row; evidence of it enters the chain where something needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import pytest
from tests.contract.ledger.intruder import Intruder
from tests.contract.ledger.test_epochs import draft
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.usage import CHECKPOINT
from fedgpu_operator.domain.attempts import AttemptRequest, SignedUsage, UsageRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochStage, LeaseCover
from fedgpu_operator.errors import LedgerError

Ask = Callable[..., AttemptRequest]
INTERVAL = timedelta(seconds=15)


def chained(intruder: Intruder) -> Sequence[tuple[object, ...]]:
    return intruder.run("SELECT lease_name, sequence, gpu_seconds FROM usage_records ORDER BY position")


async def test_a_day_of_readings_leaves_a_row_of_evidence_each_quarter_of_an_hour(
    held: SqlLedger, ask: Ask, now: datetime, intruder: Intruder
) -> None:
    await open_attempt(held, ask(run_limit=10**6), now)
    day = int(timedelta(days=1) / INTERVAL)
    signed = SignedUsage(1, 1, 1, "0x" + "ab" * 32, "0xS", b"\x01" * 65)
    records = [UsageRecord("job-1", n, 120 * n, now + n * INTERVAL, signed) for n in range(1, day + 1)]
    for begin in range(0, day, 7):
        await held.record_many(records[begin : begin + 7])
        last = await held.last_usage("job-1")
        assert last == records[min(begin + 7, day) - 1], "every reading is kept at once"
    rows = chained(intruder)
    assert len(rows) == 95
    assert len(rows) * 20 < day
    every = int(CHECKPOINT / INTERVAL)
    assert [row[1] for row in rows] == [1 + every * n for n in range(1, 96)]
    assert (await held.verify()).sound


async def test_the_end_an_epoch_and_a_receipt_take_their_evidence(
    held: SqlLedger, ask: Ask, now: datetime, intruder: Intruder
) -> None:
    wallets = {"tenant_wallet": "0xT", "provider_wallet": "0xP"}
    for job, mine in (("a", wallets), ("b", wallets), ("c", {})):
        await open_attempt(held, ask(job_uid=job, **mine), now)
        for sequence in (1, 2):
            await held.record_usage(f"{job}-1", sequence, 40 * sequence, now + sequence * INTERVAL)
    assert chained(intruder) == []
    await held.end_attempt("a-1", "Succeeded", now)
    assert chained(intruder) == [("a-1", 2, 80)]
    assert [lease.gpu_seconds for lease in await held.seal_pair(("0xT", "0xP"))] == [80, 80]
    assert chained(intruder)[1:] == [("b-1", 2, 80)]
    await held.record_usage("a-1", 3, 90, now + 3 * INTERVAL)
    assert chained(intruder)[2:] == [("a-1", 3, 90)], "a reading after the end is evidence by itself"
    sealed = await held.seal()
    assert chained(intruder)[3:] == [("c-1", 2, 80)]
    assert sealed.head.chains["usage_records"].length == 4
    assert [lease.gpu_seconds for lease in sealed.books.uncovered] == [90, 80, 80]
    assert await held.seal() == sealed, "nothing is newer than its evidence"
    assert (await held.verify()).sound


async def test_totals_follow_every_write(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    async def totals() -> list[tuple[str, int, int, int, int]]:
        return [
            (p.provider, p.numerator, p.gpu_seconds, p.open_attempts, p.ended_attempts)
            for p in await ledger.pair_totals()
        ]

    await open_attempt(ledger, ask(price=MicroUSD(3)), now)
    assert await totals() == [("berlin", 0, 0, 1, 0)]
    assert (await ledger.settlement_snapshot()).pairs == ()
    await ledger.record_usage("job-1", 1, 5, now)
    await ledger.record_many([UsageRecord("job-1", n, 2**61 + n, now) for n in range(2, 5)])
    assert await totals() == [("berlin", 3 * (2**61 + 4), 2**61 + 4, 1, 0)]
    for _ in range(2):
        await ledger.end_attempt("job-1", "Succeeded", now)
    await open_attempt(ledger, ask(request_id="2", price=MicroUSD(7)), now)
    await ledger.record_usage("job-2", 1, 2**62, now)
    await ledger.record_usage("job-2", 2, 2**63 - 1, now)
    assert await totals() == [("berlin", 3 * (2**61 + 4) + 7 * (2**63 - 1), 2**61 + 2**63 + 3, 1, 1)]
    with pytest.raises(LedgerError):
        await ledger.record_usage("job-2", 3, 5, now)
    assert (await ledger.verify()).sound


async def test_a_cover_that_is_lost_falls_back_to_the_epoch_before(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    for job, wallet in (("a", "0xT"), ("b", "0xU")):
        await open_attempt(ledger, ask(job_uid=job, tenant_wallet=wallet), now)
        await ledger.record_usage(f"{job}-1", 1, 100, now)
    for name, figure in (("one", 60), ("two", 90)):
        covers = (LeaseCover("a-1", figure), LeaseCover("b-1", figure))
        number = (await ledger.store_epoch(draft(now, name, *covers), now)).number
        await ledger.mark_epoch(number, EpochStage.POSTED)
        skipped = ("0xU",) if name == "two" else ()
        await ledger.mark_epoch(number, EpochStage.FINALIZED, skipped=skipped)
    assert [(c.epoch, c.covered_gpu_seconds) for c in (await ledger.coverages(["a-1", "b-1"])).values()] == [
        (2, 90),
        (1, 60),
    ]
    await ledger.mark_epoch(1, EpochStage.SUPERSEDED)
    assert [(c.epoch, c.covered_gpu_seconds) for c in (await ledger.coverages(["a-1", "b-1"])).values()] == [
        (2, 90),
        (None, 0),
    ]
    await ledger.mark_epoch(2, EpochStage.CANCELLED)
    assert [lease.covered_gpu_seconds for lease in (await ledger.settlement_snapshot()).uncovered] == [0, 0]
    with pytest.raises(LedgerError, match="z-1"):
        await ledger.coverages(["a-1", "z-1"])
    faults = (await ledger.verify()).faults
    assert {fault.table for fault in faults} == {"epochs"}, "whose manifests here are none"


async def test_headers_are_the_epochs_without_their_contents(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    await ledger.record_usage("job-1", 1, 100, now)
    for name in ("one", "two", "three"):
        number = (await ledger.store_epoch(draft(now, name), now)).number
        await ledger.mark_epoch(number, EpochStage.POSTED, post_tx=f"0x{number}")
        await ledger.mark_epoch(number, EpochStage.FINALIZED, chain_epoch=10 + number)
    headers, full = await ledger.epoch_headers(2), await ledger.epochs(2)
    assert [header.number for header in headers] == [3, 2]
    assert [(h.number, h.stage, h.created_at, h.chain_epoch, h.post_tx) for h in headers] == [
        (e.number, e.stage, e.created_at, e.chain_epoch, e.post_tx) for e in full
    ]
    assert [(h.seq, h.root, h.manifest_hash) for h in headers] == [
        (e.draft.seq, e.draft.root, e.draft.manifest_hash) for e in full
    ]


async def test_writes_that_wait_together_fail_alone(held: SqlLedger, ask: Ask, now: datetime) -> None:
    """One commit for many, and one that contradicts, or one that a constraint refuses, spoils none of the others."""
    for index in range(30):
        await open_attempt(held, ask(job_uid=f"j{index}"), now)
    await held.record_usage("j7-1", 5, 100, now)
    calls = [held.record_usage(f"j{index}-1", 6, 99 if index == 7 else 120, now) for index in range(30)]
    answers = await asyncio.gather(
        *calls,
        open_attempt(held, ask(job_uid="odd", gpus=0), now),
        held.end_attempt("j3-1", "Failed", now),
        return_exceptions=True,
    )
    refused = [index for index, answer in enumerate(answers) if isinstance(answer, LedgerError)]
    assert refused == [7, 30]
    assert answers[6] is True
    (total,) = await held.pair_totals()
    assert (total.gpu_seconds, total.open_attempts, total.ended_attempts) == (29 * 120 + 100, 29, 1)
    assert (await held.verify()).sound
