"""Very many records at once: repeated, late and in any order they come to the same books and the same Merkle root."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.ledgers import open_attempt, readings_of

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest, UsageRecord
from fedgpu_operator.domain.ledger import BulkResult
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.settlement import build_epoch

Ask = Callable[..., AttemptRequest]
ESCROW = "0x" + "E5" * 20
LEASES, EACH = 200, 100


def wallet(number: int) -> str:
    return f"0x{number:040x}"


async def root(ledger: SqlLedger) -> str:
    """The root of an epoch over all that is owed."""
    pairs = (await ledger.settlement_snapshot()).pairs
    plan = build_epoch(
        chain_id=1,
        escrow=ESCROW,
        seq=0,
        prev_root=ZERO_HASH,
        period_end=0,
        pairs={(pair.tenant_wallet, pair.provider_wallet): pair.cumulative for pair in pairs},
        debits={},
    )
    return plan.root


async def leases(ledger: SqlLedger, ask: Ask, now: datetime, count: int) -> None:
    for index in range(count):
        request = ask(
            job_uid=f"j{index}",
            tenant=f"team-{index % 7}",
            provider=f"gpu-{index % 5}",
            price=MicroUSD(1_250_000 + index),
            tenant_wallet=wallet(1 + index % 7),
            provider_wallet=wallet(100 + index % 5),
        )
        await open_attempt(ledger, request, now)


async def test_twenty_thousand_records_in_any_order_give_one_root(tmp_path: Path, ask: Ask, now: datetime) -> None:
    template = tmp_path / "template.db"
    async with await SqlLedger.open(template) as ledger:
        await leases(ledger, ask, now, LEASES)
    records = [
        UsageRecord(f"j{lease}-1", sequence, sequence * (60 + lease), now + timedelta(minutes=sequence))
        for lease in range(LEASES)
        for sequence in range(1, EACH + 1)
    ]
    roots, heads = set(), set()
    for seed, batch in ((1, 26_000), (2, 26_000), (3, 4_000)):
        order = random.Random(seed)
        shuffled = [*records, *order.choices(records, k=6_000)]
        order.shuffle(shuffled)
        copy = tmp_path / f"{seed}.db"
        copy.write_bytes(template.read_bytes())
        async with await SqlLedger.open(copy) as ledger:
            results = [await ledger.record_many(shuffled[i : i + batch]) for i in range(0, len(shuffled), batch)]
            assert sum(result.appended + result.known for result in results) == len(shuffled)
            if len(results) == 1:
                assert results[0] == BulkResult(len(records), 6_000)
            assert not any(result.refused for result in results)
            roots.add(await root(ledger))
            audit = await ledger.verify()
            assert audit.sound
            if len(results) == 1:
                heads.add(str(audit.head))
    assert len(roots) == 1
    assert len(heads) == 1, "one batch enters the chain in the same order, too"


async def both_ways(
    ledger: SqlLedger, records: Sequence[UsageRecord], order: random.Random
) -> tuple[BulkResult, list[tuple[int, int]]]:
    """One shuffled batch, and what the ledger holds of job-1 after it."""
    shuffled = list(records)
    order.shuffle(shuffled)
    result = await ledger.record_many(shuffled)
    return result, [(record.sequence, record.gpu_seconds) for record in await readings_of(ledger, "job-1")]


async def test_what_contradicts_is_reported_and_the_rest_is_kept(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    await ledger.record_usage("job-1", 5, 100, now)
    given = [
        UsageRecord("job-1", 5, 100, now),
        UsageRecord("job-1", 5, 101, now),
        UsageRecord("job-1", 3, 40, now),
        UsageRecord("job-1", 3, 50, now),
        UsageRecord("job-1", 4, 101, now),
        UsageRecord("job-1", 7, 99, now),
        UsageRecord("job-1", 6, 100, now),
        UsageRecord("job-1", 0, 0, now),
        UsageRecord("job-1", 8, 2**70, now),
        UsageRecord("job-2", 1, 1, now),
    ]
    result, held = await both_ways(ledger, given, random.Random(7))
    assert held == [(6, 100)]
    assert (result.appended, result.known) == (1, 3), "what is older than 5 fits or not, and bills nothing"
    assert {(r.record.sequence, r.record.gpu_seconds) for r in result.refused} == {
        (5, 101),
        (4, 101),
        (7, 99),
        (0, 0),
        (8, 2**70),
        (1, 1),
    }
    assert all(refused.why for refused in result.refused)
    assert (await ledger.record_many(given)).appended == 0
    assert (await ledger.verify()).sound


async def test_an_order_decides_nothing_even_where_records_contradict(tmp_path: Path, ask: Ask, now: datetime) -> None:
    order = random.Random(11)
    records = [
        UsageRecord("job-1", order.randint(1, 12), order.randint(0, 40), now + timedelta(seconds=order.randint(0, 1)))
        for _ in range(60)
    ]
    outcomes = set()
    for seed in range(4):
        async with await SqlLedger.open(tmp_path / f"{seed}.db") as ledger:
            await open_attempt(ledger, ask(), now)
            result, held = await both_ways(ledger, records, random.Random(seed))
            assert result.appended + result.known + len(result.refused) == len(records)
            assert held == sorted(held, key=lambda record: record[1])
            outcomes.add((tuple(held), result.known, str(await ledger.head())))
    assert len(outcomes) == 1


async def test_a_bulk_append_is_all_or_nothing(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    with pytest.raises(LedgerError, match="time zone"):
        await ledger.record_many(
            [UsageRecord("job-1", 1, 1, now), UsageRecord("job-1", 2, 2, now.replace(tzinfo=None))]
        )
    assert await readings_of(ledger, "job-1") == ()
    assert await ledger.record_many([]) == BulkResult(0, 0)
