"""Double entries: appends what changed since the last positions, and answers balances; functions of one connection."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Connection, Select, func, select, union_all

from fedgpu_operator.adapters.ledger.hashchain import Field, append, stamp
from fedgpu_operator.adapters.ledger.schema import opening_balances, postings
from fedgpu_operator.domain.ledger import Position, PositionKey, Posting, PostingKind, TrialBalance
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError
from fedgpu_operator.settlement.journal import entries

BOOKS = (postings, opening_balances)
"""Where amounts stand: each posting, or what archived ones came to."""


def post(
    connection: Connection, positions: Sequence[Position], at: datetime, *, block: int | None = None
) -> tuple[Posting, ...]:
    """Append the entries that lead from the last positions to these; none if nothing changed.

    Positions of an older block than the newest posted say nothing new and change nothing. Raises LedgerError where
    one that can only rise has fallen.
    """
    # One statement each: an archive run next to this one moves postings to opening balances between two statements.
    newest = connection.execute(_greatest(postings.c.block, opening_balances.c.block)).scalar_one()
    if block is not None and newest is not None and block < newest:
        return ()
    last: int = connection.execute(_greatest(postings.c.entry, opening_balances.c.entry)).scalar_one() or 0
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
    """One query over all postings, and over what archived ones came to: the sum, the number, and what is unbalanced.

    What is archived of a position counts as one entry of two legs.
    """
    opening = opening_balances.c
    by_entry = union_all(
        select(func.sum(postings.c.amount).label("total"), func.count().label("legs")).group_by(postings.c.entry),
        select(func.sum(opening.amount).label("total"), func.count().label("legs")).group_by(
            opening.kind, opening.tenant_wallet, opening.provider_wallet
        ),
    ).subquery()
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
    legs = _legs("account").subquery()
    rows = connection.execute(select(legs.c.account, func.sum(legs.c.amount).label("balance")).group_by(legs.c.account))
    return {row.account: int(row.balance) for row in sorted(rows, key=lambda row: str(row.account))}


def _positions(connection: Connection) -> dict[PositionKey, MicroUSD]:
    """What was posted so far of each position: the sum over the leg that a rise adds to."""
    key = ("kind", "tenant_wallet", "provider_wallet")
    legs = _legs("leg", *key).subquery()
    names = [legs.c[name] for name in key]
    rows = connection.execute(
        select(*names, func.sum(legs.c.amount).label("total")).where(legs.c.leg == 1).group_by(*names)
    )
    return {(PostingKind(row.kind), row.tenant_wallet, row.provider_wallet): MicroUSD(int(row.total)) for row in rows}


def _legs(*columns: str) -> CompoundSelect[Any]:
    """Every posting, and what archived ones came to: the amount, and these columns of both tables."""
    return union_all(*(select(table.c.amount, *(table.c[name] for name in columns)) for table in BOOKS))


def _greatest(*columns: ColumnElement[int]) -> Select[Any]:
    """The greatest value of columns of different tables; null if there is none."""
    values = union_all(*(select(func.max(column).label("value")) for column in columns)).subquery()
    return select(func.max(values.c.value))
