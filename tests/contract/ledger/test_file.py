"""The file itself: what it survives, what it refuses, and that it never holds up the event loop."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from tests.ledgers import attempts_of, current_attempt, open_attempt

from fedgpu_operator.adapters.ledger import SCHEMA_VERSION, SqlLedger
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.errors import ConfigurationError, LedgerError

Ask = Callable[..., AttemptRequest]

APPENDER = """
import asyncio, sys
from datetime import UTC, datetime
from fedgpu_operator.adapters.ledger import SqlLedger

async def main():
    ledger = await SqlLedger.open(sys.argv[1])
    last = await ledger.last_usage("job-1")
    sequence = last.sequence if last else 0
    while True:
        sequence += 1
        await ledger.record_usage("job-1", sequence, sequence * 3, datetime.now(UTC))
        print(sequence, flush=True)

asyncio.run(main())
"""


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(path: Path, ask: Ask, now: datetime) -> None:
    async with await SqlLedger.open(path) as ledger:
        await open_attempt(ledger, ask(), now)
    for appends in (1, 7, 23):
        acknowledged = await asyncio.to_thread(append_until_killed, path, appends)
        async with await SqlLedger.open(path) as ledger:
            last = await ledger.last_usage("job-1")
            assert last is not None
            # The one in flight may have been written and not yet acknowledged.
            assert acknowledged <= last.sequence <= acknowledged + 1
            assert last.gpu_seconds == last.sequence * 3
            assert (await ledger.pair_totals())[0].gpu_seconds == last.gpu_seconds
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("SELECT count(*) FROM lease_usage").fetchone() == (1,)


def append_until_killed(path: Path, appends: int) -> int:
    """Run a process that appends; kill -9 it after so many acknowledgements; the last sequence it acknowledged."""
    with subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(appends)]
        child.kill()
        lines += child.stdout.read().splitlines()
    assert child.returncode == -signal.SIGKILL
    return int(lines[-1])


async def test_the_event_loop_lives_while_a_write_waits_for_the_file(path: Path, ask: Ask, now: datetime) -> None:
    async with await SqlLedger.open(path) as ledger:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(open_attempt(ledger, ask(), now))
            for _ in range(3):
                assert await attempts_of(ledger, "job") == ()
            assert not waiting.done()
            other.execute("ROLLBACK")
        assert (await waiting).attempt == 1


async def test_a_url_and_a_path_name_the_same_file(path: Path, ask: Ask, now: datetime) -> None:
    async with await SqlLedger.open(f"sqlite:///{path}") as ledger:
        await open_attempt(ledger, ask(), now)
    async with await SqlLedger.open(str(path)) as ledger:
        assert await current_attempt(ledger, "job") is not None
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_two_processes_may_create_the_file_together(path: Path) -> None:
    ledgers = await asyncio.gather(*(SqlLedger.open(path) for _ in range(4)))
    for ledger in ledgers:
        await ledger.close()


async def test_a_file_that_another_process_is_making_is_waited_for(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        # SQLite's own wait does not cover the change to its write-ahead log.
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(SqlLedger.open(path))
        await asyncio.wait({opening}, timeout=0.2)
        assert not opening.done()
        other.execute("ROLLBACK")
        await (await opening).close()


@pytest.mark.parametrize(
    ("location", "why"),
    [
        (":memory:", "must be a file"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("", "must be a file"),
        ("mysql://hub/ledger", "cannot use mysql"),
        ("://", "sqlite:///path"),
        ("/nowhere/at/all/ledger.db", "ledger directory not found: /nowhere/at/all"),
    ],
)
async def test_a_place_that_cannot_keep_money_is_refused(location: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        await SqlLedger.open(location)


async def test_a_newer_a_foreign_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    newer, foreign, broken = (tmp_path / name for name in ("newer.db", "foreign.db", "broken.db"))
    await (await SqlLedger.open(newer)).close()
    with closing(sqlite3.connect(newer)) as raw, raw:
        raw.execute("UPDATE schema_version SET version = ?", (SCHEMA_VERSION + 1,))
    with closing(sqlite3.connect(foreign)) as raw, raw:
        raw.execute("CREATE TABLE photographs (name)")
        raw.execute("CREATE TABLE schema_version (version)")
    broken.write_bytes(b"not a database at all" * 100)
    for path, why in [
        (newer, f"schema version {SCHEMA_VERSION + 1}"),
        (foreign, "is not a fedgpu ledger"),
        (broken, "not a database"),
        (tmp_path, "cannot be opened"),
    ]:
        with pytest.raises(ConfigurationError, match=why):
            await SqlLedger.open(path)


async def test_a_reader_changes_nothing_and_holds_up_nobody(path: Path, ask: Ask, now: datetime) -> None:
    async with await SqlLedger.open(path) as ledger:
        await open_attempt(ledger, ask(), now)
        async with await SqlLedger.open(path, read_only=True) as reader:
            assert await current_attempt(reader, "job") is not None
            assert (await reader.verify()).sound
            with pytest.raises(LedgerError, match="read only"):
                await reader.end_attempt("job-1", "Failed", now)
            await ledger.end_attempt("job-1", "Succeeded", now)
            assert await current_attempt(reader, "job") is None


async def test_a_copy_on_a_medium_that_cannot_be_written_is_read(
    path: Path, ask: Ask, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await SqlLedger.open(path) as ledger:
        await open_attempt(ledger, ask(), now)
    monkeypatch.setattr("os.access", lambda *_: False)
    async with await SqlLedger.open(path, read_only=True) as reader:
        assert (await reader.verify()).rows["attempts"] == 1
        assert [each.name for each in path.parent.glob("ledger.db*")] == ["ledger.db"]


async def test_a_reader_makes_and_upgrades_no_ledger(tmp_path: Path) -> None:
    absent, old = tmp_path / "absent.db", tmp_path / "old.db"
    await (await SqlLedger.open(old)).close()
    with closing(sqlite3.connect(old)) as raw, raw:
        raw.execute("UPDATE schema_version SET version = 1")
    for path, why in [(absent, "ledger file not found"), (old, "schema version 1")]:
        with pytest.raises(ConfigurationError, match=why):
            await SqlLedger.open(path, read_only=True)
    assert not absent.exists()
