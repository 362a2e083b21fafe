"""The ledger in a PostgreSQL database: one connection writes, and holds the ledger against every other operator."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from fedgpu_operator.errors import ConfigurationError, LedgerUnreachableError, NotLeaderError
from fedgpu_operator.ports import LeaderCheck

LOCK = 0x66656467
"""First key of the advisory lock ("fedg"); the second is the schema, so that one database can hold several ledgers."""

ARCHIVE_LOCK = LOCK + 1
"""The same for a run that archives, which an operator does not exclude."""

BUSY_TIMEOUT_MS = 10_000
"""How long a statement waits for a lock of another session, such as a backup's."""

CONNECTIONS = 5
"""Of those that read: one for each of the four threads, and one to ask whether the server answers."""

STATEMENT_TIMEOUT_MS = 30_000
"""What an operator lets one statement take; with 200,000 attempts the longest takes a few seconds."""

ELECTED = "fedgpu-leader"
"""How the writing session of an operator that was elected calls itself; only such a one is ever ended by another."""

TURN_SECONDS = 0.2
"""Between two looks whether the session before has let go of the lock."""

CONNECT = {
    "connect_timeout": 10,
    "application_name": "fedgpu",
    # A server that is gone without a word is noticed within 30 s, by an idle connection as well.
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


class Links:
    """The connections that are open, so that one that hangs can be cut from another thread."""

    def __init__(self) -> None:
        self.session = 0
        self.known: int | None = None
        """The session that may be written; None: any."""
        self._open: WeakSet[DBAPIConnection] = WeakSet()

    def follow(self, reads: Engine, writes: Engine | None) -> None:
        """Know of every connection that these make; `session` counts those that write."""
        event.listen(reads, "connect", lambda connection, _: self._open.add(connection))
        if writes is not None:
            event.listen(writes, "connect", lambda connection, _: self._began(connection))

    def check(self) -> None:
        """Raises LedgerUnreachableError after the connection that writes was made again, until that one is known.

        A standby that took over may be behind, and what is written then would be written again.
        """
        if self.known is not None and self.session != self.known:
            text = "the connection to the ledger was made again: first it is compared with what the hub shows"
            raise LedgerUnreachableError(text)

    def cut(self) -> None:
        """End the sockets and nothing else: who waits on one closes it then, in its own thread."""
        for connection in list(self._open):
            with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as link:
                link.shutdown(socket.SHUT_RDWR)

    def _began(self, connection: DBAPIConnection) -> None:
        self.session += 1
        self._open.add(connection)


def in_transaction(link: object) -> bool:
    """Whether a connection is in a transaction in which no statement failed; the driver knows without asking.

    It begins one with the first statement.
    """
    return isinstance(link, psycopg.Connection) and link.info.transaction_status is TransactionStatus.INTRANS


def unbound(connection: Connection) -> None:
    """Let the transaction that has begun take as long as it needs: an upgrade of large books does."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")


def reading(url: URL, *, bounded: bool = False) -> Engine:
    """Connections that see one snapshot per transaction and cannot write; `bounded` limits their statements."""
    engine = create_engine(
        _driver(url),
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
        connect_args=CONNECT,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    if bounded:
        event.listen(engine, "connect", _bound)
    return engine


def writing(url: URL, name: str, wait: float, *, bounded: bool = False, leads: LeaderCheck | None = None) -> Engine:
    """The one connection that writes. Whenever it is made, it takes the ledger's lock or fails with ConfigurationError.

    The lock belongs to the session: an operator that lost its connection lost the ledger too, and cannot write again
    before it has taken it back. So it must reach the server itself, or a pooler in session mode.

    With `leads`, the check of an operator that was elected, it ends the session of the leader before, which may hold
    the lock for as long as its process is stopped; a lock that anybody else holds is waited for as ever.
    """
    connect = CONNECT if leads is None else {**CONNECT, "application_name": ELECTED}
    engine = create_engine(
        _driver(url), connect_args=connect, pool_size=1, max_overflow=0, pool_pre_ping=True, hide_parameters=True
    )

    def on_connect(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        try:
            if leads is not None:
                _take_over(connection, leads, wait)
            cursor.execute(f"SET lock_timeout = {max(1, round(wait * 1000))}")
            cursor.execute(f"SELECT pg_advisory_lock({LOCK}, hashtext(current_schema()))")
            cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")
            # Weaker settings of a server would let it forget what it has acknowledged; stronger ones stay.
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
            connection.commit()
            if bounded:
                _bound(connection, _entry)
        except NotLeaderError:
            connection.close()
            raise
        except engine.dialect.loaded_dbapi.errors.LockNotAvailable as error:
            # The pool never had it, so nobody else closes it.
            connection.close()
            if leads is not None:
                text = f"an operator that takes part in no election has the ledger {name}: it has to end first"
                raise LedgerUnreachableError(text) from error
            raise ConfigurationError(f"another operator has the ledger {name}: only one may write it") from error
        finally:
            cursor.close()

    event.listen(engine, "connect", on_connect)
    return engine


def archiving(url: URL, name: str, wait: float) -> Engine:
    """A connection that writes next to the operator: only what no operator writes, and of one moment.

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
            connection.close()
            raise ConfigurationError(f"the ledger {name} is being archived by another process") from error
        finally:
            cursor.close()

    event.listen(engine, "connect", on_connect)
    return engine


HOLDERS = """
    pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
    AND l.classid = %(lock)s::int::oid AND l.objid = hashtext(current_schema())::oid
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND a.application_name = %(elected)s AND l.pid <> pg_backend_pid()
"""
"""The elected session that holds the lock of this ledger."""
END_HOLDERS = "SELECT pg_terminate_backend(l.pid) FROM" + HOLDERS
SEE_HOLDERS = "SELECT l.pid FROM" + HOLDERS


def _take_over(connection: DBAPIConnection, leads: LeaderCheck, wait: float) -> None:
    """End the session of the leader before, if it holds the lock, and give it time to go; raises NotLeaderError.

    What it has committed stays, and what it has not is rolled back: nobody reads before this is decided.
    """
    cursor = connection.cursor()
    which = {"lock": LOCK, "elected": ELECTED}
    deadline = time.monotonic() + wait
    try:
        leads()
        cursor.execute(END_HOLDERS, which)
        while cursor.rowcount and time.monotonic() < deadline:
            connection.commit()
            time.sleep(TURN_SECONDS)
            leads()
            cursor.execute(SEE_HOLDERS, which)
        connection.commit()
    except psycopg.errors.InsufficientPrivilege as error:
        connection.close()
        raise ConfigurationError(
            "the ledger's lock is held by a session of another role, which this one may not end; let all replicas "
            "connect with the same role, or grant it pg_signal_backend"
        ) from error
    finally:
        cursor.close()


def _bound(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
        connection.commit()
    finally:
        cursor.close()


def _driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg")
