"""Somebody who goes to the ledger's tables with the database's own tools, past everything that we wrote."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import psycopg

Value = str | int | bytes | None


class Intruder:
    """One statement at a time; `unguarded` takes every trigger and foreign key out of the way first."""

    def __init__(self, location: str) -> None:
        self._location = location
        self.engine = "postgresql" if "://" in location else "sqlite"

    def run(self, statement: str, *values: Value, unguarded: bool = False) -> list[tuple[Value, ...]]:
        """One statement with ``?`` for values, for good; what it answers."""
        if self.engine == "sqlite":
            return self._sqlite(statement, values, unguarded)
        with psycopg.connect(self._location) as connection:
            if unguarded:
                connection.execute("SET session_replication_role = replica")
            cursor = connection.cursor()
            cursor.execute(statement.replace("?", "%s").encode(), values)
            return cursor.fetchall() if cursor.description else []

    def _sqlite(self, statement: str, values: Sequence[Value], unguarded: bool) -> list[tuple[Value, ...]]:
        with closing(sqlite3.connect(self._location)) as connection, connection:
            if unguarded:
                triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
                for (name,) in triggers:
                    connection.execute(f"DROP TRIGGER {name}")
            return connection.execute(statement, values).fetchall()

    @property
    def refusal(self) -> tuple[type[Exception], ...]:
        """What a guard or a constraint raises."""
        return (sqlite3.IntegrityError, psycopg.IntegrityError)

    def columns(self, table: str) -> Sequence[str]:
        """The table's columns."""
        if self.engine == "sqlite":
            return [str(row[1]) for row in self.run(f"PRAGMA table_info({table})")]
        found = self.run("SELECT column_name FROM information_schema.columns WHERE table_name = ?", table)
        return [str(row[0]) for row in found]
