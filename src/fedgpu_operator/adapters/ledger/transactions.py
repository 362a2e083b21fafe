"""Intents, written down before they are signed, and the transactions that carry them; functions of one connection."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from fedgpu_operator.adapters.ledger.calls import Calls, from_memory, in_transaction
from fedgpu_operator.adapters.ledger.schema import chain_intents, chain_txs, intent_calls
from fedgpu_operator.domain.transactions import FINAL_TX, ChainTx, Intent, IntentCall, IntentState, TxState
from fedgpu_operator.errors import LedgerError


def open_intent(
    connection: Connection,
    key: str,
    kind: str,
    epoch: int | None,
    sender: str,
    nonce: int,
    to: str,
    data: bytes,
    at: datetime,
) -> Intent:
    """Write down what is to be done on chain before it is signed; or the sender's open intent of that key.

    Follow the terms that come back. Raises LedgerError while the sender has another open intent: one key sends one
    thing at a time. What another sender has open, such as an earlier key of the settler, is its own: only that key
    could sign for it.
    """
    for intent in intents(connection, sender=sender, open_only=True):
        if intent.key == key:
            return intent
        raise LedgerError(f"intent {intent.key} of {intent.sender} is still open: one at a time")
    number = connection.execute(
        insert(chain_intents)
        .values(
            key=key,
            kind=kind,
            epoch=epoch,
            sender=sender,
            nonce=nonce,
            to=to,
            data=data,
            created_at=at,
            state=IntentState.OPEN.value,
        )
        .returning(chain_intents.c.id)
    ).scalar_one()
    return intent_of(connection, number)


def amend_intent(connection: Connection, number: int, to: str, data: bytes, why: str, at: datetime) -> IntentCall:
    """Write down the call that takes the place of the newest one of an open intent; the newest again changes nothing.

    The calls before it stay: signed bytes of theirs may be mined all the same, and of one nonce only one can be.
    """
    intent = intent_of(connection, number)
    if intent.state is not IntentState.OPEN:
        raise LedgerError(f"intent {intent.key} is {intent.state}: its call is not replaced any more")
    newest = calls_of(connection, number)[-1]
    if (newest.to, newest.data) == (to, data):
        return newest
    call = IntentCall(newest.number + 1, to, data, why, at)
    connection.execute(
        insert(intent_calls).values(intent=number, number=call.number, to=to, data=data, why=why, created_at=at)
    )
    return call


def calls_of(connection: Connection, number: int) -> tuple[IntentCall, ...]:
    """The calls of an intent, by number: its own, then those that took its place."""
    intent = intent_of(connection, number)
    query = select(intent_calls).where(intent_calls.c.intent == number).order_by(intent_calls.c.number)
    later = (IntentCall(row.number, row.to, row.data, row.why, row.created_at) for row in connection.execute(query))
    return (IntentCall(0, intent.to, intent.data, "", intent.created_at), *later)


def close_intent(connection: Connection, number: int, state: IntentState) -> Intent:
    """Close an intent by what became of its versions; the same again changes nothing.

    Done needs a version that is Finalized. Dead needs every version to be final and none Finalized: as long as signed
    bytes may still be mined, they are not given up.
    """
    intent = intent_of(connection, number)
    if state is IntentState.OPEN:
        raise LedgerError(f"intent {intent.key} is {intent.state}, and closing it means Done or Dead")
    if intent.state is state:
        return intent
    if intent.state is not IntentState.OPEN:
        raise LedgerError(f"intent {intent.key} is {intent.state} for good, it cannot become {state}")
    versions = [
        TxState(found)
        for found in connection.execute(select(chain_txs.c.state).where(chain_txs.c.intent == number)).scalars()
    ]
    finalized = TxState.FINALIZED in versions
    if state is IntentState.DONE and not finalized:
        raise LedgerError(f"intent {intent.key} cannot be Done: no version of it is Finalized")
    if state is IntentState.DEAD and (finalized or not FINAL_TX.issuperset(versions)):
        raise LedgerError(f"intent {intent.key} cannot be Dead: a version of it is or may still be mined")
    connection.execute(update(chain_intents).where(chain_intents.c.id == number).values(state=state.value))
    return intent_of(connection, number)


def intents(connection: Connection, *, sender: str | None = None, open_only: bool = False) -> tuple[Intent, ...]:
    """Intents, oldest first."""
    query = select(chain_intents).order_by(chain_intents.c.id)
    if sender is not None:
        query = query.where(chain_intents.c.sender == sender)
    if open_only:
        query = query.where(chain_intents.c.state == IntentState.OPEN.value)
    return tuple(_intent(row) for row in connection.execute(query))


def intent_of(connection: Connection, number: int) -> Intent:
    """One intent; LedgerError if there is none of that number."""
    row = connection.execute(select(chain_intents).where(chain_intents.c.id == number)).one_or_none()
    if row is None:
        raise LedgerError(f"intent {number} not found in the ledger")
    return _intent(row)


def _intent(row: Row[Any]) -> Intent:
    return Intent(
        id=row.id,
        key=row.key,
        kind=row.kind,
        epoch=row.epoch,
        sender=row.sender,
        nonce=row.nonce,
        to=row.to,
        data=row.data,
        created_at=row.created_at,
        state=IntentState(row.state),
    )


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
    connection: Connection,
    tx_hash: str,
    state: TxState,
    block_number: int | None = None,
    at: datetime | None = None,
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
    connection: Connection, *, epoch: int | None = None, intent: int | None = None, pending_only: bool = False
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


class SqlTransactions(Calls):
    """Intents and transactions of an open ledger (ports.TransactionBook)."""

    open_intent = in_transaction(open_intent)
    amend_intent = in_transaction(amend_intent)
    close_intent = in_transaction(close_intent)
    intents = from_memory(intents)
    intent_calls = from_memory(calls_of)
    store_tx = in_transaction(store_tx)
    mark_tx = in_transaction(mark_tx)
    transactions = from_memory(transactions)
