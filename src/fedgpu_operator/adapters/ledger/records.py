"""What the market and the reliability of providers need of the ledger, as calls; the statements stand beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import BigInteger, Connection, func, select, type_coerce

from fedgpu_operator.adapters.ledger import prices
from fedgpu_operator.adapters.ledger.calls import Calls
from fedgpu_operator.adapters.ledger.schema import attempts
from fedgpu_operator.domain.faults import SUCCEEDED, Ending
from fedgpu_operator.domain.market import PriceBucket, PricePoint, ProviderRecord

_SECOND = 10**6


class MarketCalls(Calls):
    """Price history and how attempts ended, of an open ledger."""

    async def record_prices(self, points: Iterable[PricePoint]) -> int:
        """Keep these prices, rolled up by minute, hour and day; how many there were. Repeating it changes nothing."""
        return await self._write(prices.record_prices, tuple(points))

    async def forget_prices(self, now: datetime) -> int:
        """Drop minutes older than two days, hours older than 90 days and days older than five years; how many."""
        return await self._write(prices.forget_prices, now)

    async def price_history(
        self, since: datetime, *, span: int = 3600, product: str | None = None, region: str | None = None
    ) -> tuple[PriceBucket, ...]:
        """Buckets of 60, 3,600 or 86,400 seconds, by product, region and time; LedgerError for another span."""
        return await self._look(prices.price_history, span, since, product, region)

    async def provider_records(self, since: datetime | None = None) -> tuple[ProviderRecord, ...]:
        """How attempts ended, by provider, product and outcome: all, or those that ended at `since` or later."""
        return await self._look(provider_records, since)

    async def endings(self, since: datetime, outcomes: Collection[str]) -> tuple[Ending, ...]:
        """Attempts that ended with one of these outcomes at `since` or later, the oldest first.

        Of those that succeeded since then, one for each offer: the one that began last.
        """
        return await self._look(endings, since, outcomes)


def provider_records(connection: Connection, since: datetime | None) -> tuple[ProviderRecord, ...]:
    """One grouped query over the attempts that have ended."""
    group = (attempts.c.provider, attempts.c.product, attempts.c.outcome)
    lasted = type_coerce(attempts.c.ended_at, BigInteger) - type_coerce(attempts.c.created_at, BigInteger)
    query = select(
        *group,
        func.count().label("attempts"),
        func.sum(attempts.c.gpus).label("gpus"),
        func.sum(lasted).label("microseconds"),
    ).where(attempts.c.ended_at.is_not(None))
    if since is not None:
        query = query.where(attempts.c.ended_at >= since)
    rows = connection.execute(query.group_by(*group).order_by(*group))
    return tuple(
        ProviderRecord(
            provider=row.provider,
            product=row.product,
            outcome=row.outcome,
            attempts=row.attempts,
            gpus=int(row.gpus),
            # PostgreSQL answers a sum of 64-bit numbers as a decimal, which is exact.
            seconds=max(0, int(row.microseconds)) // _SECOND,
        )
        for row in rows
    )


def endings(connection: Connection, since: datetime, outcomes: Collection[str]) -> tuple[Ending, ...]:
    """Each failure, and the newest start of what succeeded, by offer."""
    columns = attempts.c
    failed = (
        select(columns.provider, columns.product, columns.tenant, columns.outcome, columns.created_at, columns.ended_at)
        .where(columns.ended_at >= since, columns.outcome.in_(sorted(outcomes)))
        .order_by(columns.ended_at, columns.lease_name)
    )
    worked = (
        select(columns.provider, columns.product, func.max(columns.created_at), func.max(columns.ended_at))
        .where(columns.ended_at >= since, columns.outcome == SUCCEEDED)
        .group_by(columns.provider, columns.product)
        .order_by(columns.provider, columns.product)
    )
    faults = [
        Ending(f"{provider}/{product}", tenant, outcome, began, ended)
        for provider, product, tenant, outcome, began, ended in connection.execute(failed)
    ]
    successes = [
        Ending(f"{provider}/{product}", "", SUCCEEDED, began, ended)
        for provider, product, began, ended in connection.execute(worked)
    ]
    return (*faults, *successes)
