"""The ledger in one SQLite file: where it may lie, its pragmas, and how its transactions begin."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.pool import ConnectionPoolEntry

from fedgpu_operator.errors import ConfigurationError

Link = sqlite3.Connection
"""What the driver calls a connection."""
LinkError = sqlite3.Error
"""What one raises."""

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another process before it gives up; our own writes last milliseconds."""

PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA foreign_keys = ON",
    # FULL: in WAL mode NORMAL may lose acknowledged commits at a power failure.
    "PRAGMA synchronous = FULL",
)
WRITER_CACHE_KIB = 65_536
"""Taken as it is needed: a bulk append touches the pages of all its leases again and again."""
READER_CACHE_KIB = 4_096
"""Each of the connections that read has its own; what they ask for again is answered from memory, or is elsewhere."""
READ_ONLY_PRAGMAS = (f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}", "PRAGMA query_only = ON")


def path_of(text: str, *, must_exist: bool) -> Path:
    """The file that is meant; ConfigurationError if it could not keep money, or is not there though it must be."""
    if not text or text == ":memory:" or text.startswith("file:"):
        raise ConfigurationError(
            "the ledger must be a file: a ledger in memory would forget every payment at the first restart"
        )
    path = Path(text)
    if not path.parent.is_dir():
        raise ConfigurationError(f"ledger directory not found: {path.parent}")
    if must_exist and not path.is_file():
        raise ConfigurationError(f"ledger file not found: {path}")
    return path


def engine(path: Path, *, read_only: bool) -> Engine:
    """Connections to the file; each transaction reads one snapshot."""
    return _engine(path, read_only=read_only, begin="BEGIN", cache_kib=READER_CACHE_KIB)


def writing(path: Path) -> Engine:
    """The one connection of this process that writes; each of its transactions is the only one that does."""
    return _engine(
        path, read_only=False, begin="BEGIN IMMEDIATE", cache_kib=WRITER_CACHE_KIB, pool_size=1, max_overflow=0
    )


def data_version(link: Link) -> int:
    """A number that changes when another connection has committed to the file; the link's own commits do not count."""
    (version,) = link.execute("PRAGMA data_version").fetchone()
    return int(version)


def _engine(path: Path, *, read_only: bool, begin: str, cache_kib: int, **pool: int) -> Engine:
    database, query = str(path), {}
    if read_only:
        database, query = f"file:{quote(str(path))}", {"mode": "ro", "uri": "true"}
        if not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists():
            # Even a reader of a WAL file writes next to it; on a medium that cannot be written nothing can change.
            query["immutable"] = "1"
    # isolation_level None hands BEGIN to us: the driver's own would start writers as readers and then fail to upgrade.
    made = create_engine(
        URL.create("sqlite", database=database, query=query),
        connect_args={"isolation_level": None},
        hide_parameters=True,
        **pool,
    )
    pragmas = (*(READ_ONLY_PRAGMAS if read_only else PRAGMAS), f"PRAGMA cache_size = -{cache_kib}")

    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        try:
            for pragma in pragmas:
                cursor.execute(pragma)
            if not read_only:
                _write_ahead(cursor)
        finally:
            cursor.close()

    event.listen(made, "connect", on_connect)
    event.listen(made, "begin", lambda connection: connection.exec_driver_sql(begin))
    return made


def _write_ahead(cursor: DBAPICursor) -> None:
    """Put the file in WAL mode, if it is not. Where two make a file at once, SQLite lets neither of them wait."""
    end = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while cursor.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
