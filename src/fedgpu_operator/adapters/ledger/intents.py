"""What is to be done on chain, written down before it is signed; functions of one connection."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from fedgpu_operator.adapters.ledger.schema import chain_intents, chain_txs, intent_calls
from fedgpu_operator.domain.books import TxState
from fedgpu_operator.domain.ledger import FINAL_TX, Intent, IntentCall, IntentState
from fedgpu_operator.errors import LedgerError


def open_intent(connection: Connection, wanted: Intent) -> Intent:
    """The sender's open intent of that key, else the wanted one, kept; its `id` is handed out here.

    Raises LedgerError while the sender has another open intent: one key sends one thing at a time. What another
    sender has open, such as an earlier key of the settler, is its own: only that key could sign for it.
    """
    for intent in intents(connection, wanted.sender, open_only=True):
        if intent.key == wanted.key:
            return intent
        raise LedgerError(f"intent {intent.key} of {intent.sender} is still open: one at a time")
    number = connection.execute(
        insert(chain_intents)
        .values(
            key=wanted.key,
            kind=wanted.kind,
            epoch=wanted.epoch,
            sender=wanted.sender,
            nonce=wanted.nonce,
            to=wanted.to,
            data=wanted.data,
            created_at=wanted.created_at,
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


def intents(connection: Connection, sender: str | None, *, open_only: bool) -> tuple[Intent, ...]:
    """Intents, oldest first."""
    query = select(chain_intents).order_by(chain_intents.c.id)
    if sender is not None:
        query = query.where(chain_intents.c.sender == sender)
    if open_only:
        query = query.where(chain_intents.c.state == IntentState.OPEN.value)
    return tuple(_intent(row) for row in connection.execute(query))


def intent_of(connection: Connection, number: int) -> Intent:
    """One intent; LedgerError where there is none of that number."""
    row = connection.execute(select(chain_intents).where(chain_intents.c.id == number)).one_or_none()
    if row is None:
        raise LedgerError(f"there is no intent {number} in the ledger")
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
