"""The transactions that carry epochs and claims, kept before they are sent; functions of one connection."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from fedgpu_operator.adapters.ledger.intents import calls_of, intent_of
from fedgpu_operator.adapters.ledger.schema import chain_txs
from fedgpu_operator.domain.books import ChainTx, TxState
from fedgpu_operator.domain.ledger import FINAL_TX, IntentState
from fedgpu_operator.errors import LedgerError

PENDING_TX = tuple(state for state in TxState if state not in FINAL_TX)


def store_tx(connection: Connection, tx: ChainTx, at: datetime) -> None:
    """Keep a transaction before it is sent; the same again changes nothing."""
    row = connection.execute(select(chain_txs).where(chain_txs.c.tx_hash == tx.tx_hash)).one_or_none()
    if row is not None:
        known = _tx(row)
        if replace(known, state=tx.state, block_number=tx.block_number, broadcast_at=tx.broadcast_at) != tx:
            raise LedgerError(f"transaction {tx.tx_hash} is kept with other contents")
        return
    if tx.intent is not None:
        _check_version(connection, tx, tx.intent)
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
            intent=tx.intent,
            max_fee=tx.max_fee,
            tip=tx.tip,
            call=tx.call,
            gas=tx.gas,
            broadcast_at=tx.broadcast_at,
        )
    )


def mark_tx(
    connection: Connection, tx_hash: str, state: TxState, block_number: int | None, at: datetime | None
) -> None:
    """Say where a transaction stands; a final state stays, and so does the first time at which a node took it."""
    row = connection.execute(select(chain_txs).where(chain_txs.c.tx_hash == tx_hash)).one_or_none()
    if row is None:
        raise LedgerError(f"transaction {tx_hash} is not in the ledger")
    if row.state == state and row.block_number == block_number:
        return
    if TxState(row.state) not in PENDING_TX:
        raise LedgerError(f"transaction {tx_hash} is {row.state} for good, it cannot become {state}")
    values: dict[str, object] = {"state": state, "block_number": block_number}
    if state is TxState.BROADCAST and row.broadcast_at is None and at is not None:
        values["broadcast_at"] = at
    connection.execute(update(chain_txs).where(chain_txs.c.tx_hash == tx_hash).values(values))


def transactions(
    connection: Connection, epoch: int | None, intent: int | None, pending_only: bool
) -> tuple[ChainTx, ...]:
    """Transactions, oldest first."""
    query = select(chain_txs).order_by(chain_txs.c.id)
    if epoch is not None:
        query = query.where(chain_txs.c.epoch == epoch)
    if intent is not None:
        query = query.where(chain_txs.c.intent == intent)
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
        row.intent,
        row.max_fee,
        row.tip,
        row.call,
        row.gas,
        row.broadcast_at,
    )


def _check_version(connection: Connection, tx: ChainTx, number: int) -> None:
    """All versions share the intent's sender and nonce, so no two can ever count; each carries one of its calls."""
    intent = intent_of(connection, number)
    if intent.state is not IntentState.OPEN:
        raise LedgerError(f"intent {intent.key} is {intent.state}: nothing more is signed for it")
    if (tx.sender, tx.nonce) != (intent.sender, intent.nonce):
        raise LedgerError(
            f"a version of intent {intent.key} has nonce {intent.nonce} of {intent.sender}, "
            f"not {tx.nonce} of {tx.sender}"
        )
    if not 0 <= tx.call < len(calls_of(connection, number)):
        raise LedgerError(f"a version of intent {intent.key} carries call {tx.call}, which was not written down")
    if not tx.raw:
        raise LedgerError(f"a version of intent {intent.key} is kept with its signed bytes")
