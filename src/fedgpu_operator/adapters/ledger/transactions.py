"""The transactions that carry epochs and claims, kept before they are sent; functions of one connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from fedgpu_operator.adapters.ledger.schema import chain_txs
from fedgpu_operator.domain.books import ChainTx, TxState
from fedgpu_operator.errors import LedgerError

PENDING_TX = (TxState.SIGNED, TxState.BROADCAST, TxState.INCLUDED)


def store_tx(connection: Connection, tx: ChainTx, at: datetime) -> None:
    """Keep a transaction before it is sent; the same again changes nothing."""
    row = connection.execute(select(chain_txs).where(chain_txs.c.tx_hash == tx.tx_hash)).one_or_none()
    if row is not None:
        known = _tx(row)
        identity = (known.kind, known.epoch, known.provider_wallet, known.sender, known.nonce, known.raw)
        if identity != (tx.kind, tx.epoch, tx.provider_wallet, tx.sender, tx.nonce, tx.raw):
            raise LedgerError(f"transaction {tx.tx_hash} is kept with other contents")
        return
    connection.execute(
        insert(chain_txs).values(
            tx_hash=tx.tx_hash,
            kind=tx.kind,
            epoch=tx.epoch,
            provider_wallet=tx.provider_wallet,
            sender=tx.sender,
            nonce=tx.nonce,
            raw=tx.raw,
            state=tx.state,
            block_number=tx.block_number,
            created_at=at,
        )
    )


def mark_tx(connection: Connection, tx_hash: str, state: TxState, block_number: int | None) -> None:
    """Say where a transaction stands; a final state stays."""
    row = connection.execute(select(chain_txs).where(chain_txs.c.tx_hash == tx_hash)).one_or_none()
    if row is None:
        raise LedgerError(f"transaction {tx_hash} is not in the ledger")
    if row.state == state and row.block_number == block_number:
        return
    if TxState(row.state) not in PENDING_TX:
        raise LedgerError(f"transaction {tx_hash} is {row.state} for good, it cannot become {state}")
    connection.execute(
        update(chain_txs).where(chain_txs.c.tx_hash == tx_hash).values(state=state, block_number=block_number)
    )


def transactions(connection: Connection, number: int | None, pending_only: bool) -> tuple[ChainTx, ...]:
    """Transactions, oldest first."""
    query = select(chain_txs).order_by(chain_txs.c.id)
    if number is not None:
        query = query.where(chain_txs.c.epoch == number)
    if pending_only:
        query = query.where(chain_txs.c.state.in_(PENDING_TX))
    return tuple(_tx(row) for row in connection.execute(query))


def _tx(row: Row[Any]) -> ChainTx:
    return ChainTx(
        row.tx_hash,
        row.kind,
        row.epoch,
        row.provider_wallet,
        row.sender,
        row.nonce,
        row.raw,
        TxState(row.state),
        row.block_number,
    )
