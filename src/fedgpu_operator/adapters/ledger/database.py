"""One SQLite file: how it is opened, its transactions, and how its errors become ours; blocking, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from fedgpu_operator.adapters.ledger.schema import SCHEMA_VERSION, metadata, schema_version
from fedgpu_operator.errors import ConfigurationError, LedgerError

T = TypeVar("T")

BUSY_TIMEOUT_MS = 10_000
"""How long a writer waits for another process before it gives up; our own writes last milliseconds."""

PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA foreign_keys = ON",
    # FULL: in WAL mode NORMAL may lose acknowledged commits at a power failure.
    "PRAGMA synchronous = FULL",
)


class Database:
    """An open ledger file; `write` and `read` each run one function in one transaction, from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writes = engine.execution_options(fedgpu_write=True)

    @classmethod
    def open(cls, location: str | Path) -> Database:
        """Open or create the ledger at a path or ``sqlite:///`` URL; ConfigurationError where that cannot be."""
        path = _path(location)
        engine = _engine(path)
        database = cls(engine)
        try:
            with database._writes.begin() as connection:
                _prepare(connection, path)
        except SQLAlchemyError as error:
            engine.dispose()
            raise ConfigurationError(f"the ledger {path} cannot be opened: {_cause(error)}") from error
        except ConfigurationError:
            engine.dispose()
            raise
        return database

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one immediate transaction; when this returns, the file has it for good."""
        with _ledger_errors(), self._writes.begin() as connection:
            return work(connection)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent snapshot."""
        with _ledger_errors(), self._engine.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """Close every connection; the object is of no use afterwards."""
        self._engine.dispose()


def _path(location: str | Path) -> Path:
    text = str(location)
    if "://" in text:
        text = _sqlite_file(text)
    if not text or text == ":memory:" or text.startswith("file:"):
        raise ConfigurationError(
            "the ledger must be a file: a ledger in memory would forget every payment at the first restart"
        )
    path = Path(text)
    if not path.parent.is_dir():
        raise ConfigurationError(f"the ledger's directory {path.parent} does not exist")
    return path


def _sqlite_file(text: str) -> str:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigurationError("the ledger's URL cannot be parsed; write sqlite:///path/to/ledger.db") from error
    if url.get_backend_name() != "sqlite":
        raise ConfigurationError(
            f"the ledger cannot use {url.get_backend_name()} yet; write sqlite:///path/to/ledger.db"
        )
    return url.database or ""


def _engine(path: Path) -> Engine:
    # isolation_level None hands BEGIN to us: the driver's own would start writers as readers and then fail to upgrade.
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"isolation_level": None}, hide_parameters=True
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    try:
        for pragma in PRAGMAS:
            cursor.execute(pragma)
    finally:
        cursor.close()


def _on_begin(connection: Connection) -> None:
    write = connection.get_execution_options().get("fedgpu_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _prepare(connection: Connection, path: Path) -> None:
    tables = inspect(connection).get_table_names()
    if not tables:
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
        return
    if schema_version.name not in tables:
        raise ConfigurationError(f"{path} is a database, but no fedgpu ledger; name another file")
    found = connection.execute(select(schema_version.c.version)).scalar_one()
    if found > SCHEMA_VERSION:
        raise ConfigurationError(
            f"the ledger {path} has schema version {found}, this fedgpu knows {SCHEMA_VERSION}: run the newer release"
        )
    if found < SCHEMA_VERSION:
        raise ConfigurationError(f"the ledger {path} has schema version {found}, which has no way up from here")


@contextmanager
def _ledger_errors() -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OverflowError) as error:
        raise LedgerError(f"the ledger refused: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The database's own words, without the statement around them."""
    return str(getattr(error, "orig", None) or error)
