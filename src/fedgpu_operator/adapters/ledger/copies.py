"""Copies of a whole ledger in one form for both engines, an SQLite ledger file: made online, and put back.

Every row, position and hash is copied bit for bit, so a copy is also the way from one engine to the other.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

from sqlalchemy import Connection, Integer, Table, delete, func, select, text

from fedgpu_operator.adapters.ledger import audit, schema
from fedgpu_operator.adapters.ledger.database import Database
from fedgpu_operator.adapters.ledger.hashchain import ROWS_AT_ONCE, Field, Insertion, head, raw
from fedgpu_operator.adapters.ledger.schema import SCHEMA_VERSION, chain_heads, metadata, schema_version
from fedgpu_operator.adapters.ledger.segments import Note, silent, sync_folder
from fedgpu_operator.domain.ledger import Copied, LedgerAudit
from fedgpu_operator.errors import ConfigurationError, LedgerError

PAGES_AT_ONCE = 4_096
"""Pages of 4 KiB that SQLite copies between two notes of progress."""


def backup(location: str, file: Path, note: Note = silent) -> Copied:
    """Copy the ledger at `location` into a new file while others write to it, and verify the copy.

    The copy is of one moment. It lies next to `file` and gets its name when it is complete and synced to the disk.
    Raises ConfigurationError if the file exists or its folder does not, and LedgerError if reading or writing fails. A
    ledger that is not sound is copied all the same: the audit in the answer says so.
    """
    _check_new(file)
    database = Database.open(location, read_only=True)
    part = file.with_name(f".{file.name}.part")
    try:
        with _removed_unless_done(part):
            _make_private(part)
            if database.sqlite:
                database.snapshot(lambda connection: _pages(connection, part, note))
            else:
                _copy_into_file(database, part, note)
            _stand_alone(part)
            copied = _audited(part)
            _sync(part)
            # Never over another file, whoever made it meanwhile.
            os.link(part, file)
            sync_folder(file.parent)
    except FileExistsError:
        raise ConfigurationError(f"backup file {file} already exists: name another one") from None
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"backup file {file} cannot be written: {error}") from error
    finally:
        database.close()
    return copied


def restore(file: Path, location: str, note: Note = silent) -> Copied:
    """Put a copy back into an empty ledger of either engine, all or nothing; the chains are verified before it commits.

    A copy of an older release is upgraded on the way; the file itself is never changed. Raises ConfigurationError for a
    file that is no ledger or of a newer release, and for a ledger that is not empty or that an operator has;
    LedgerError if the copy is not sound.
    """
    with _present(file) as source:
        target = Database.empty(location)
        try:
            audited = source.snapshot(
                lambda copy: target.once(lambda connection: _put_back(copy, connection, target.name, note))
            )
        finally:
            target.close()
    return Copied(_counted(audited), file.stat().st_size, audited)


def _put_back(copy: Connection, connection: Connection, name: str, note: Note) -> LedgerAudit:
    schema.check_empty(connection, name)
    schema.prepare(connection, name, upgrade=True)
    _copy_rows(copy, connection, note)
    audited = audit.verify(connection)
    if not audited.sound:
        fault = next(iter(audited.faults), None)
        what = f"{fault.table}, row {fault.key}: {fault.why}" if fault else "its postings do not sum to zero"
        raise LedgerError(f"nothing was restored: the copy is not sound: {what}")
    if audited.head != head(copy):
        raise LedgerError("nothing was restored: the chains do not end as in the copy")
    return audited


@contextmanager
def _present(file: Path) -> Iterator[Database]:
    """The copy opened to be read, in the present schema: an older one is upgraded in a place of its own."""
    if not file.is_file():
        raise ConfigurationError(f"backup file not found: {file}")
    try:
        database = Database.open(file, read_only=True)
    except ConfigurationError:
        if not _is_older(file):
            raise
        with tempfile.TemporaryDirectory(prefix="fedgpu-restore-") as folder:
            upgraded = Path(shutil.copy(file, Path(folder) / "ledger.db"))
            Database.open(upgraded).close()
            with closing(Database.open(upgraded, read_only=True)) as database:
                yield database
        return
    with closing(database):
        yield database


def _is_older(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as raw:
            (version,) = raw.execute("SELECT version FROM schema_version").fetchone()
    except (sqlite3.Error, TypeError, ValueError):
        return False
    return isinstance(version, int) and version < SCHEMA_VERSION


# ---------------------------------------------------------------- from SQLite: its own way to copy a live database


def _pages(connection: Connection, part: Path, note: Note) -> None:
    """Copy page by page. The transaction that is open keeps it to one moment, however much is written meanwhile."""
    connection.execute(select(schema_version.c.version)).scalar_one()
    link = cast("sqlite3.Connection", connection.connection.driver_connection)

    def progress(_status: int, remaining: int, total: int) -> None:
        note("pages", total - remaining, total)

    with closing(sqlite3.connect(part)) as target:
        link.backup(target, pages=PAGES_AT_ONCE, progress=progress)


# ---------------------------------------------------------------- from or to any engine: row by row


def _copy_into_file(source: Database, part: Path, note: Note) -> None:
    with closing(Database.empty(part)) as target:

        def copy(connection: Connection) -> None:
            def into(made: Connection) -> None:
                schema.prepare(made, target.name, upgrade=True)
                _copy_rows(connection, made, note)

            target.once(into)

        source.snapshot(copy)


def _copy_rows(source: Connection, target: Connection, note: Note) -> None:
    """Every row of every table, in an order that foreign keys allow; the guards are back when it is done."""
    tables = [table for table in metadata.sorted_tables if table is not schema_version]
    sizes = {table.name: source.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}
    done, total = 0, sum(sizes.values())
    with _unguarded(target):
        target.execute(delete(chain_heads))
        for table in tables:
            insertion = Insertion(target, table, [column.name for column in table.columns])
            for rows in _rows(source, table):
                insertion.run(rows)
                done += len(rows)
                note(table.name, done, total)
            _next_number(target, table)


def _rows(connection: Connection, table: Table) -> Iterator[Sequence[tuple[Field, ...]]]:
    columns = [raw(table, column.name) for column in table.columns]
    order = [table.c.position] if "position" in table.c else list(table.primary_key)
    query = select(*columns).order_by(*order).execution_options(yield_per=ROWS_AT_ONCE)
    with connection.execute(query) as result:
        for rows in result.partitions(ROWS_AT_ONCE):
            yield [tuple(row) for row in rows]


@contextmanager
def _unguarded(connection: Connection) -> Iterator[None]:
    """Without the triggers, which judge what is new: what is put back was judged when it was."""
    if connection.dialect.name == "sqlite":
        held = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()
        for name, _ in held:
            connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
        yield
        for _, statement in held:
            connection.exec_driver_sql(statement)
        return
    for verb in ("DISABLE", "ENABLE"):
        for table in metadata.sorted_tables:
            connection.exec_driver_sql(f'ALTER TABLE "{table.name}" {verb} TRIGGER USER')
        if verb == "DISABLE":
            yield


def _next_number(connection: Connection, table: Table) -> None:
    """Have PostgreSQL hand out numbers after those that were put in; SQLite does so by itself."""
    column = table.autoincrement_column
    if connection.dialect.name != "postgresql" or column is None or not isinstance(column.type, Integer):
        return
    sequence = connection.execute(
        text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
    ).scalar()
    if sequence is not None:
        last = connection.execute(select(func.max(column))).scalar()
        connection.execute(
            text("SELECT setval(:sequence, :last, :called)"),
            {"sequence": sequence, "last": last or 1, "called": last is not None},
        )


# ---------------------------------------------------------------- the file itself


def _check_new(file: Path) -> None:
    if not file.parent.is_dir():
        raise ConfigurationError(f"folder not found: {file.parent}")
    if file.exists():
        raise ConfigurationError(f"backup file {file} already exists: name another one")


def _make_private(part: Path) -> None:
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _stand_alone(part: Path) -> None:
    """Fold the write-ahead log in, so that the one file is all of it, also on a medium that cannot be written."""
    with closing(sqlite3.connect(part)) as raw:
        raw.execute("PRAGMA journal_mode = DELETE").fetchone()


def _audited(part: Path) -> Copied:
    with closing(Database.open(part, read_only=True)) as copy:
        audited = copy.snapshot(audit.verify)
    return Copied(_counted(audited), part.stat().st_size, audited)


def _counted(audited: LedgerAudit) -> dict[str, int]:
    return dict(audited.rows)


def _sync(part: Path) -> None:
    with part.open("rb+") as raw:
        os.fsync(raw.fileno())


@contextmanager
def _removed_unless_done(part: Path) -> Iterator[None]:
    """Remove the unfinished copy, and what SQLite keeps next to it; after success it has its own name."""
    try:
        yield
    finally:
        for each in (part, *(part.with_name(part.name + end) for end in ("-wal", "-shm", "-journal"))):
            each.unlink(missing_ok=True)
