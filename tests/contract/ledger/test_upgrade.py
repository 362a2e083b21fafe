"""The way from one schema to the next: what an older release wrote is kept, and both engines have the same tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect
from tests.contract.ledger.older import filled_from, ledger_of_schema, stuck_intent
from tests.ledgers import coverage_of, readings_of, whole_history

from fedgpu_operator.adapters.kube import connect
from fedgpu_operator.adapters.ledger import SCHEMA_VERSION, SqlLedger
from fedgpu_operator.adapters.ledger.hashchain import COLUMNS
from fedgpu_operator.adapters.ledger.schema import CHAINED, STEPS, metadata
from fedgpu_operator.cli import ledger_maintenance
from fedgpu_operator.cli.common import TargetOptions
from fedgpu_operator.domain.attempts import UsageRecord
from fedgpu_operator.domain.settlement import Coverage, EpochStage
from fedgpu_operator.errors import ConfigurationError, LedgerError

SCHEMA_1 = Path(__file__).with_name("schema1.sql")
"""A ledger as the release with schema 1 wrote it."""
SCHEMA_3 = Path(__file__).with_name("schema3.json")
"""The rows of a ledger as commit 32e03ab wrote it: one per reading, three epochs of which one was cancelled."""


@pytest.fixture
def old(path: Path) -> Path:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA journal_mode = WAL")
        raw.executescript(SCHEMA_1.read_text())
    return path


async def test_a_ledger_of_schema_1_keeps_everything_and_joins_the_chains(old: Path, now: datetime) -> None:
    async with await SqlLedger.open(old) as ledger:
        assert [(u.attempt.lease_name, u.gpu_seconds) for u in await whole_history(ledger)] == [
            ("job-1", 7200),
            ("job-2", 11),
            ("other-1", 0),
        ]
        seen = datetime(2025, 6, 1, 12, 0, 5, 123456, tzinfo=UTC)
        assert await ledger.last_usage("job-1") == UsageRecord("job-1", 5, 7200, seen)
        (epoch,) = await ledger.epochs()
        assert (epoch.stage, epoch.draft.manifest, len(epoch.draft.lines)) == (EpochStage.POSTED, b'{"kind":"x"}', 1)
        (tx,) = await ledger.transactions()
        assert (tx.raw, tx.intent, tx.max_fee) == (b"\x02\xf8", None, 0)
        audit = await ledger.verify()
        assert audit.sound
        chained = {"attempts": 3, "epochs": 1, "postings": 0, "receipts": 0, "usage_records": 4}
        assert audit.rows == {**chained, "lease_usage": 2, "pair_totals": 2}
        await ledger.record_usage("job-2", 7, 12, now)
        assert not await ledger.record_usage("job-1", 4, 7000, now), "older than what is billed"
        await ledger.seal()
        assert (await ledger.verify()).rows["usage_records"] == 5
    async with await SqlLedger.open(old) as again:
        assert (await again.verify()).sound


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_a_ledger_with_a_row_per_reading_comes_to_the_same_totals(
    request: pytest.FixtureRequest, path: Path, engine: str
) -> None:
    location = str(path) if engine == "sqlite" else str(request.getfixturevalue("postgres_url"))
    ledger_of_schema(3, location)
    filled_from(SCHEMA_3, location)
    at = datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
    async with await SqlLedger.open(location) as ledger:
        audit = await ledger.verify()
        assert audit.faults == ()
        assert (audit.rows["usage_records"], audit.rows["lease_usage"], audit.rows["pair_totals"]) == (17, 3, 3)
        assert [
            (p.tenant, p.provider, p.numerator, p.gpu_seconds, p.open_attempts, p.ended_attempts)
            for p in await ledger.pair_totals()
        ] == [
            ("team-a", "berlin", 1_470_000_720, 1320, 1, 1),
            ("team-a", "paris", 0, 0, 1, 0),
            ("team-b", "paris", 4200, 600, 2, 0),
        ]
        (rest,) = (await ledger.settlement_snapshot()).uncovered
        assert (rest.lease_name, rest.gpu_seconds, rest.covered_gpu_seconds) == ("b-1", 720, 600)
        assert await ledger.coverages(["a-1", "b-1", "c-1", "d-1"]) == {
            "a-1": Coverage("a-1", 600, 600, 1, EpochStage.FINALIZED),
            "b-1": Coverage("b-1", 720, 600, 1, EpochStage.FINALIZED),
            "c-1": Coverage("c-1", 600, 600, 3, EpochStage.POSTED),
            "d-1": Coverage("d-1", 0, 0, None, None),
        }
        assert await ledger.last_usage("b-1") == UsageRecord("b-1", 9, 720, at + timedelta(seconds=150))
        assert len(await readings_of(ledger, "b-1")) == 7, "every reading that was kept stays in the chain"
        assert await ledger.record_usage("b-1", 10, 730, at + timedelta(minutes=4))
        with pytest.raises(LedgerError, match="contradicts"):
            await ledger.record_usage("b-1", 3, 361, at)
        await ledger.mark_epoch(3, EpochStage.ABANDONED)
        assert (await coverage_of(ledger, "c-1")).epoch is None, "the first epoch skipped the debit of its tenant"
        assert (await ledger.verify()).sound


async def test_what_schema_4_had_under_way_carries_its_first_call_and_its_time(path: Path, now: datetime) -> None:
    ledger_of_schema(4, path)
    versions = [("0xa", b"a", "Signed", 10), ("0xb", b"b", "Broadcast", 12)]
    stuck_intent(path, "claim", "0xS", ("0xE", b"\x07"), versions, 1_700_000_000_000_000)
    async with await SqlLedger.open(path) as ledger:
        signed = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
        assert [(tx.call, tx.broadcast_at) for tx in await ledger.transactions()] == [(0, None), (0, signed)]
        (intent,) = await ledger.intents(open_only=True)
        assert [call.data for call in await ledger.intent_calls(intent.id)] == [b"\x07"]
        less = await ledger.amend_intent(intent.id, "0xE", b"", "too large", now)
        assert less.number == 1
    with closing(sqlite3.connect(path)) as raw:
        for statement in (
            "UPDATE chain_txs SET call = 1",
            "UPDATE intent_calls SET data = ''",
            "DELETE FROM chain_txs",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


async def test_what_an_upgrade_bound_is_guarded_from_then_on(old: Path) -> None:
    await (await SqlLedger.open(old)).close()
    with closing(sqlite3.connect(old)) as raw:
        for statement in (
            "UPDATE usage_records SET hash = ''",
            "UPDATE epochs SET manifest = ''",
            "DELETE FROM attempts",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)
        raw.execute("DROP TRIGGER usage_records_no_update")
        raw.execute("UPDATE usage_records SET gpu_seconds = 41 WHERE sequence = 1")
        raw.commit()
    async with await SqlLedger.open(old) as ledger:
        (fault,) = (await ledger.verify()).faults
        assert (fault.table, fault.key) == ("usage_records", "job-1 1")


async def test_an_upgrade_that_fails_leaves_the_old_ledger(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(old)) as raw, raw:
        raw.execute("CREATE TABLE postings (name)")
        before = sorted(raw.execute("SELECT name, sql FROM sqlite_master").fetchall())
    with pytest.raises(Exception, match="postings"):
        await SqlLedger.open(old)
    with closing(sqlite3.connect(old)) as raw:
        assert sorted(raw.execute("SELECT name, sql FROM sqlite_master").fetchall()) == before
        assert raw.execute("SELECT version FROM schema_version").fetchall() == [(1,)]


async def test_reconcile_never_upgrades_and_never_makes_a_ledger(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator upgrades, with a backup before it; a command that repairs must not do so on the way."""
    hub = SimpleNamespace(close=AsyncMock())
    monkeypatch.setattr(connect, "connect", AsyncMock(return_value=hub))
    with pytest.raises(ConfigurationError, match=r"has schema version 1, .*start the operator on it once"):
        await ledger_maintenance._reconciled(TargetOptions(), str(old), ())
    with closing(sqlite3.connect(old)) as raw:
        assert raw.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
    missing = old.with_name("missing.db")
    with pytest.raises(ConfigurationError, match="ledger file not found"):
        await ledger_maintenance._reconciled(TargetOptions(), str(missing), ())
    assert not missing.exists()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_the_steps_make_the_tables_that_the_queries_know(
    request: pytest.FixtureRequest, path: Path, engine: str
) -> None:
    url = f"sqlite:///{path}" if engine == "sqlite" else str(request.getfixturevalue("postgres_url"))
    await (await SqlLedger.open(url)).close()
    made = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with made.connect() as connection:
        difference = [
            change
            for change in compare_metadata(MigrationContext.configure(connection), metadata)
            if "alembic_version" not in str(change)
        ]
        constraints = {
            check["name"] for table in CHAINED for check in inspect(connection).get_check_constraints(table.name)
        }
    made.dispose()
    assert difference == []
    assert constraints == {"attempts_sane", "usage_sane", "receipt_sane", "posting_sane"}


def test_the_schema_is_that_of_the_newest_step() -> None:
    steps = [step.revision for step in ScriptDirectory(str(STEPS)).walk_revisions()]
    assert sorted(steps) == [f"{number:04}" for number in range(1, SCHEMA_VERSION + 1)]


def test_a_chain_binds_every_column_but_those_that_may_change() -> None:
    free = {
        table.name: {column.name for column in table.columns} - set(COLUMNS[table.name]) - {"position", "hash"}
        for table in CHAINED
    }
    assert free == {
        "attempts": {"ended_at", "outcome", "stop_requested_at", "stop_reason"},
        "epochs": {"stage", "chain_epoch", "post_tx", "manifest"},
        "postings": set(),
        "receipts": set(),
        "usage_records": set(),
    }
