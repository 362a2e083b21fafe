"""Which escrow the books are those of, and what speaks for another one; functions of one connection."""

from __future__ import annotations

import json

from sqlalchemy import Connection, Table, exists, insert, select

from fedgpu_operator.adapters.ledger.schema import bound_escrows, chain_intents, epochs, postings, receipts
from fedgpu_operator.domain.ledger import BoundEscrow

SETTLED: tuple[Table, ...] = (epochs, chain_intents, postings, receipts)
"""Tables of which one row ties the ledger to its escrow; the guard of the database knows the same ones."""


def bind(connection: Connection, wanted: BoundEscrow) -> BoundEscrow:
    """The escrow that the ledger is bound to from now on: `wanted`, unless the books are those of another one.

    Until anything was settled another escrow may take the place of the last one: its address may have been mistyped
    while the chain did not answer. A ledger from before there were bindings is held to its newest epoch's manifest.
    """
    held = bound(connection)
    if held == wanted:
        return held
    if held is None:
        newest = connection.execute(select(epochs.c.manifest).order_by(epochs.c.number.desc()).limit(1)).scalar()
        held = None if newest is None else named_in(newest)
        if held not in (None, wanted):
            return held
    elif any(connection.execute(select(exists().select_from(table))).scalar_one() for table in SETTLED):
        return held
    connection.execute(insert(bound_escrows).values(chain_id=wanted.chain_id, escrow=wanted.escrow))
    return wanted


def bound(connection: Connection) -> BoundEscrow | None:
    """The escrow that the ledger is bound to; None before it was first opened to settle."""
    row = connection.execute(select(bound_escrows).order_by(bound_escrows.c.number.desc()).limit(1)).one_or_none()
    return None if row is None else BoundEscrow(row.chain_id, row.escrow)


def named_in(manifest: bytes) -> BoundEscrow | None:
    """The escrow that an epoch's manifest names; None where it names none that can be read."""
    try:
        told = json.loads(manifest)
        return BoundEscrow(int(told["chainId"]), str(told["escrow"]))
    except (ValueError, KeyError, TypeError):
        return None
