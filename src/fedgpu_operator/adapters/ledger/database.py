"""An open ledger on either engine: its transactions, and how a database's errors become ours; blocking, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, quote_plus

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from fedgpu_operator.adapters.ledger import migrate, postgres, sqlite
from fedgpu_operator.errors import ConfigurationError, LedgerError

T = TypeVar("T")

HINT = "write a path, sqlite:///path/to/ledger.db or postgresql://user@host/database"


class Database:
    """An open ledger; `write` and `read` each run one function in one transaction, from any thread."""

    def __init__(self, name: str, reads: Engine, writes: Engine | None, secret: str = "") -> None:
        self._name, self._reads, self._writes, self._secret = name, reads, writes, secret

    @classmethod
    def open(cls, location: str | Path, *, read_only: bool = False, wait: float = 10.0) -> Database:
        """Open the ledger at a path or URL; ConfigurationError, without any password in it, where that cannot be.

        Makes or upgrades its schema, unless `read_only`: then nothing at all is written, and no writer is shut out.
        `wait` is how many seconds to wait for another operator to let go of it.
        """
        database = cls._connected(location, read_only=read_only, wait=wait)
        try:
            database.prepare()
        except ConfigurationError:
            database.close()
            raise
        return database

    @classmethod
    def empty(cls, location: str | Path, *, wait: float = 10.0) -> Database:
        """Connect to a place for a ledger that is still to be made; nothing is made before `write` does it.

        Raises ConfigurationError if it cannot be reached, if another operator has it, and if it is not empty.
        """
        database = cls._connected(location, read_only=False, wait=wait)
        try:
            database.prepare(migrate.check_empty)
        except ConfigurationError:
            database.close()
            raise
        return database

    @classmethod
    def beside(cls, location: str | Path, *, wait: float = 10.0) -> Database:
        """Open a ledger to archive it, whether an operator has it or not.

        Raises ConfigurationError if it cannot be reached, is not of the present schema, or is being archived.
        """
        database = cls._connected(location, read_only=False, wait=wait, archiving=True)
        try:
            database.prepare(partial(migrate.prepare, upgrade=False))
        except ConfigurationError:
            database.close()
            raise
        return database

    @classmethod
    def _connected(cls, location: str | Path, *, read_only: bool, wait: float, archiving: bool = False) -> Database:
        text = str(location)
        url = _url(text) if "://" in text else None
        if url is None or url.get_backend_name() == "sqlite":
            must_exist = read_only or archiving
            path = sqlite.path_of(text if url is None else url.database or "", must_exist=must_exist)
            engine = sqlite.engine(path, read_only=read_only)
            return cls(str(path), engine, None if read_only else sqlite.writing(engine))
        name = f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"
        reads = postgres.reading(url)
        write = postgres.archiving if archiving else postgres.writing
        writes = None if read_only else write(url, name, wait)
        return cls(name, reads, writes, url.password or str(url.query.get("password", "")))

    @property
    def name(self) -> str:
        """What it is called in messages: its path or URL, without user and password."""
        return self._name

    @property
    def sqlite(self) -> bool:
        """Whether it is one SQLite file."""
        return self._reads.dialect.name == "sqlite"

    def prepare(self, look: Callable[[Connection, str], None] | None = None) -> None:
        """Connect and `look`; by default make or upgrade the schema, or only look at it where nothing may be written.

        Raises ConfigurationError if it cannot be reached, and what `look` raises.
        """
        look = look or partial(migrate.prepare, upgrade=self._writes is not None)
        try:
            with (self._writes or self._reads).begin() as connection:
                look(connection, self._name)
        except (SQLAlchemyError, UnicodeError) as error:
            raise ConfigurationError(f"the ledger {self._name} cannot be opened: {self._cause(error)}") from error

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that no other writer comes between; when this returns it is kept for good."""
        if self._writes is None:
            raise LedgerError(f"the ledger {self._name} was opened to be read only")
        with self._ledger_errors(), self._writes.begin() as connection:
            return work(connection)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent snapshot."""
        with self._ledger_errors(), self._reads.begin() as connection:
            return work(connection)

    def close(self) -> None:
        """Close every connection; the object is of no use afterwards."""
        self._reads.dispose()
        if self._writes is not None:
            self._writes.dispose()

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
