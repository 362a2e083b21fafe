"""The ledger in a PostgreSQL database: one connection writes, and holds the ledger against every other operator."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from fedgpu_operator.errors import ConfigurationError

LOCK = 0x66656467
"""First key of the advisory lock ("fedg"); the second is the schema, so that one database can hold several ledgers."""

ARCHIVE_LOCK = LOCK + 1
"""The same for a run that archives, which an operator does not exclude."""

BUSY_TIMEOUT_MS = 10_000
"""How long a statement waits for a lock of another session, such as a backup's."""

CONNECT = {"connect_timeout": 10, "application_name": "fedgpu"}


def reading(url: URL) -> Engine:
    """Connections that see one snapshot per transaction and cannot write."""
    return create_engine(
        _driver(url),
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
        connect_args=CONNECT,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def writing(url: URL, name: str, wait: float) -> Engine:
    """The one connection that writes. Whenever it is made, it takes the ledger's lock or fails with ConfigurationError.

    The lock belongs to the session: an operator that lost its connection lost the ledger too, and cannot write again
    before it has taken it back. So it must reach the server itself, or a pooler in session mode.
    """
    engine = create_engine(
        _driver(url), connect_args=CONNECT, pool_size=1, max_overflow=0, pool_pre_ping=True, hide_parameters=True
    )

    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        try:
            cursor.execute(f"SET lock_timeout = {max(1, round(wait * 1000))}")
            cursor.execute(f"SELECT pg_advisory_lock({LOCK}, hashtext(current_schema()))")
            cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
            # Weaker settings of a server would let it forget what it has acknowledged; stronger ones stay.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
            connection.commit()
        except engine.dialect.loaded_dbapi.errors.LockNotAvailable as error:
            raise ConfigurationError(f"another operator has the ledger {name}: only one may write it") from error
        finally:
            cursor.close()

    event.listen(engine, "connect", on_connect)
    return engine


def archiving(url: URL, name: str, wait: float) -> Engine:
    """A connection that writes beside the operator: only what no operator writes, and of one moment.

    Two archive runs exclude each other by a lock of their own; raises ConfigurationError while there is another one.
    """
    engine = create_engine(
        _driver(url),
        isolation_level="REPEATABLE READ",
        connect_args=CONNECT,
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
    )

    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        try:
            cursor.execute(f"SET lock_timeout = {max(1, round(wait * 1000))}")
            cursor.execute(f"SELECT pg_advisory_lock({ARCHIVE_LOCK}, hashtext(current_schema()))")
            cursor.execute("SELECT set_config('synchronous_commit', 'on', false)")
            connection.commit()
        except engine.dialect.loaded_dbapi.errors.LockNotAvailable as error:
            raise ConfigurationError(f"the ledger {name} is being archived by another process") from error
        finally:
            cursor.close()

    event.listen(engine, "connect", on_connect)
    return engine


def _driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg")
