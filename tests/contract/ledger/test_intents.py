"""Intents: one thing at a time per key of the signer, and none is given up while bytes of it may still be mined."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from tests.contract.ledger.intruder import Intruder

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.transactions import ChainTx, Intent, IntentCall, IntentState, TxState
from fedgpu_operator.errors import LedgerError

OPEN, DONE, DEAD = IntentState.OPEN, IntentState.DONE, IntentState.DEAD
FINAL_BUT_UNMINED = (TxState.REVERTED, TxState.REPLACED)


def version(intent: Intent, name: str, fee: int = 10) -> ChainTx:
    """Signed bytes of an intent."""
    return ChainTx(
        tx_hash=f"0x{name}",
        kind=intent.kind,
        epoch=None,
        provider_wallet=None,
        sender=intent.sender,
        nonce=intent.nonce,
        raw=name.encode(),
        intent=intent.id,
        max_fee=fee,
        tip=1,
    )


async def opened(ledger: SqlLedger, now: datetime, key: str = "post:1", sender: str = "0xS", nonce: int = 4) -> Intent:
    return await ledger.open_intent(key, "post", None, sender, nonce, "0xEscrow", b"\x01\xff", now)


async def test_an_intent_comes_back_as_it_was_first_written(ledger: SqlLedger, now: datetime) -> None:
    first = await opened(ledger, now)
    assert first == Intent(first.id, "post:1", "post", None, "0xS", 4, "0xEscrow", b"\x01\xff", now, OPEN)
    assert await opened(ledger, now, nonce=9) == first, "the terms of the open one count"
    assert await ledger.intents() == (first,)


async def test_one_sender_has_one_open_intent(ledger: SqlLedger, now: datetime) -> None:
    first = await opened(ledger, now)
    with pytest.raises(LedgerError, match="post:1 of 0xS is still open"):
        await opened(ledger, now, key="claim:1:0")
    other = await opened(ledger, now, key="claim:1:0", sender="0xOther")
    assert await ledger.intents(sender="0xOther") == (other,)
    await ledger.close_intent(first.id, DEAD)
    second = await opened(ledger, now, key="claim:2:0", nonce=4)
    assert await ledger.intents(open_only=True) == (other, second)


async def test_what_an_earlier_key_left_open_holds_up_no_other_sender(ledger: SqlLedger, now: datetime) -> None:
    old = await opened(ledger, now, sender="0xOld")
    await ledger.store_tx(version(old, "a"), now)
    new = await opened(ledger, now, sender="0xNew", nonce=0)
    assert (new.key, new.sender, new.nonce) == ("post:1", "0xNew", 0)
    await ledger.store_tx(version(new, "b"), now)
    assert await opened(ledger, now, sender="0xNew", nonce=9) == new
    assert await opened(ledger, now, sender="0xOld", nonce=9) == old
    assert await ledger.intents(open_only=True) == (old, new)
    await ledger.mark_tx("0xb", TxState.FINALIZED, 9)
    await ledger.close_intent(new.id, DONE)
    await ledger.mark_tx("0xa", TxState.REVERTED, 10)
    assert (await ledger.close_intent(old.id, DEAD)).state is DEAD


async def test_a_key_may_come_again_once_its_intent_is_closed(ledger: SqlLedger, now: datetime) -> None:
    first = await opened(ledger, now)
    await ledger.close_intent(first.id, DEAD)
    again = await opened(ledger, now, nonce=5)
    assert again.id != first.id
    assert (again.nonce, again.state) == (5, OPEN)


async def test_versions_share_sender_and_nonce_and_have_their_bytes(ledger: SqlLedger, now: datetime) -> None:
    intent = await opened(ledger, now)
    first, dearer = version(intent, "a"), version(intent, "b", fee=13)
    for tx in (first, dearer, first):
        await ledger.store_tx(tx, now)
    assert await ledger.transactions(intent=intent.id) == (first, dearer)
    for other in (
        ChainTx("0xc", "post", None, None, "0xS", 5, b"c", intent=intent.id),
        ChainTx("0xd", "post", None, None, "0xZ", 4, b"d", intent=intent.id),
        ChainTx("0xe", "post", None, None, "0xS", 4, b"", intent=intent.id),
        ChainTx("0xf", "post", None, None, "0xS", 4, b"f", intent=99),
        ChainTx("0xa", "post", None, None, "0xS", 4, b"a", intent=intent.id, max_fee=11, tip=1),
    ):
        with pytest.raises(LedgerError):
            await ledger.store_tx(other, now)
    assert len(await ledger.transactions()) == 2


@pytest.mark.parametrize("state", [state for state in TxState if state not in FINAL_BUT_UNMINED])
async def test_an_intent_is_not_dead_while_a_version_may_be_mined(
    held: SqlLedger, now: datetime, state: TxState
) -> None:
    intent = await opened(held, now)
    for name in ("a", "b"):
        await held.store_tx(version(intent, name), now)
    await held.mark_tx("0xa", TxState.REPLACED)
    await held.mark_tx("0xb", state)
    with pytest.raises(LedgerError, match="cannot be Dead"):
        await held.close_intent(intent.id, DEAD)
    assert [found.state for found in await held.intents()] == [OPEN]


async def test_an_intent_is_dead_once_every_version_is_final_and_none_counts(held: SqlLedger, now: datetime) -> None:
    intent = await opened(held, now)
    for name, state in zip(("a", "b"), FINAL_BUT_UNMINED, strict=True):
        await held.store_tx(version(intent, name), now)
        await held.mark_tx(f"0x{name}", state, 7)
    with pytest.raises(LedgerError, match="cannot be Done"):
        await held.close_intent(intent.id, DONE)
    dead = await held.close_intent(intent.id, DEAD)
    assert dead.state is DEAD
    assert await held.close_intent(intent.id, DEAD) == dead
    with pytest.raises(LedgerError, match="for good"):
        await held.close_intent(intent.id, DONE)
    with pytest.raises(LedgerError, match="nothing more is signed"):
        await held.store_tx(version(intent, "c"), now)


async def test_an_intent_is_done_by_one_finalized_version(ledger: SqlLedger, now: datetime) -> None:
    intent = await opened(ledger, now)
    for name in ("a", "b"):
        await ledger.store_tx(version(intent, name), now)
    with pytest.raises(LedgerError, match="Done or Dead"):
        await ledger.close_intent(intent.id, OPEN)
    await ledger.mark_tx("0xb", TxState.INCLUDED, 7)
    await ledger.mark_tx("0xb", TxState.BROADCAST)
    await ledger.mark_tx("0xb", TxState.FINALIZED, 9)
    assert (await ledger.close_intent(intent.id, DONE)).state is DONE
    with pytest.raises(LedgerError, match="for good"):
        await ledger.close_intent(intent.id, DEAD)
    with pytest.raises(LedgerError, match="intent 77 not found"):
        await ledger.close_intent(77, DONE)


async def test_a_smaller_call_takes_the_place_of_the_first_and_every_version_says_which_it_carries(
    ledger: SqlLedger, now: datetime
) -> None:
    intent = await opened(ledger, now)
    assert await ledger.intent_calls(intent.id) == (IntentCall(0, "0xEscrow", b"\x01\xff", "", now),)
    await ledger.store_tx(version(intent, "a"), now)
    with pytest.raises(LedgerError, match="call 1, which was not written down"):
        await ledger.store_tx(replace(version(intent, "b"), call=1), now)
    later = now + timedelta(seconds=5)
    less = await ledger.amend_intent(intent.id, "0xEscrow", b"\x01", "gas limit too high", later)
    assert less == IntentCall(1, "0xEscrow", b"\x01", "gas limit too high", later)
    assert await ledger.amend_intent(intent.id, "0xEscrow", b"\x01", "once more", now) == less
    await ledger.store_tx(replace(version(intent, "b"), call=1), now)
    nothing = await ledger.amend_intent(intent.id, "0xS", b"", "still too high", later)
    assert [call.number for call in await ledger.intent_calls(intent.id)] == [0, 1, 2]
    assert (await ledger.intents())[0].data == b"\x01\xff", "what was first meant stays"
    assert [tx.call for tx in await ledger.transactions(intent=intent.id)] == [0, 1]
    assert nothing.data == b""
    with pytest.raises(LedgerError, match="nonce 4 of 0xS"):
        await ledger.store_tx(replace(version(intent, "c"), call=2, nonce=5), now)


async def test_the_call_of_a_closed_intent_is_not_replaced(held: SqlLedger, intruder: Intruder, now: datetime) -> None:
    intent = await opened(held, now)
    await held.amend_intent(intent.id, "0xEscrow", b"\x01", "too large", now)
    row = "INSERT INTO intent_calls (intent, number, \"to\", data, why, created_at) VALUES (?, ?, '', '', '', 0)"
    with pytest.raises(intruder.refusal, match="numbered in order"):
        intruder.run(row, intent.id, 3)
    await held.close_intent(intent.id, DEAD)
    with pytest.raises(LedgerError, match="is Dead"):
        await held.amend_intent(intent.id, "0xEscrow", b"", "too large", now)
    with pytest.raises(intruder.refusal, match="numbered in order"):
        intruder.run(row, intent.id, 2)


async def test_when_a_node_first_took_a_version_is_kept(held: SqlLedger, intruder: Intruder, now: datetime) -> None:
    intent = await opened(held, now)
    await held.store_tx(version(intent, "a"), now)
    assert [tx.broadcast_at for tx in await held.transactions()] == [None]
    taken = now + timedelta(seconds=90)
    await held.mark_tx("0xa", TxState.BROADCAST, at=taken)
    await held.mark_tx("0xa", TxState.INCLUDED, 7)
    await held.mark_tx("0xa", TxState.BROADCAST, at=taken + timedelta(seconds=9))
    assert [tx.broadcast_at for tx in await held.transactions()] == [taken]
    await held.store_tx(version(intent, "a"), now)
    with pytest.raises(intruder.refusal, match="first once"):
        intruder.run("UPDATE chain_txs SET broadcast_at = NULL")
