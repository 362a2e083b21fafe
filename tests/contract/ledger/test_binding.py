"""A ledger belongs to one escrow: in another one all the work that was ever paid would be due again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest
from eth_utils.crypto import keccak
from tests.contract.ledger.intruder import Intruder

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.ledger import BoundEscrow, Position, PostingKind
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochDraft, Receipt
from fedgpu_operator.errors import ConfigurationError, LedgerError

OLD, NEW = "0x000000000000000000000000000000000000dEaD", "0x000000000000000000000000000000000000bEEF"
Settle = Callable[[SqlLedger, datetime], Awaitable[object]]


def manifest(escrow: str, chain_id: int = 1) -> bytes:
    return json.dumps({"chainId": chain_id, "escrow": escrow}).encode()


async def store(ledger: SqlLedger, now: datetime, escrow: str = OLD) -> None:
    """An epoch whose manifest names that escrow."""
    text = manifest(escrow)
    await ledger.store_epoch(EpochDraft(1, "0x", "0x", text, "0x" + keccak(text).hex(), now, MicroUSD(0), (), ()), now)


async def send(ledger: SqlLedger, now: datetime) -> None:
    await ledger.open_intent("claim:1:0", "claim", None, "0xS", 4, OLD, b"", now)


async def post(ledger: SqlLedger, now: datetime) -> None:
    await ledger.post([Position(PostingKind.CHARGED, "0xT", "0xP", MicroUSD(5))], now, block=9)


async def countersign(ledger: SqlLedger, now: datetime) -> None:
    await ledger.append_receipt(Receipt("0xT", "0xP", MicroUSD(5), 7, "0x"), b"", b"", now)


@pytest.mark.parametrize("settle", [store, send, post, countersign])
async def test_a_ledger_that_settled_is_refused_to_any_other_escrow(
    ledger: SqlLedger, now: datetime, settle: Settle
) -> None:
    await ledger.bind(1, OLD)
    await settle(ledger, now)
    await ledger.bind(1, OLD)
    for chain_id, escrow in [(1, NEW), (2, OLD)]:
        with pytest.raises(ConfigurationError, match="name a new ledger") as refusal:
            await ledger.bind(chain_id, escrow)
        assert f"books of escrow {OLD} on chain 1" in str(refusal.value)
        assert f"configured is escrow {escrow} on chain {chain_id}" in str(refusal.value)
    assert (await ledger.verify()).bound == BoundEscrow(1, OLD)


async def test_an_address_that_was_mistyped_can_be_put_right_until_something_is_settled(
    ledger: SqlLedger, now: datetime
) -> None:
    assert (await ledger.verify()).bound is None
    for escrow in (OLD, NEW, OLD, NEW):
        await ledger.bind(1, escrow)
    await send(ledger, now)
    with pytest.raises(ConfigurationError, match="books of"):
        await ledger.bind(1, OLD)


async def test_a_ledger_from_before_there_were_bindings_belongs_to_its_newest_epochs_escrow(
    ledger: SqlLedger, now: datetime
) -> None:
    await store(ledger, now, OLD)
    with pytest.raises(ConfigurationError, match=f"books of escrow {OLD}"):
        await ledger.bind(1, NEW)
    assert (await ledger.verify()).bound is None
    await ledger.bind(1, OLD)
    assert (await ledger.verify()).bound == BoundEscrow(1, OLD)


async def test_the_audit_finds_a_binding_that_is_not_that_of_the_epochs(
    held: SqlLedger, now: datetime, intruder: Intruder
) -> None:
    await held.bind(1, OLD)
    await store(held, now)
    assert (await held.verify()).sound
    intruder.run("UPDATE bound_escrows SET escrow = ?", NEW, unguarded=True)
    (fault,) = (await held.verify()).faults
    assert (fault.table, fault.key) == ("epochs", "1")
    assert OLD in fault.why
    assert NEW in fault.why


async def test_whoever_only_reads_binds_nothing(path: Path) -> None:
    await (await SqlLedger.open(path)).close()
    async with await SqlLedger.open(path, read_only=True) as reader:
        with pytest.raises(LedgerError, match="read only"):
            await reader.bind(1, OLD)
        assert (await reader.verify()).bound is None
