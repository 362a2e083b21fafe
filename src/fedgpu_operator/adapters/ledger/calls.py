"""How an open ledger is called from a loop: every call is a coroutine, writes go through one thread, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection, select

from fedgpu_operator.adapters.ledger.database import Database
from fedgpu_operator.adapters.ledger.schema import chain_heads
from fedgpu_operator.adapters.ledger.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """An open database with the threads that call it; ledger.py says what."""

    def __init__(self, database: Database, limit: float | None = None) -> None:
        self._database = database
        self._threads = Threads(limit, database.cut)

    @classmethod
    async def open(
        cls, location: str | Path, *, read_only: bool = False, wait: float = 10.0, limit: float | None = None
    ) -> Self:
        """Open the ledger at a path, a ``sqlite:///`` or a ``postgresql://`` URL, made or upgraded as needed.

        `read_only` writes nothing, upgrades nothing and shuts out nobody: for an audit. On PostgreSQL one operator may
        write at a time; `wait` is how many seconds to wait for another one to let go. Raises ConfigurationError for a
        ledger in memory, another engine, a newer schema, a foreign database or another operator.

        With a `limit`, a call that takes more seconds raises LedgerUnreachableError, and a PostgreSQL server ends
        statements before that; an upgrade has no limit.
        """
        opened = await asyncio.to_thread(
            Database.open, location, read_only=read_only, wait=wait, bounded=limit is not None
        )
        return cls(opened, limit)

    async def ping(self, seconds: float) -> None:
        """Read something; raises LedgerUnreachableError where that, or another call, takes too long, or LedgerError."""
        await self._threads.ask(partial(self._database.read, _look), seconds)

    @property
    def session(self) -> int:
        """Rises whenever the connection that writes was made again: the database may be another copy then."""
        return self._database.session

    @property
    def silent(self) -> bool:
        """Whether the database does not answer: until it does, every call fails at once."""
        return self._threads.silent

    def compared(self, session: int) -> None:
        """The ledger of that session was compared with the world: it may be written again."""
        self._database.compared(session)

    async def close(self) -> None:
        """Wait for the write in progress and close the file."""
        await asyncio.to_thread(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(self._database.write, lambda connection: work(connection, *args, **kwargs))
        return await self._threads.write(call)

    async def _read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(self._database.read, lambda connection: work(connection, *args, **kwargs))
        return await self._threads.read(call)

    def _close(self) -> None:
        self._threads.close()
        self._database.close()


def _look(connection: Connection) -> None:
    connection.execute(select(chain_heads).limit(1)).all()
