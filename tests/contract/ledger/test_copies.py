"""A backup is the ledger of one moment, and comes back bit for bit on either engine; nothing is ever overwritten."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from eth_utils.crypto import keccak
from sqlalchemy import BigInteger, select, type_coerce
from tests.contract.ledger.intruder import Intruder
from tests.contract.ledger.older import ledger_of_schema, stuck_intent
from tests.contract.ledger.test_prices import point
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger, copies
from fedgpu_operator.adapters.ledger.database import Database
from fedgpu_operator.adapters.ledger.schema import Instant, metadata, schema_version
from fedgpu_operator.domain.attempts import AttemptRequest, SignedUsage
from fedgpu_operator.domain.ledger import Position, PostingKind, UsageDispute, UsageDisputeState
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochDraft, EpochLine, EpochStage, LeaseCover, Receipt
from fedgpu_operator.domain.transactions import ChainTx, IntentState, TxState
from fedgpu_operator.errors import ConfigurationError, LedgerError

Ask = Callable[..., AttemptRequest]
T, P = "0xT", "0xPä"


@pytest.fixture
async def filled(held: SqlLedger, ask: Ask, now: datetime) -> SqlLedger:
    """Rows in every table, among them what a guard would refuse as a new row."""
    await held.bind(1, "0xE")
    for job in ("a", "b"):
        await open_attempt(held, ask(job_uid=job, tenant_wallet=T, provider_wallet=P), now)
        signed = SignedUsage(1, 50, 1_748_779_200, "0x" + "ab" * 32, "0xS", b"\x00\x01\x02")
        await held.record_usage(f"{job}-1", 1, 40, now, signed=signed)
        await held.record_usage(f"{job}-1", 2, 90, now + timedelta(seconds=1))
    await held.dispute_usage(UsageDispute("a-1", 2, 130, 90, "HubClock", "{}", now))
    await held.rule_usage_dispute("a-1", 2, UsageDisputeState.REFUSED, "no", now)
    line = EpochLine("team-a", "berlin", T, P, MicroUSD(1))
    manifest = b"\x00{}"
    name = "0x" + keccak(manifest).hex()
    draft = EpochDraft(1, "0x0", "0x1", manifest, name, now, MicroUSD(1), (line,), (LeaseCover("a-1", 90),))
    await held.store_epoch(draft, now)
    intent = await held.open_intent("post:1", "post", 1, "0xS", 0, "0xE", b"", now)
    await held.amend_intent(intent.id, "0xE", b"\x01", "too large", now)
    await held.store_tx(ChainTx("0x1", "post", 1, None, "0xS", 0, b"\x02", intent=intent.id), now)
    await held.mark_tx("0x1", TxState.REVERTED)
    await held.close_intent(intent.id, IntentState.DEAD)
    await held.mark_epoch(1, EpochStage.ABANDONED)
    await held.append_receipt(Receipt(T, P, MicroUSD(5), 7, "0x"), b"\x00", b"", now)
    await held.post([Position(PostingKind.CHARGED, T, P, MicroUSD(5))], now, block=3)
    await held.record_prices([point(now, 1)])
    await held.stop_attempt("a-1", "Suspended", now)
    await held.end_attempt("a-1", "Succeeded", now)
    return held


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a ledger, on either engine."""
    if request.param == "sqlite":
        return str(tmp_path / "restored.db")
    return str(request.getfixturevalue("postgres_url"))


def contents(location: str) -> dict[str, list[tuple[object, ...]]]:
    """Every value of every table as it is stored."""
    database = Database.open(location, read_only=True)
    try:
        return {
            table.name: database.snapshot(
                lambda connection, table=table: [  # type: ignore[misc]
                    tuple(row)
                    for row in connection.execute(
                        select(*[type_coerce(c, BigInteger) if isinstance(c.type, Instant) else c for c in table.c])
                    ).all()
                ]
            )
            for table in metadata.sorted_tables
        }
    finally:
        database.close()


def names(folder: Path) -> list[str]:
    """What is left of a backup and beside it."""
    return sorted(each.name for each in folder.iterdir() if "backup" in each.name)


def same(one: str, other: str, *, complete: bool = True) -> None:
    """Both ledgers hold the same values; `complete`: there is something in every table, or it would show nothing."""
    left, right = contents(one), contents(other)
    assert {name: sorted(rows, key=repr) for name, rows in left.items()} == {
        name: sorted(rows, key=repr) for name, rows in right.items()
    }
    empty = {name for name, rows in left.items() if not rows}
    assert empty <= ({"archived_segments", "opening_balances"} if complete else set(left))


async def test_a_backup_comes_back_bit_for_bit_and_goes_on(
    filled: SqlLedger, location: str, empty: str, tmp_path: Path, ask: Ask, now: datetime
) -> None:
    file = tmp_path / "backup.db"
    copied = await asyncio.to_thread(copies.backup, location, file)
    assert copied.audit.sound
    assert copied.audit.head == await filled.head()
    assert (copied.size, file.stat().st_mode & 0o777) == (file.stat().st_size, 0o600)
    assert names(tmp_path) == ["backup.db"], "one file, and nothing beside it"
    restored = await asyncio.to_thread(copies.restore, file, empty)
    assert restored.audit.head == copied.audit.head
    same(location, empty)
    async with await SqlLedger.open(empty) as ledger:
        assert (await ledger.verify()).sound
        # Its guards are back, and it numbers what is new after what it holds.
        with pytest.raises(Intruder(empty).refusal, match="append-only"):
            Intruder(empty).run("DELETE FROM usage_records")
        assert (await ledger.open_intent("post:2", "post", 1, "0xS", 1, "0xE", b"", now)).id == 2
        await ledger.store_tx(ChainTx("0x2", "x", None, None, "0xS"), now)
        await open_attempt(ledger, ask(job_uid="c"), now)
        await ledger.record_usage("b-1", 3, 95, now)
        assert (await ledger.verify()).sound


async def test_a_backup_beside_a_writer_is_of_one_moment(
    filled: SqlLedger, location: str, tmp_path: Path, ask: Ask, now: datetime
) -> None:
    """Written to between every two notes of progress, by another connection: the copy is sound, and of its start."""
    before, noted = await filled.head(), 0
    loop = asyncio.get_running_loop()

    def write(_what: str, _done: int, _of: int) -> None:
        nonlocal noted
        noted += 1
        opened = open_attempt(filled, ask(job_uid=f"w{noted}"), now)
        asyncio.run_coroutine_threadsafe(opened, loop).result(10)

    file = tmp_path / "backup.db"
    copies_before = copies.PAGES_AT_ONCE
    copies.PAGES_AT_ONCE = 1
    try:
        copied = await asyncio.to_thread(copies.backup, location, file, write)
    finally:
        copies.PAGES_AT_ONCE = copies_before
    assert noted > 5
    assert copied.audit.sound
    assert copied.audit.head == before
    assert (await filled.head()) != before


async def test_a_ledger_with_rows_is_never_restored_into(
    filled: SqlLedger, location: str, empty: str, tmp_path: Path, ask: Ask, now: datetime
) -> None:
    file = tmp_path / "backup.db"
    await asyncio.to_thread(copies.backup, location, file)
    async with await SqlLedger.open(empty) as other:
        await open_attempt(other, ask(), now)
    was = contents(empty)
    with pytest.raises(ConfigurationError, match="not empty: attempts has rows"):
        await asyncio.to_thread(copies.restore, file, empty)
    assert contents(empty) == was


async def test_a_new_ledger_that_an_operator_made_counts_as_empty(
    filled: SqlLedger, location: str, empty: str, tmp_path: Path
) -> None:
    file = tmp_path / "backup.db"
    await asyncio.to_thread(copies.backup, location, file)
    await (await SqlLedger.open(empty)).close()
    await asyncio.to_thread(copies.restore, file, empty)
    same(location, empty)


async def test_a_copy_that_was_altered_is_not_restored(
    filled: SqlLedger, location: str, empty: str, tmp_path: Path
) -> None:
    file = tmp_path / "backup.db"
    await asyncio.to_thread(copies.backup, location, file)
    Intruder(str(file)).run("UPDATE receipts SET cumulative = 6", unguarded=True)
    with pytest.raises(LedgerError, match=r"nothing was restored.*receipts.*altered"):
        await asyncio.to_thread(copies.restore, file, empty)
    # All or nothing: what is there is still an empty place, and takes the true copy.
    file.unlink()
    await asyncio.to_thread(copies.backup, location, file)
    await asyncio.to_thread(copies.restore, file, empty)
    same(location, empty)


async def test_an_existing_file_and_a_missing_folder_are_refused(
    filled: SqlLedger, location: str, tmp_path: Path
) -> None:
    file = tmp_path / "backup.db"
    file.write_text("mine")
    with pytest.raises(ConfigurationError, match="already exists"):
        await asyncio.to_thread(copies.backup, location, file)
    assert file.read_text() == "mine"
    with pytest.raises(ConfigurationError, match="folder not found"):
        await asyncio.to_thread(copies.backup, location, tmp_path / "none" / "backup.db")
    with pytest.raises(ConfigurationError, match="backup file not found"):
        await asyncio.to_thread(copies.restore, tmp_path / "other.db", location)
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await asyncio.to_thread(copies.restore, file, str(tmp_path / "restored.db"))


async def test_a_backup_of_an_older_release_is_upgraded_on_its_way(tmp_path: Path, empty: str) -> None:
    file = tmp_path / "backup.db"
    ledger_of_schema(4, file)
    stuck_intent(file, "claim", "0xS", ("0xE", b"\x07"), [("0xb", b"b", "Broadcast", 12)], 1_700_000_000_000_000)
    was = file.read_bytes()
    await asyncio.to_thread(copies.restore, file, empty)
    assert file.read_bytes() == was
    async with await SqlLedger.open(empty) as ledger:
        (tx,) = await ledger.transactions()
        assert tx.broadcast_at is not None
    with closing(sqlite3.connect(file)) as raw, raw:
        raw.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(ConfigurationError, match="schema version 99"):
        await asyncio.to_thread(copies.restore, file, str(tmp_path / "another.db"))


def test_the_schema_version_is_the_only_table_that_a_copy_leaves_to_the_steps() -> None:
    assert schema_version in metadata.sorted_tables


async def test_no_password_is_in_what_a_failure_says(tmp_path: Path) -> None:
    url = "postgresql://me:s3cret%40x@127.0.0.1:1/db"
    file = tmp_path / "backup.db"
    ledger_of_schema(5, file)
    for work in (lambda: copies.backup(url, tmp_path / "new.db"), lambda: copies.restore(file, url)):
        with pytest.raises(ConfigurationError) as told:
            await asyncio.to_thread(work)
        assert "s3cret" not in str(told.value)
