"""An open ledger on either engine: its transactions, and how a database's errors become ours; blocking, for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        self._links = postgres.Links()
        if reads.dialect.name == "postgresql":
            self._links.follow(reads, writes)

    @classmethod
    def open(
        cls, location: str | Path, *, read_only: bool = False, wait: float = 10.0, bounded: bool = False
    ) -> Database:
        """Open the ledger at a path or URL; ConfigurationError, without any password in it, where that cannot be.

        Makes or upgrades its schema, unless `read_only`: then nothing at all is written, and no writer is shut out.
        `wait` is how many seconds to wait for another operator to let go of it. `bounded` has a server end statements
        that take too long.
        """
        database = cls._connected(location, read_only=read_only, wait=wait, bounded=bounded)
        try:
            database.prepare()
        except ConfigurationError:
            database.close()
            raise
        if bounded:
            database.compared(database.session)
        return database

    @classmethod
    def _connected(cls, location: str | Path, *, read_only: bool, wait: float, bounded: bool) -> Database:
        text = str(location)
        url = _url(text) if "://" in text else None
        if url is None or url.get_backend_name() == "sqlite":
            path = sqlite.path_of(text if url is None else url.database or "", must_exist=read_only)
            engine = sqlite.engine(path, read_only=read_only)
            return cls(str(path), engine, None if read_only else sqlite.writing(engine))
        name = f"postgresql://{url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"
        reads = postgres.reading(url, bounded=bounded)
        writes = None if read_only else postgres.writing(url, name, wait, bounded=bounded)
        return cls(name, reads, writes, url.password or str(url.query.get("password", "")))

    def prepare(self) -> None:
        """Connect, and make or upgrade the schema, or only look at it where nothing may be written."""
        try:
            with (self._writes or self._reads).begin() as connection:
                postgres.unbound(connection)
                migrate.prepare(connection, self._name, upgrade=self._writes is not None)
        except (SQLAlchemyError, UnicodeError) as error:
            raise ConfigurationError(f"the ledger {self._name} cannot be opened: {self._cause(error)}") from error

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that no other writer comes between; when this returns it is kept for good."""
        if self._writes is None:
            raise LedgerError(f"the ledger {self._name} was opened to be read only")
        with self._ledger_errors(), self._writes.begin() as connection:
            self._links.check()
            return work(connection)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent snapshot."""
        with self._ledger_errors(), self._reads.begin() as connection:
            return work(connection)

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
