"""The audit finds whatever somebody did to the tables behind the ledger's back, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from eth_utils.crypto import keccak
from tests.contract.ledger.intruder import Intruder, Value
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.hashchain import COLUMNS, genesis, row_hash
from fedgpu_operator.domain.attempts import AttemptRequest, SignedUsage
from fedgpu_operator.domain.ledger import ChainHead, LedgerAudit, LedgerHead, Position, PostingKind
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochDraft, EpochLine, EpochStage, LeaseCover, Receipt
from fedgpu_operator.errors import LedgerError

Ask = Callable[..., AttemptRequest]
T, P = "0xT", "0xP"
ROWS = {"attempts": 4, "epochs": 2, "postings": 6, "receipts": 3, "usage_records": 6}
"""What `filled` holds in chains."""
BESIDE = {"lease_usage": 4, "pair_totals": 1}
"""What it holds that moves."""


def an_epoch(now: datetime, name: str, head: LedgerHead, cover: LeaseCover) -> EpochDraft:
    manifest = name.encode()
    return EpochDraft(
        seq=1,
        prev_root="0x00",
        root=f"0x{name}",
        manifest=manifest,
        manifest_hash="0x" + keccak(manifest).hex(),
        period_end=now,
        total=MicroUSD(7),
        lines=(EpochLine("team-a", "berlin", T, P, MicroUSD(7)),),
        covers=(cover,),
        ledger_head=str(head),
    )


@pytest.fixture
async def filled(held: SqlLedger, ask: Ask, now: datetime) -> SqlLedger:
    """A ledger with rows in every chain, and two epochs, each stored over all that was there before it."""
    for job in ("a", "b", "c"):
        await open_attempt(held, ask(job_uid=job, tenant_wallet=T, provider_wallet=P), now)
        signed = SignedUsage(1, 50, 1_748_779_200, "0x" + "ab" * 32, "0xS", b"\x01\x02")
        await held.record_usage(f"{job}-1", 1, 40, now, signed=signed)
        await held.seal()
        await held.record_usage(f"{job}-1", 2, 90, now + timedelta(seconds=1), signed=signed)
        await held.seal()
    await open_attempt(held, ask(job_uid="d", tenant_wallet=T, provider_wallet=P), now)
    for number, name in enumerate(("one", "two"), start=1):
        await held.append_receipt(Receipt(T, P, MicroUSD(number), number, "0xroot"), b"\x03", b"\x04", now)
        charged = Position(PostingKind.CHARGED, T, P, MicroUSD(100 * number))
        await held.post([charged, Position(PostingKind.SET_ASIDE, T, "", MicroUSD(50))], now, block=number)
        cover = LeaseCover("a-1", 45 * number)
        await held.store_epoch(an_epoch(now, name, await held.head(), cover), now)
        for stage in (EpochStage.POSTED, EpochStage.FINALIZED):
            await held.mark_epoch(number, stage, chain_epoch=number, post_tx="0x1")
    await held.append_receipt(Receipt(T, P, MicroUSD(3), 3, "0xroot"), b"\x03", b"\x04", now)
    await held.end_attempt("a-1", "Succeeded", now)
    # Two that stand in their live rows alone as yet.
    await held.record_usage("b-1", 3, 95, now + timedelta(seconds=2), signed=signed)
    await held.record_usage("d-1", 1, 30, now)
    return held


def broken(audit: LedgerAudit) -> set[str]:
    """The tables in which something is wrong."""
    assert not audit.sound
    return {fault.table for fault in audit.faults}


def other(value: Value) -> Value:
    """A value like this one, but another."""
    match value:
        case None:
            return 7
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else b"\x07"
        case str():
            return value + "x"
        case _:
            return value + 1000


async def test_an_honest_ledger_is_sound_and_its_figures_are_told(filled: SqlLedger) -> None:
    audit = await filled.verify()
    assert audit.sound
    assert audit.rows == {**ROWS, **BESIDE}
    assert audit.head == await filled.head()
    assert {name: end.length for name, end in audit.head.chains.items()} == ROWS
    assert (audit.trial_balance.total, audit.trial_balance.postings) == (0, 6)


async def test_what_may_change_may_change(filled: SqlLedger, now: datetime) -> None:
    await filled.stop_attempt("b-1", "Suspended", now)
    await filled.end_attempt("b-1", "Failed", now)
    await filled.mark_epoch(2, EpochStage.PAID)
    assert (await filled.verify()).sound


@pytest.mark.parametrize("table", sorted(ROWS))
async def test_any_column_that_is_altered_is_found(filled: SqlLedger, intruder: Intruder, table: str) -> None:
    moving = {"ended_at", "outcome", "stop_requested_at", "stop_reason"}
    changeable = {"attempts": moving, "epochs": {"stage", "chain_epoch", "post_tx"}}
    columns = [column for column in intruder.columns(table) if column not in changeable.get(table, set())]
    assert {*COLUMNS[table], "position", "hash"} <= set(columns)
    middle = (ROWS[table] + 1) // 2
    ((key,),) = intruder.run(f"SELECT hash FROM {table} WHERE position = ?", middle)
    refused = set()
    for column in columns:
        ((value,),) = intruder.run(f'SELECT "{column}" FROM {table} WHERE position = ?', middle)
        where, what = ("hash", key) if column == "position" else ("position", middle)
        change = f'UPDATE {table} SET "{column}" = ? WHERE "{where}" = ?'
        try:
            intruder.run(change, other(value), what, unguarded=True)
        except intruder.refusal:
            refused.add(column)
            continue
        assert table in broken(await filled.verify()), column
        intruder.run(change, value, what, unguarded=True)
        assert (await filled.verify()).sound
    assert refused <= {"leg"}, "an entry's legs are 1 and 2: the database itself knows no others"


@pytest.mark.parametrize("table", sorted(ROWS))
async def test_a_row_that_was_taken_out_is_found_wherever_it_was(
    filled: SqlLedger, intruder: Intruder, table: str
) -> None:
    for position in (ROWS[table], 1):
        intruder.run(f"DELETE FROM {table} WHERE position = ?", position, unguarded=True)
        fault = next(fault for fault in (await filled.verify()).faults if fault.table == table)
        assert str(position) in fault.key
        assert "missing" in fault.why


async def test_a_live_row_that_was_altered_in_any_column_is_found(filled: SqlLedger, intruder: Intruder) -> None:
    for lease in ("a-1", "b-1", "d-1"):
        for column in intruder.columns("lease_usage"):
            this = "lease_name = ?"
            ((value,),) = intruder.run(f"SELECT {column} FROM lease_usage WHERE {this}", lease)
            key = other(lease) if column == "lease_name" else lease
            absent: dict[str, Value] = {"usage_hash": "x", "signature": b"\x07"}
            changed = absent.get(column, 7) if value is None else other(value)
            try:
                intruder.run(f"UPDATE lease_usage SET {column} = ? WHERE {this}", changed, lease, unguarded=True)
            except intruder.refusal:
                assert column in FLAGGED, column
                continue
            assert broken(await filled.verify()) & {"lease_usage", "pair_totals"}, column
            intruder.run(f"UPDATE lease_usage SET {column} = ? WHERE {this}", value, key, unguarded=True)
            assert (await filled.verify()).sound


FLAGGED = {
    *("unsealed", "uncovered", "sequence", "gpu_seconds", "checkpoint_sequence", "covered_gpu_seconds"),
    "lease_name",
}
"""Columns that the database itself compares with others, so that it may refuse another value."""


async def test_live_rows_taken_out_put_in_or_moved_are_found(filled: SqlLedger, intruder: Intruder) -> None:
    columns = ", ".join(intruder.columns("lease_usage"))
    for lease in ("a-1", "d-1"):
        (row,) = intruder.run(f"SELECT {columns} FROM lease_usage WHERE lease_name = ?", lease)
        intruder.run("DELETE FROM lease_usage WHERE lease_name = ?", lease, unguarded=True)
        assert broken(await filled.verify()) & {"lease_usage", "pair_totals"}
        marks = ", ".join("?" * len(row))
        intruder.run(f"INSERT INTO lease_usage ({columns}) VALUES ({marks})", *row, unguarded=True)
        assert (await filled.verify()).sound
    for before, after in (("c-1", "x"), ("d-1", "c-1"), ("x", "d-1")):
        intruder.run("UPDATE lease_usage SET lease_name = ? WHERE lease_name = ?", after, before, unguarded=True)
    assert "lease_usage" in broken(await filled.verify())
    intruder.run("DELETE FROM lease_usage WHERE lease_name = 'd-1'", unguarded=True)
    rest = columns.replace("lease_name", "'d-1'", 1)
    intruder.run(
        f"INSERT INTO lease_usage ({columns}) SELECT {rest} FROM lease_usage WHERE lease_name = 'c-1'", unguarded=True
    )
    assert "lease_usage" in broken(await filled.verify())


async def test_what_a_pair_owes_is_recomputed(filled: SqlLedger, intruder: Intruder) -> None:
    columns = intruder.columns("pair_totals")
    (row,) = intruder.run(f"SELECT {', '.join(columns)} FROM pair_totals")
    for column, value in zip(columns, row, strict=True):
        intruder.run(f"UPDATE pair_totals SET {column} = ?", other(value), unguarded=True)
        assert broken(await filled.verify()) == {"pair_totals"}, column
        intruder.run(f"UPDATE pair_totals SET {column} = ?", value, unguarded=True)
        assert (await filled.verify()).sound
    for statement in (
        f"INSERT INTO pair_totals ({', '.join(columns)}) SELECT 'team-z', {', '.join(columns[1:])} FROM pair_totals",
        "DELETE FROM pair_totals",
    ):
        intruder.run(statement, unguarded=True)
        assert broken(await filled.verify()) == {"pair_totals"}


async def test_the_altered_row_is_named(filled: SqlLedger, intruder: Intruder) -> None:
    intruder.run("UPDATE usage_records SET gpu_seconds = 91 WHERE lease_name = 'b-1' AND sequence = 2", unguarded=True)
    audit = await filled.verify()
    assert [(fault.table, fault.key) for fault in audit.faults] == [("usage_records", "b-1 2")]
    assert audit.rows["usage_records"] == 3, "three rows before it can be vouched for"


async def test_a_row_that_was_put_in_is_found(filled: SqlLedger, intruder: Intruder) -> None:
    intruder.run(
        "INSERT INTO usage_records (lease_name, sequence, gpu_seconds, observed_at, position, hash)"
        " SELECT lease_name, 9, 500, observed_at, 7, hash FROM usage_records WHERE position = 6",
        unguarded=True,
    )
    assert "usage_records" in broken(await filled.verify())


async def test_rows_that_changed_places_are_found(filled: SqlLedger, intruder: Intruder) -> None:
    for before, after in ((2, 99), (3, 2), (99, 3)):
        intruder.run("UPDATE usage_records SET position = ? WHERE position = ?", after, before, unguarded=True)
    assert "usage_records" in broken(await filled.verify())


async def test_history_written_anew_with_all_its_hashes_is_found_by_the_epochs(
    filled: SqlLedger, intruder: Intruder
) -> None:
    """Somebody who knows the format can make a chain that is sound in itself: what epochs were stored over tells."""
    intruder.run("UPDATE usage_records SET gpu_seconds = 60 WHERE lease_name = 'a-1' AND sequence = 2", unguarded=True)
    forge(intruder, "usage_records")
    fault, beside = (await filled.verify()).faults
    assert fault.table == "usage_records"
    assert "epoch 1" in fault.why
    assert (beside.table, beside.key) == ("lease_usage", "a-1")


async def test_an_end_that_was_cut_off_with_its_head_is_found_by_the_epochs(
    filled: SqlLedger, intruder: Intruder
) -> None:
    intruder.run("DELETE FROM usage_records WHERE position = 6", unguarded=True)
    forge(intruder, "usage_records")
    fault, beside = (await filled.verify()).faults
    assert (fault.table, fault.key) == ("usage_records", "position 6")
    assert "epoch" in fault.why
    assert (beside.table, beside.key) == ("lease_usage", "c-1")


async def test_a_head_that_was_altered_or_lost_is_found(filled: SqlLedger, intruder: Intruder) -> None:
    intruder.run("UPDATE chain_heads SET length = length - 1 WHERE chain = 'receipts'", unguarded=True)
    assert broken(await filled.verify()) == {"chain_heads"}
    intruder.run("DELETE FROM chain_heads WHERE chain = 'receipts'", unguarded=True)
    assert broken(await filled.verify()) == {"chain_heads"}
    with pytest.raises(LedgerError, match="the head of the hash chain receipts is missing"):
        await filled.append_receipt(Receipt(T, P, MicroUSD(9), 9, "0x"), b"", b"", datetime.now(UTC))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE epoch_lines SET cumulative = 8 WHERE epoch = 1",
        "DELETE FROM epoch_lines WHERE epoch = 1",
        "UPDATE epoch_leases SET gpu_seconds = 46 WHERE epoch = 1",
        "UPDATE epochs SET manifest = hash WHERE number = 1",
    ],
)
async def test_what_belongs_to_an_epoch_is_bound_with_it(filled: SqlLedger, intruder: Intruder, statement: str) -> None:
    intruder.run(statement, unguarded=True)
    faults = (await filled.verify()).faults
    assert {(fault.table, fault.key) for fault in faults if fault.table != "lease_usage"} == {("epochs", "1")}


async def test_an_entry_that_does_not_add_up_shows_in_the_trial_balance(filled: SqlLedger, intruder: Intruder) -> None:
    intruder.run("UPDATE postings SET amount = amount + 1 WHERE position = 1", unguarded=True)
    forge(intruder, "postings")
    audit = await filled.verify()
    assert (audit.trial_balance.total, audit.trial_balance.unbalanced) == (1, 1)
    assert "trial balance" in {fault.key for fault in audit.faults}


def test_the_format_is_the_one_that_is_written_down() -> None:
    """docs/ledger.md promises these very bytes; they can never change for rows that are there."""
    before = sha256(b"fedgpu.dev/ledger/v1/receipts").digest()
    text = '["receipts","1","0xT\u00e9\\"","0xP","17",null,"0a0b"]'.encode()
    assert genesis("receipts") == before
    assert row_hash(before, "receipts", 1, ['0xTé"', "0xP", 17, None, b"\x0a\x0b"]) == sha256(before + text).digest()


def test_heads_are_read_back_as_they_were_written() -> None:
    head = LedgerHead({"usage_records": ChainHead(12, "ab" * 32), "attempts": ChainHead(0, "cd" * 32)})
    assert str(head) == f"attempts:0:{'cd' * 32},usage_records:12:{'ab' * 32}"
    assert LedgerHead.parse(str(head)) == head
    first, second = str(head).split(",")
    for text in ("", f"{second},{first}", f"{first},{first}", f"{first},", str(head).upper(), f"{first[:-1]}"):
        with pytest.raises(ValueError, match="head"):
            LedgerHead.parse(text)


async def test_an_anchor_that_cannot_be_read_is_a_fault(held: SqlLedger, now: datetime, ask: Ask) -> None:
    await open_attempt(held, ask(job_uid="a"), now)
    await held.record_usage("a-1", 1, 40, now)
    broken_head = replace(an_epoch(now, "one", await held.head(), LeaseCover("a-1", 40)), ledger_head="nonsense")
    await held.store_epoch(broken_head, now)
    (fault,) = (await held.verify()).faults
    assert (fault.table, fault.key) == ("epochs", "1")


def forge(intruder: Intruder, table: str) -> None:
    """Write every hash of a table and its head anew, as its rows are now."""
    columns = ", ".join(COLUMNS[table])
    last, length = genesis(table), 0
    for position, *fields in intruder.run(f"SELECT position, {columns} FROM {table} ORDER BY position"):
        assert isinstance(position, int)
        length, last = position, row_hash(last, table, position, fields)
        intruder.run(f"UPDATE {table} SET hash = ? WHERE position = ?", last, position, unguarded=True)
    intruder.run("UPDATE chain_heads SET length = ?, hash = ? WHERE chain = ?", length, last, table, unguarded=True)
