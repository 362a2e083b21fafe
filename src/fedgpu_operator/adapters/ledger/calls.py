"""How an open ledger is called from a loop: writes in order and many to a commit, reads from memory if they can be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

from sqlalchemy import Connection, select

from fedgpu_operator.adapters.ledger.database import Database
from fedgpu_operator.adapters.ledger.memo import Memo
from fedgpu_operator.adapters.ledger.schema import chain_heads
from fedgpu_operator.adapters.ledger.threads import Threads
from fedgpu_operator.adapters.requests import LEDGER_BYTES

P = ParamSpec("P")
T = TypeVar("T")

MOST_TOGETHER = 500
"""Writes of one commit at most: a pass over 500 leases waits for one disk flush, and no write for much more work."""

SIZE: Final = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    "postgresql": "SELECT pg_database_size(current_database())",
}
"""What tells the bytes of the database, by engine."""

_Pending = tuple[Callable[[Connection], Any], "Future[Any]"]


class Calls:
    """An open database with the threads that call it; ledger.py says what."""

    def __init__(self, database: Database, limit: float | None = None) -> None:
        self._database = database
        self._threads = Threads(limit, database.cut)
        self._queue: deque[_Pending] = deque()
        self._memo = Memo()

    @classmethod
    async def open(
        cls,
        location: str | Path,
        *,
        read_only: bool = False,
        upgrade: bool = True,
        wait: float = 10.0,
        limit: float | None = None,
    ) -> Self:
        """Open the ledger at a path, a ``sqlite:///`` or a ``postgresql://`` URL, made or upgraded as needed.

        `read_only` writes nothing, upgrades nothing and shuts out nobody: for an audit. Without `upgrade` a ledger that
        is not there, or is of another schema, is refused and left as it is. On PostgreSQL one operator may
        write at a time; `wait` is how many seconds to wait for another one to let go. Raises ConfigurationError for a
        ledger in memory, another engine, a newer schema, a foreign database or another operator.

        With a `limit`, a call that takes more seconds raises LedgerUnreachableError, and a PostgreSQL server ends
        statements before that; an upgrade has no limit.
        """
        opened = await asyncio.to_thread(
            Database.open, location, read_only=read_only, upgrade=upgrade, wait=wait, bounded=limit is not None
        )
        return cls(opened, limit)

    async def ping(self, seconds: float) -> None:
        """Read something; raises LedgerUnreachableError where that, or another call, takes too long, or LedgerError."""
        await self._threads.ask(partial(self._database.read, _glance), seconds)

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
        """Run it in a transaction, with others that wait for the thread too; each fails or succeeds by itself."""
        done: Future[T] = Future()
        self._queue.append((lambda connection: work(connection, *args, **kwargs), done))
        return await self._threads.write(self._drain, done)

    async def _read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The answer, from memory if no table that it was read from was written since; nobody may change it.

        Only for what an archive run leaves as it is: on PostgreSQL one writes beside this process, and is not noticed.
        """
        key = (work, args, tuple(sorted(kwargs.items())))
        token = self._database.token()
        if token is not None:
            found, value = self._memo.get(key, token)
            if found:
                return cast("T", value)
        before = self._memo.versions()
        read = partial(self._database.read, lambda connection: work(connection, *args, **kwargs))
        answer, tables = await self._threads.read(read)
        if token is not None:
            self._memo.put(key, token, {table: before.get(table, 0) for table in tables}, answer)
        return answer

    async def _look(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The answer from the database: for what an archive run changes, and what is asked of one of very many."""
        read = partial(self._database.read, lambda connection: work(connection, *args, **kwargs))
        return (await self._threads.read(read))[0]

    def _drain(self) -> None:
        """Everything that waits, in one transaction; whoever comes while that is written has the next one."""
        batch: list[_Pending] = []
        while self._queue and len(batch) < MOST_TOGETHER:
            work, done = self._queue.popleft()
            if done.set_running_or_notify_cancel():
                batch.append((work, done))
        if not batch:
            return
        try:
            outcomes = self._database.write([work for work, _ in batch], self._memo.written)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            for _, done in batch:
                done.set_exception(error)
            return
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if outcome.error is None:
                done.set_result(outcome.value)
            else:
                done.set_exception(outcome.error)

    def _close(self) -> None:
        self._threads.close()
        self._database.close()


def _glance(connection: Connection) -> None:
    connection.execute(select(chain_heads).limit(1)).all()
    LEDGER_BYTES.set(connection.exec_driver_sql(SIZE[connection.dialect.name]).scalar_one())
