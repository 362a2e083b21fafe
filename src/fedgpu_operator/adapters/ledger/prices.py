"""Price history as functions of one connection: every point enters its minute, its hour and its day together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, case, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from fedgpu_operator.adapters.ledger.calls import Calls, from_database, in_transaction
from fedgpu_operator.adapters.ledger.schema import UNIX_EPOCH, market_prices
from fedgpu_operator.domain.market import PriceBucket, PricePoint
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError

KEPT: Final[Mapping[int, timedelta]] = {
    60: timedelta(days=2),
    3600: timedelta(days=90),
    86400: timedelta(days=5 * 366),
}
"""How long buckets of so many seconds are kept: the history stays bounded, whatever the operator's age."""
KEY: Final = ("span", "product", "region", "start")
LATEST: Final = ("at", "low", "high", "cheapest", "dearest", "free", "wanted", "unmet")


def record_prices(connection: Connection, points: Sequence[PricePoint]) -> int:
    """Enter the points into their buckets; how many there were. In any order and any number of times, all the same.

    A bucket keeps its latest point (of two of one instant the one that came last), and extremes: all three can be
    taken again without a change.
    """
    rows = [_row(point, span) for point in points for span in KEPT]
    if rows:
        connection.execute(_upsert(connection), rows)
    return len(rows) // len(KEPT)


def forget_prices(connection: Connection, now: datetime) -> int:
    """Drop the buckets that are older than their kind is kept; how many."""
    gone = 0
    for span, kept in KEPT.items():
        old = market_prices.c.start < bucket_start(now - kept, span)
        gone += connection.execute(delete(market_prices).where(market_prices.c.span == span, old)).rowcount
    return gone


def price_history(
    connection: Connection,
    since: datetime,
    *,
    span: int = 3600,
    product: str | None = None,
    region: str | None = None,
) -> tuple[PriceBucket, ...]:
    """Buckets of `span` seconds whose time ends after `since`, by product, region and start."""
    if span not in KEPT:
        raise LedgerError(f"prices are kept by {', '.join(map(str, KEPT))} seconds, not by {span}")
    query = select(market_prices).where(
        market_prices.c.span == span, market_prices.c.start >= bucket_start(since, span)
    )
    if product is not None:
        query = query.where(market_prices.c.product == product)
    if region is not None:
        query = query.where(market_prices.c.region == region)
    order = (market_prices.c.product, market_prices.c.region, market_prices.c.start)
    return tuple(_bucket(row) for row in connection.execute(query.order_by(*order)))


def bucket_start(at: datetime, span: int) -> datetime:
    """The first instant of the bucket of `span` seconds that `at` lies in; buckets count from 1970 in UTC."""
    length = timedelta(seconds=span)
    return UNIX_EPOCH + (at - UNIX_EPOCH) // length * length


def _row(point: PricePoint, span: int) -> dict[str, object]:
    if point.at.tzinfo is None:
        raise LedgerError(f"{point.at!r} has no time zone")
    values: dict[str, object] = {name: getattr(point, name) for name in ("product", "region", *LATEST)}
    return values | {
        "span": span,
        "start": bucket_start(point.at, span),
        "least": point.low,
        "greatest": point.low,
    }


def _upsert(connection: Connection) -> sqlite.Insert | postgresql.Insert:
    # Both dialects have the clause, and neither has it in common code.
    insert: sqlite.Insert | postgresql.Insert
    insert = (
        postgresql.insert(market_prices) if connection.dialect.name == "postgresql" else sqlite.insert(market_prices)
    )
    held, new = market_prices.c, insert.excluded
    newer = new.at >= held.at
    latest = {name: case((newer, new[name]), else_=held[name]) for name in LATEST}
    extremes = {
        "least": case((new.least < held.least, new.least), else_=held.least),
        "greatest": case((new.greatest > held.greatest, new.greatest), else_=held.greatest),
    }
    return insert.on_conflict_do_update(index_elements=KEY, set_={**latest, **extremes})


def _bucket(row: Row[Any]) -> PriceBucket:
    last = PricePoint(
        at=row.at,
        product=row.product,
        region=row.region,
        low=MicroUSD(row.low),
        high=None if row.high is None else MicroUSD(row.high),
        cheapest=MicroUSD(row.cheapest),
        dearest=MicroUSD(row.dearest),
        free=row.free,
        wanted=row.wanted,
        unmet=row.unmet,
    )
    return PriceBucket(row.start, row.span, last, MicroUSD(row.least), MicroUSD(row.greatest))


class SqlPrices(Calls):
    """Price history of an open ledger (ports.PriceHistory)."""

    record_prices = in_transaction(record_prices)
    forget_prices = in_transaction(forget_prices)
    price_history = from_database(price_history)
