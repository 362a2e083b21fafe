"""Price history: every point is in its minute, hour and day, whatever comes twice or late, and old ones go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations

import pytest
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.faults import Ending
from fedgpu_operator.domain.market import PricePoint, ProviderRecord
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError

Ask = Callable[..., AttemptRequest]
H100 = "NVIDIA-H100-80GB-HBM3"


def point(at: datetime, low: int, **fields: object) -> PricePoint:
    known = PricePoint(
        at=at,
        product=H100,
        region="DE",
        low=MicroUSD(low),
        high=None,
        cheapest=MicroUSD(2_000_000),
        dearest=MicroUSD(6_040_000),
        free=8,
        wanted=3,
        unmet=1,
    )
    return replace(known, **fields)  # type: ignore[arg-type]  # the fields of one test's point, by name


async def test_a_span_shows_its_last_point_and_its_extremes(ledger: SqlLedger, now: datetime) -> None:
    seen = [point(now + timedelta(minutes=minute), low) for minute, low in ((0, 5), (1, 9), (2, 3), (3, 4))]
    assert await ledger.record_prices(seen) == 4
    (hour,) = await ledger.price_history(now)
    assert hour.start == now.replace(minute=0, second=0, microsecond=0)
    assert (hour.seconds, hour.last, hour.least, hour.greatest) == (3600, seen[-1], 3, 9)
    minutes = await ledger.price_history(now, span=60)
    assert [(each.last, each.least, each.greatest) for each in minutes] == [(each, each.low, each.low) for each in seen]
    (day,) = await ledger.price_history(now, span=86400)
    assert (day.last, day.least, day.greatest) == (seen[-1], 3, 9)


async def test_neither_order_nor_repetition_changes_a_bucket(held: SqlLedger, now: datetime) -> None:
    seen = [
        point(now, 7, high=MicroUSD(8)),
        point(now + timedelta(seconds=10), 9),
        point(now + timedelta(seconds=20), 2, free=0),
    ]
    for number, order in enumerate(permutations(seen)):
        region = f"R{number}"
        for each in (*order, *order):
            await held.record_prices([replace(each, region=region)])
        (bucket,) = await held.price_history(now, region=region)
        assert (bucket.last, bucket.least, bucket.greatest) == (replace(seen[-1], region=region), 2, 9)


async def test_history_is_found_by_product_region_and_time(held: SqlLedger, now: datetime) -> None:
    await held.record_prices(
        [
            point(now, 1, region="FR"),
            point(now, 2, product="NVIDIA-L4"),
            point(now, 3),
            point(now + timedelta(hours=1), 4),
        ]
    )
    found = await held.price_history(now)
    assert [(each.last.product, each.last.region, each.last.low) for each in found] == [
        (H100, "DE", 3),
        (H100, "DE", 4),
        (H100, "FR", 1),
        ("NVIDIA-L4", "DE", 2),
    ]
    assert [each.last.low for each in await held.price_history(now, product=H100, region="FR")] == [1]
    assert [each.last.low for each in await held.price_history(now + timedelta(minutes=70))] == [4]
    with pytest.raises(LedgerError, match="60, 3600, 86400"):
        await held.price_history(now, span=7)


async def test_what_is_forgotten_is_old_and_the_rest_stays(held: SqlLedger, now: datetime) -> None:
    ages = [timedelta(0), timedelta(days=3), timedelta(days=100), timedelta(days=3000)]
    await held.record_prices([point(now - age, 5) for age in ages])
    begin = now - timedelta(days=4000)
    assert await held.forget_prices(now) == 3 + 2 + 1
    left = {span: len(await held.price_history(begin, span=span)) for span in (60, 3600, 86400)}
    assert left == {60: 1, 3600: 2, 86400: 3}
    assert await held.forget_prices(now) == 0


async def test_figures_that_cannot_be_are_refused_whole(held: SqlLedger, now: datetime) -> None:
    for bad in (point(now, 1, unmet=4), point(now, 1, free=-1), point(now.replace(tzinfo=None), 1)):
        with pytest.raises(LedgerError):
            await held.record_prices([point(now, 1), bad])
    assert await held.price_history(now - timedelta(days=1)) == ()


async def test_endings_are_each_failure_and_the_newest_start_of_what_succeeded(
    ledger: SqlLedger, ask: Ask, now: datetime
) -> None:
    minute = timedelta(minutes=1)
    ends = [
        ("a", "berlin", 0, 1, "NodeRejected"),
        ("b", "berlin", 2, 3, "NodeRejected"),
        ("c", "berlin", 0, 9, "Succeeded"),
        ("d", "berlin", 4, 5, "Succeeded"),
        ("e", "paris", 0, 2, "WorkloadFailed"),
        ("f", "paris", 0, 6, "StartFailed"),
    ]
    for job, provider, began, ended, outcome in ends:
        await open_attempt(ledger, ask(job_uid=job, provider=provider), now + began * minute)
        await ledger.end_attempt(f"{job}-1", outcome, now + ended * minute)
    await open_attempt(ledger, ask(job_uid="g"), now)
    tenant = ask().tenant
    failed = [
        Ending(f"berlin/{H100}", tenant, "NodeRejected", now + 2 * minute, now + 3 * minute),
        Ending(f"paris/{H100}", tenant, "StartFailed", now, now + 6 * minute),
    ]
    worked = Ending(f"berlin/{H100}", "", "Succeeded", now + 4 * minute, now + 9 * minute)
    assert await ledger.endings(now + 2 * minute, {"NodeRejected", "StartFailed"}) == (*failed, worked)
    first = Ending(f"berlin/{H100}", tenant, "NodeRejected", now, now + minute)
    assert await ledger.endings(now, {"NodeRejected"}) == (first, failed[0], worked)
    assert await ledger.endings(now + timedelta(hours=1), {"NodeRejected"}) == ()


async def test_how_attempts_ended_is_counted_by_provider_product_and_outcome(
    ledger: SqlLedger, ask: Ask, now: datetime
) -> None:
    ends = [("a", "berlin", 3600, "Succeeded"), ("b", "berlin", 1800, "Succeeded"), ("c", "berlin", 60, "LeaseFenced")]
    for job, provider, seconds, outcome in [*ends, ("d", "paris", 86400, "Succeeded")]:
        await open_attempt(ledger, ask(job_uid=job, provider=provider), now)
        await ledger.end_attempt(f"{job}-1", outcome, now + timedelta(seconds=seconds))
    await open_attempt(ledger, ask(job_uid="e"), now)
    berlin = [
        ProviderRecord("berlin", H100, "LeaseFenced", attempts=1, gpus=8, seconds=60),
        ProviderRecord("berlin", H100, "Succeeded", attempts=2, gpus=16, seconds=5400),
    ]
    paris = ProviderRecord("paris", H100, "Succeeded", attempts=1, gpus=8, seconds=86400)
    assert await ledger.provider_records() == (*berlin, paris)
    assert await ledger.provider_records(now + timedelta(hours=1)) == (
        ProviderRecord("berlin", H100, "Succeeded", attempts=1, gpus=8, seconds=3600),
        paris,
    )
