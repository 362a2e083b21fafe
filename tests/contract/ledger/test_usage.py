"""Usage is append-only and only rises; totals are exact."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.ledgers import open_attempt, readings_of

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest, PairTotal, SignedUsage, UsageRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError

Ask = Callable[..., AttemptRequest]


async def test_a_record_is_appended_once_and_only_rises(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    assert await ledger.last_usage("job-1") is None
    assert await ledger.record_usage("job-1", 2, 100, now) is True
    assert await ledger.record_usage("job-1", 2, 100, now) is False
    await ledger.seal()
    assert await ledger.record_usage("job-1", 5, 110, now) is True
    assert await ledger.record_usage("job-1", 2, 100, now) is False
    for sequence, gpu_seconds, seen, why in [
        (2, 101, now, "contradicts"),
        (2, 100, now + timedelta(microseconds=1), "contradicts"),
        (6, 109, now, "after 110"),
        (4, 111, now, "before 110"),
        (3, 99, now, "after 100"),
        (1, 101, now, "before 100"),
        (0, 100, now, "no ledger holds"),
        (7, 2**70, now, "no ledger holds"),
        (2**70, 200, now, "no ledger holds"),
        (7, 200, now.replace(tzinfo=None), "time zone"),
    ]:
        with pytest.raises(LedgerError, match=why):
            await ledger.record_usage("job-1", sequence, gpu_seconds, seen)
    assert await ledger.last_usage("job-1") == UsageRecord("job-1", 5, 110, now)


async def test_an_older_record_that_comes_late_bills_nothing_and_is_not_kept(
    ledger: SqlLedger, ask: Ask, now: datetime
) -> None:
    await open_attempt(ledger, ask(), now)
    for sequence, gpu_seconds in [(5, 110), (2, 100), (1, 100), (4, 110), (3, 105)]:
        assert await ledger.record_usage("job-1", sequence, gpu_seconds, now) is (sequence == 5)
        assert (await ledger.pair_totals())[0].gpu_seconds == 110
        assert (await ledger.settlement_snapshot()).uncovered[0].gpu_seconds == 110
    assert await readings_of(ledger, "job-1") == (UsageRecord("job-1", 5, 110, now),)
    assert (await ledger.verify()).sound


async def test_what_the_provider_signed_stays_with_the_record(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(ledger, ask(), now)
    signed = SignedUsage(3, 130, 1_748_779_200, "0x" + "ab" * 32, "0xS", b"\x00\xff\x1b")
    assert await ledger.record_usage("job-1", 3, 100, now, signed=signed)
    assert not await ledger.record_usage("job-1", 3, 100, now), "an unsigned repetition takes nothing away"
    assert await ledger.last_usage("job-1") == UsageRecord("job-1", 3, 100, now, signed)


async def test_usage_needs_an_attempt_and_may_come_after_its_end(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    with pytest.raises(LedgerError, match="job-1"):
        await ledger.record_usage("job-1", 1, 1, now)
    await open_attempt(ledger, ask(), now)
    await ledger.end_attempt("job-1", "Fenced", now)
    assert await ledger.record_usage("job-1", 1, 1, now)


async def test_costs_and_totals_are_exact_and_rounded_once(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    price = MicroUSD(1_000_001)
    for attempt in (1, 2):
        await open_attempt(ledger, ask(request_id=str(attempt), price=price), now + timedelta(seconds=attempt))
        await ledger.record_usage(f"job-{attempt}", 1, 5000, now)
        await ledger.end_attempt(f"job-{attempt}", "Fenced", now)
    await open_attempt(ledger, ask(request_id="3", price=MicroUSD(7)), now + timedelta(seconds=3))
    await ledger.record_usage("job-3", 1, 11, now)
    await open_attempt(ledger, ask(job_uid="other", provider="paris"), now)
    await ledger.record_usage("other-1", 1, 3600, now)

    history = (await ledger.histories(("job", "nothing")))["job"]
    assert history[0].cost == 5000 * 1_000_001 // 3600 == 1_388_890
    assert sum(each.numerator for each in history) // 3600 == (2 * 5000 * 1_000_001 + 11 * 7) // 3600 == 2_777_780
    assert (await ledger.lease_usage("job-4"), await ledger.lease_usage("nothing")) == (None, None)
    berlin = PairTotal("team-a", "berlin", 10_011, 10_000 * 1_000_001 + 11 * 7, 1, 2)
    paris = PairTotal("team-a", "paris", 3600, 3600 * 1_250_000, 1, 0)
    assert await ledger.pair_totals() == (berlin, paris)
    assert await ledger.pair_totals("team-b") == ()
    assert [(u.attempt.lease_name, u.gpu_seconds, u.sequence) for u in history] == [
        ("job-1", 5000, 1),
        ("job-2", 5000, 1),
        ("job-3", 11, 1),
    ]
    usage = await ledger.lease_usage("job-2")
    assert usage is not None
    assert usage.numerator == 5000 * 1_000_001


async def test_totals_beyond_64_bits_of_product_stay_exact(ledger: SqlLedger, ask: Ask, now: datetime) -> None:
    price, gpu_seconds = MicroUSD(10**15), 10**15
    await open_attempt(ledger, ask(price=price), now)
    await ledger.record_usage("job-1", 1, gpu_seconds, now)
    assert (await ledger.pair_totals())[0].numerator == 10**30
    (usage,) = (await ledger.histories(("job",)))["job"]
    assert usage.cost == 10**30 // 3600


async def test_one_of_many_appends_of_a_sequence_wins(path: Path, ask: Ask, now: datetime) -> None:
    """On SQLite, where two processes may hold the file; on PostgreSQL there is no second writer."""
    async with await SqlLedger.open(path) as one, await SqlLedger.open(path) as two:
        await open_attempt(one, ask(), now)
        for sequence in range(1, 11):
            appends = [holder.record_usage("job-1", sequence, sequence, now) for holder in (one, two, one, two)]
            assert sorted(await asyncio.gather(*appends)) == [False, False, False, True]
        rivals = [holder.record_usage("job-1", 11, 20 + n, now) for n, holder in enumerate((one, two))]
        answers = await asyncio.gather(*rivals, return_exceptions=True)
        assert {type(answer) for answer in answers} == {LedgerError, bool}
