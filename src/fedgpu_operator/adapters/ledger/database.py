"""An open ledger on either engine: its transactions, and how a database's errors become ours; blocking, for threads."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from fedgpu_operator.adapters.ledger import postgres, schema, sqlite
from fedgpu_operator.adapters.ledger.schema import metadata
from fedgpu_operator.errors import ConfigurationError, LedgerError
from fedgpu_operator.ports import LeaderCheck

T = TypeVar("T")

_TARGET = re.compile(r'\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+"?(\w+)', re.IGNORECASE)
_HARMLESS = re.compile(r"\s*(?:SELECT|SAVEPOINT|RELEASE|ROLLBACK|BEGIN|COMMIT|PRAGMA)\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")

TABLES = frozenset(metadata.tables)

HINT = "write a path, sqlite:///path/to/ledger.db or postgresql://user@host/database"


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What one of several writes returned, or why it failed alone."""

    value: Any = None
    error: Exception | None = None


class _TransactionEndedError(Exception):
    """One of several writes ended the transaction of all of them; nothing of it is kept."""


class Database:
    """An open ledger; `write` and `read` each run functions in one transaction, from any thread."""

    def __init__(self, name: str, reads: Engine, writes: Engine | None, secret: str = "") -> None:
        self._name, self._reads, self._writes, self._secret = name, reads, writes, secret
        self._closed = False
        self._links = postgres.Links()
        if reads.dialect.name == "postgresql":
            self._links.follow(reads, writes)
        self._writing = threading.Lock()
        self._alone = False
        """Whether a transaction is under way that keeps every other process from writing."""
        self._generation = 0
        self._version: object = None
        self._link: DBAPIConnection | None = None
        self._local = threading.local()
        for engine in {reads, writes} - {None}:
            event.listen(engine, "before_cursor_execute", self._record)
        if writes is not None:
            event.listen(writes, "connect", self._on_connect)

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        read_only: bool = False,
        upgrade: bool = True,
        wait: float = 10.0,
        bounded: bool = False,
        leads: LeaderCheck | None = None,
    ) -> Database:
        """Open the ledger at a path or URL; ConfigurationError, without any password in it, where that cannot be.

        Makes or upgrades its schema; without `upgrade` one of another schema is refused. If `read_only` nothing at all
        is written, and no writer is shut out.
        `wait` is how many seconds to wait for another operator to let go of it. `bounded` has a server end statements
        that take too long. With `leads` the ledger of a server is taken from the leader before (postgres.writing).
        """
        upgrade = upgrade and not read_only
        database = cls._connected(
            location, read_only=read_only, wait=wait, bounded=bounded, must_exist=not upgrade, leads=leads
        )
        database.prepare(partial(schema.prepare, upgrade=upgrade))
        if bounded:
            database.compared(database.session)
        return database

    @classmethod
    def empty(cls, location: str | Path, *, wait: float = 10.0) -> Database:
        """Connect to a place for a ledger that is still to be made; nothing is made before `write` does it.

        Raises ConfigurationError if it cannot be reached, if another operator has it, and if it is not empty.
        """
        database = cls._connected(location, read_only=False, wait=wait, bounded=False)
        database.prepare(schema.check_empty)
        return database

    @classmethod
    def for_archiving(cls, location: str | Path, *, wait: float = 10.0) -> Database:
        """Open a ledger to archive it, whether an operator has it or not.

        Raises ConfigurationError if it cannot be reached, is not of the present schema, or is being archived.
        """
        database = cls._connected(location, read_only=False, wait=wait, bounded=False, must_exist=True, archiving=True)
        database.prepare(partial(schema.prepare, upgrade=False))
        return database

    @classmethod
    def _connected(
        cls,
        location: str | Path,
        *,
        read_only: bool,
        wait: float,
        bounded: bool,
        must_exist: bool = False,
        archiving: bool = False,
        leads: LeaderCheck | None = None,
    ) -> Database:
        text = str(location)
        url = _url(text) if "://" in text else None
        if url is None or url.get_backend_name() == "sqlite":
            path = sqlite.path_of(text if url is None else url.database or "", must_exist=must_exist)
            engine = sqlite.engine(path, read_only=read_only)
            return cls(str(path), engine, None if read_only else sqlite.writing(path))
        name = f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"
        reads = postgres.reading(url, bounded=bounded)
        if read_only:
            writes = None
        elif archiving:
            writes = postgres.archiving(url, name, wait)
        else:
            writes = postgres.writing(url, name, wait, bounded=bounded, leads=leads)
        return cls(name, reads, writes, url.password or str(url.query.get("password", "")))

    @property
    def name(self) -> str:
        """What it is called in messages: its path or URL, without user and password."""
        return self._name

    @property
    def sqlite(self) -> bool:
        """Whether it is one SQLite file."""
        return self._reads.dialect.name == "sqlite"

    def prepare(self, look: Callable[[Connection, str], None]) -> None:
        """Connect and `look` at what is there; ConfigurationError if it cannot be reached, and what `look` raises.

        After an error nothing is connected.
        """
        try:
            with self._begin(self._writes or self._reads) as connection:
                postgres.unbound(connection)
                look(connection, self._name)
        except BaseException as error:
            self.close()
            if isinstance(error, SQLAlchemyError | UnicodeError):
                text = f"the ledger {self._name} cannot be opened: {self._cause(error)}"
                raise ConfigurationError(text) from error
            raise

    def write(
        self,
        works: Sequence[Callable[[Connection], Any]],
        written: Callable[[Iterable[str]], None] | None = None,
    ) -> list[WriteResult]:
        """Run these in one transaction that no other writer comes between; when this returns it is kept for good.

        Of several, each fails alone, with its own error and without a trace. If a failure ends the whole transaction,
        as a full disk does on SQLite, nothing of it is kept, and each work is run a second time in a transaction of its
        own. Raises LedgerError if none could be kept. `written` hears every statement once it may have been committed,
        before anybody else can write.
        """
        if self._writes is None:
            raise LedgerError(f"the ledger {self._name} was opened to be read only")
        with self._writing, self._recording() as statements:
            try:
                return self._together(self._writes, works)
            except _TransactionEndedError:
                return self._apart(self._writes, works)
            finally:
                if written is not None:
                    written(statements)

    def read(self, work: Callable[[Connection], T]) -> tuple[T, frozenset[str]]:
        """Run `work` on one consistent snapshot; what it returns, and the tables that it read."""
        with self._recording() as statements, self._ledger_errors(), self._begin(self._reads) as connection:
            answer = work(connection)
        return answer, frozenset().union(*map(tables_read, statements))

    def once(self, work: Callable[[Connection], T]) -> T:
        """Run this one in a transaction of its own, as `write` does; raises its error."""
        value: T = self.write([work])[0].value
        return value

    def snapshot(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns of one consistent snapshot."""
        return self.read(work)[0]

    def token(self) -> int | None:
        """Another number once somebody else may have written; None if that cannot be told now, or never.

        On PostgreSQL the lock keeps others out for as long as the writing connection lives. On SQLite another process
        may write, such as a command; its file tells, at the price of a look into shared memory.
        """
        if self._writes is None:
            return None
        if not self._writing.acquire(blocking=False):
            return self._generation if self._alone else None
        try:
            self._look_for_others()
            return self._generation
        finally:
            self._writing.release()

    @property
    def session(self) -> int:
        """How often the connection that writes was made; on SQLite there is nothing to lose."""
        return self._links.session

    def compared(self, session: int) -> None:
        """Writes may go to the connection of that session, and from now on to no other before it is named here."""
        self._links.known = session

    def cut(self) -> None:
        """End every connection to a server, so that whoever waits for an answer gets an error; safe from any thread."""
        self._links.cut()

    def close(self) -> None:
        """Close every connection; one that a thread still uses is closed as soon as it lets go of it."""
        self._closed = True
        self._reads.pool.dispose()
        if self._writes is not None:
            self._writes.pool.dispose()

    @contextmanager
    def _begin(self, engine: Engine) -> Iterator[Connection]:
        """A transaction; its connection goes back to the pool, or is closed if the pool was emptied meanwhile."""
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            if self._closed:
                engine.pool.dispose()

    def _together(self, writes: Engine, works: Sequence[Callable[[Connection], Any]]) -> list[WriteResult]:
        """Run these in one transaction; raises _TransactionEndedError if one of several ended it."""
        with self._ledger_errors(), self._begin(writes) as connection:
            self._links.check()
            self._look_for_others()
            self._alone, self._local.ran = True, False
            try:
                found = [self._run(connection, work, single=len(works) == 1) for work in works]
            finally:
                self._alone = False
            # The driver commits nothing without an error if there is no transaction, and PostgreSQL a failed one.
            if self._local.ran and not _in_transaction(connection):
                raise LedgerError("the database ended the transaction by itself: nothing of it is kept")
            return found

    def _apart(self, writes: Engine, works: Sequence[Callable[[Connection], Any]]) -> list[WriteResult]:
        """Run each of these in a transaction of its own; if one cannot begin, that error is the answer of the rest."""
        found: list[WriteResult] = []
        for work in works:
            began = False

            def noted(connection: Connection, work: Callable[[Connection], Any] = work) -> object:
                nonlocal began
                began = True
                return work(connection)

            try:
                found += self._together(writes, [noted])
            except Exception as error:  # noqa: BLE001 - an outcome, whatever it is
                found.append(WriteResult(error=error))
                if not began:
                    break
        return found + found[-1:] * (len(works) - len(found))

    def _run(self, connection: Connection, work: Callable[[Connection], Any], *, single: bool) -> WriteResult:
        if single:
            return WriteResult(work(connection))
        try:
            with self._ledger_errors(), connection.begin_nested():
                outcome = WriteResult(work(connection))
        except Exception as error:
            if connection.invalidated:
                raise
            outcome = WriteResult(error=error)
        if not _in_transaction(connection):
            raise _TransactionEndedError
        return outcome

    def _look_for_others(self) -> None:
        """Note if another process has committed since; the own connection's commits do not count."""
        if self._link is None or not isinstance(self._link, sqlite.Link):
            return
        try:
            version = sqlite.data_version(self._link)
        except sqlite.LinkError:
            # A file that cannot be looked at now may hold anything; whoever reads it next hears why.
            self._version, self._generation = None, self._generation + 1
            return
        if version != self._version:
            self._version = version
            self._generation += 1

    def _on_connect(self, link: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        self._link, self._version = link, None
        self._generation += 1

    @contextmanager
    def _recording(self) -> Iterator[set[str]]:
        """The statements that this thread runs meanwhile."""
        statements: set[str] = set()
        self._local.statements = statements
        try:
            yield statements
        finally:
            self._local.statements = None

    def _record(
        self, _connection: Connection, _cursor: object, statement: str, _values: object, _context: object, _many: bool
    ) -> None:
        self._local.ran = True
        statements: set[str] | None = getattr(self._local, "statements", None)
        if statements is not None:
            statements.add(statement)

    @contextmanager
    def _ledger_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OverflowError, UnicodeError) as error:
            raise LedgerError(f"the ledger refused: {self._cause(error)}") from error
        except ConfigurationError as error:
            # The connection was lost, and another operator took the ledger before it was made again.
            raise LedgerError(str(error)) from error

    def _cause(self, error: Exception) -> str:
        """The database's own words, without the statement around them and without the password."""
        text = " ".join(str(getattr(error, "orig", None) or error).split())
        for secret in {self._secret, quote(self._secret), quote_plus(self._secret)} - {""}:
            text = text.replace(secret, "***")
        return text


def _in_transaction(connection: Connection) -> bool:
    """Whether the transaction is open by the database's own account, so that a commit would keep what was written."""
    link = connection.connection.driver_connection
    if isinstance(link, sqlite.Link):
        return link.in_transaction
    return postgres.in_transaction(link)


def _url(text: str) -> URL:
    if text.startswith("postgres://"):
        text = "postgresql" + text.removeprefix("postgres")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # The cause quotes the URL, and with it a password.
        raise ConfigurationError(f"the ledger's URL cannot be parsed; {HINT}") from None
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(f"the ledger cannot use {url.get_backend_name()}; {HINT}")
    if "@" in (url.host or ""):
        # Else the rest of a password would be taken for the host, and written wherever the host is.
        raise ConfigurationError(f"the ledger's URL has a password with characters to be percent-encoded; {HINT}")
    return url


@lru_cache(maxsize=1024)
def tables_read(statement: str) -> frozenset[str]:
    """The tables that a statement names, wherever it does."""
    return TABLES.intersection(_WORD.findall(statement))


@lru_cache(maxsize=1024)
def tables_written(statement: str) -> frozenset[str]:
    """The table that a statement writes; every table if that cannot be told."""
    if _HARMLESS.match(statement):
        return frozenset()
    target = _TARGET.match(statement)
    return TABLES if target is None else frozenset({target[1]})
