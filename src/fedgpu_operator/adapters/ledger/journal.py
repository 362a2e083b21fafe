"""Double entries: appends what changed since the last positions, and answers balances; functions of one connection."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select

from fedgpu_operator.adapters.ledger.chaining import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import postings
from fedgpu_operator.domain.ledger import Position, PositionKey, Posting, PostingKind, TrialBalance
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.settlement.journal import entries


def post(connection: Connection, positions: Iterable[Position], at: datetime, block: int | None) -> tuple[Posting, ...]:
    """Append the entries that lead from the last positions to these; none where nothing changed.

    Positions of an older block than the newest posted say nothing new and change nothing. Raises LedgerError where
    one that can only rise has fallen.
    """
    newest = connection.execute(select(func.max(postings.c.block))).scalar_one()
    if block is not None and newest is not None and block < newest:
        return ()
    last: int = connection.execute(select(func.coalesce(func.max(postings.c.entry), 0))).scalar_one()
    try:
        made = entries(_positions(connection), positions, at, first=last + 1)
    except ValueError as error:
        raise LedgerError(str(error)) from error
    rows: list[tuple[Field, ...]] = [
        (
            posting.entry,
            index % 2 + 1,
            posting.kind.value,
            posting.tenant,
            posting.provider,
            posting.account,
            posting.amount,
            block,
            stamp(at),
        )
        for index, posting in enumerate(made)
    ]
    append(connection, postings, rows)
    return made


def trial_balance(connection: Connection) -> TrialBalance:
    """One query over all postings: their sum, their number, and how many entries do not sum to zero."""
    by_entry = (
        select(func.sum(postings.c.amount).label("total"), func.count().label("legs"))
        .group_by(postings.c.entry)
        .subquery()
    )
    row = connection.execute(
        select(
            func.coalesce(func.sum(by_entry.c.total), 0).label("total"),
            func.coalesce(func.sum(by_entry.c.legs), 0).label("legs"),
            func.count().filter((by_entry.c.total != 0) | (by_entry.c.legs != 2)).label("unbalanced"),
        )
    ).one()
    return TrialBalance(int(row.total), int(row.legs), row.unbalanced)


def balances(connection: Connection) -> dict[str, int]:
    """The balance of each account that was ever posted to, by name."""
    rows = connection.execute(
        select(postings.c.account, func.sum(postings.c.amount).label("balance")).group_by(postings.c.account)
    )
    return {row.account: int(row.balance) for row in sorted(rows, key=lambda row: str(row.account))}


def postings_newest(connection: Connection, account: str | None, limit: int) -> tuple[Posting, ...]:
    """The last postings, newest first; of one account where it is named."""
    query = select(postings).order_by(postings.c.entry.desc(), postings.c.leg.desc()).limit(limit)
    if account is not None:
        query = query.where(postings.c.account == account)
    return tuple(_posting(row) for row in connection.execute(query))


def _positions(connection: Connection) -> dict[PositionKey, MicroUSD]:
    """What was posted so far of each position: the sum over the leg that a rise adds to."""
    rows = connection.execute(
        select(
            postings.c.kind,
            postings.c.tenant_wallet,
            postings.c.provider_wallet,
            func.sum(postings.c.amount).label("total"),
        )
        .where(postings.c.leg == 1)
        .group_by(postings.c.kind, postings.c.tenant_wallet, postings.c.provider_wallet)
    )
    return {(PostingKind(row.kind), row.tenant_wallet, row.provider_wallet): MicroUSD(int(row.total)) for row in rows}


def _posting(row: Row[Any]) -> Posting:
    return Posting(
        entry=row.entry,
        kind=PostingKind(row.kind),
        tenant=row.tenant_wallet,
        provider=row.provider_wallet,
        account=row.account,
        amount=row.amount,
        at=row.at,
    )
