"""What each pair owes, kept up to date by every write that changes it; sums are made in Python, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from fedgpu_operator.adapters.ledger.schema import attempts, pair_totals
from fedgpu_operator.domain.books import PairTotal

PAIR = (attempts.c.tenant, attempts.c.provider, attempts.c.tenant_wallet, attempts.c.provider_wallet)
"""What the books are kept by, as columns of an attempt."""
KEY = tuple(pair_totals.c[column.name] for column in PAIR)
SUMS = ("numerator", "gpu_seconds", "open_attempts", "ended_attempts")
FEW = 32
"""Pairs that are looked up one by one; of more, the whole table is read once."""

PairKey = tuple[str, str, str, str]
"""(tenant, provider, tenant wallet, provider wallet)."""


@dataclass(slots=True)
class Change:
    """What is added to a pair's totals: µUSD·s/h, GPU-seconds, attempts that are open, and attempts that have ended."""

    numerator: int = 0
    gpu_seconds: int = 0
    open_attempts: int = 0
    ended_attempts: int = 0


def add(connection: Connection, changes: Mapping[PairKey, Change]) -> None:
    """Bring the totals of these pairs along."""
    held = _held(connection, changes)
    fresh: list[dict[str, object]] = []
    known: list[dict[str, object]] = []
    for pair, change in changes.items():
        before = held.get(pair)
        names = dict(zip((column.name for column in KEY), pair, strict=True))
        after = _sums(change) if before is None else _sums(change, before)
        if before is None:
            fresh.append({**names, **after})
        else:
            known.append({**{f"of_{name}": value for name, value in names.items()}, **after})
    if fresh:
        connection.execute(insert(pair_totals), fresh)
    if known:
        this = (column == bindparam(f"of_{column.name}") for column in KEY)
        after_all = {name: bindparam(name, type_=pair_totals.c[name].type) for name in SUMS}
        connection.execute(update(pair_totals).where(*this).values(after_all), known)


def totals_of(connection: Connection, tenant: str | None) -> tuple[PairTotal, ...]:
    """Totals by tenant, provider and their wallets, sorted; of one tenant if it is named."""
    query = select(pair_totals).order_by(*KEY)
    if tenant is not None:
        query = query.where(pair_totals.c.tenant == tenant)
    return tuple(total_of_row(row) for row in connection.execute(query))


def total_of_row(row: Row[Any]) -> PairTotal:
    """A row of the table; ValueError if a sum of it is not a number, which no ledger writes."""
    return PairTotal(
        tenant=row.tenant,
        provider=row.provider,
        gpu_seconds=int(row.gpu_seconds),
        numerator=int(row.numerator),
        open_attempts=row.open_attempts,
        ended_attempts=row.ended_attempts,
        tenant_wallet=row.tenant_wallet,
        provider_wallet=row.provider_wallet,
    )


def _held(connection: Connection, pairs: Iterable[PairKey]) -> dict[PairKey, Row[Any]]:
    wanted = list(pairs)
    query = select(pair_totals)
    rows: Sequence[Row[Any]]
    if len(wanted) > FEW:
        rows = connection.execute(query).all()
    else:
        rows = [
            row
            for pair in wanted
            for row in connection.execute(
                query.where(*(column == value for column, value in zip(KEY, pair, strict=True)))
            )
        ]
    return {(row.tenant, row.provider, row.tenant_wallet, row.provider_wallet): row for row in rows}


def _sums(change: Change, before: Row[Any] | None = None) -> dict[str, object]:
    sums = {name: getattr(change, name) + (0 if before is None else int(getattr(before, name))) for name in SUMS}
    return sums | {name: str(sums[name]) for name in ("numerator", "gpu_seconds")}
