"""How an open ledger is called from a loop: writes in order and many to a commit, reads from memory if they can be.

Calls run in threads of their own, so that one that hangs takes none from anybody else. Nothing can end a thread that
waits for a database. On PostgreSQL its connection is cut, and it comes back with an error. On SQLite it waits for the
disk: then the ledger is reported as silent, until the disk answers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, cast

from sqlalchemy import Connection, select

from fedgpu_operator.adapters.ledger.database import Database, tables_written
from fedgpu_operator.adapters.ledger.postgres import CONNECTIONS
from fedgpu_operator.adapters.ledger.schema import chain_heads
from fedgpu_operator.adapters.requests import LEDGER_BYTES, LEDGER_SECONDS
from fedgpu_operator.errors import LedgerUnreachableError
from fedgpu_operator.ports import LeaderCheck

READERS: Final = CONNECTIONS - 1
"""Readings at a time; each has a connection, and so has the question whether the server answers."""
LIMIT_SECONDS: Final = 45.0
"""Most that an operator waits for one call: more than the server's own limit on a statement (postgres.py)."""


class Threads:
    """One thread that writes, in order, some that read, and one that asks whether the database answers.

    `limit` seconds are the most that a call may take, None for no limit; after that `cut` ends all connections and the
    call raises LedgerUnreachableError, though it may have been carried out. Then further calls fail immediately, until
    the database answers again.
    """

    def __init__(self, limit: float | None, cut: Callable[[], None]) -> None:
        self._limit, self._cut = limit, cut
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="ledger-asker")
        self._under_way: dict[int, float] = {}
        self._numbers = itertools.count()
        self.silent = False
        """Whether calls fail immediately, since the database does not answer."""

    async def write(self, work: Callable[[], None], done: Future[T]) -> T:
        """Run it in the thread that writes; what `done` was given, by this run or by an earlier one."""
        self._check()
        with LEDGER_SECONDS.labels("write").time():
            self._writer.submit(self._timed, work)
            return await self._within(asyncio.wrap_future(done))

    async def read(self, work: Callable[[], T]) -> T:
        """Run it in a thread that reads."""
        self._check()
        with LEDGER_SECONDS.labels("read").time():
            return await self._within(asyncio.get_running_loop().run_in_executor(self._readers, self._timed, work))

    async def ask(self, work: Callable[[], T], seconds: float) -> T:
        """Run it whatever hangs elsewhere; raises LedgerUnreachableError if it, or an earlier call, takes too long."""
        try:
            with LEDGER_SECONDS.labels("ping").time():
                async with asyncio.timeout(seconds):
                    answer = await asyncio.get_running_loop().run_in_executor(self._asker, self._timed, work)
        except TimeoutError:
            self.silent = self._limit is not None
            self._end_late()
            raise LedgerUnreachableError(f"the ledger did not answer within {seconds:g} s") from None
        if (late := self._end_late()) is not None:
            # A disk may answer a reading from memory while a write to it hangs.
            raise LedgerUnreachableError(f"a call to the ledger has not come back for {late:.0f} s")
        self.silent = False
        return answer

    def close(self) -> None:
        """Wait for the write in progress, unless the database does not answer."""
        for pool in (self._writer, self._readers, self._asker):
            pool.shutdown(wait=pool is self._writer and not self.silent, cancel_futures=self.silent)
        if self.silent:
            self._cut()

    def _check(self) -> None:
        if self.silent:
            raise LedgerUnreachableError("the ledger does not answer")

    async def _within(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._limit):
                return await answer
        except TimeoutError:
            self.silent = True
            self._cut()
            raise LedgerUnreachableError(f"the ledger did not answer within {self._limit:g} s") from None

    def _timed(self, work: Callable[[], T]) -> T:
        number = next(self._numbers)
        self._under_way[number] = time.monotonic()
        try:
            return work()
        finally:
            del self._under_way[number]

    def _end_late(self) -> float | None:
        """Cut the connections if a call is beyond its limit; for how many seconds the oldest such call has run."""
        oldest = min(list(self._under_way.values()), default=None)
        if oldest is None or self._limit is None or (age := time.monotonic() - oldest) <= self._limit:
            return None
        self._cut()
        return age


MOST = 4096
"""Answers held; what was not asked for the longest goes first."""
MOST_ITEMS = 500_000
"""Items in them together, such as attempts or totals of pairs: a few hundred MB at most. The newest answer stays."""

SWEEP = 128
"""Puts between two looks for answers that a write has made untrue: nobody may ask for them again."""

Answer = tuple[int, Mapping[str, int], object, int]
"""The token of the database, the version of each table it was read from, the answer, and how many items it has."""


class Memo:
    """Answers by what was asked, and how often each table was written; one thread reads it, and one writes tables."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._held: OrderedDict[Hashable, Answer] = OrderedDict()
        self._items = 0
        self._swept = 0
        """Answers that were put since those that are not true any more were dropped."""

    @property
    def held(self) -> tuple[int, int]:
        """How many answers are held, and how many items are in them."""
        return len(self._held), self._items

    def versions(self) -> Mapping[str, int]:
        """How often each table was written; what is read after this call is at least as new."""
        return dict(self._versions)

    def written(self, statements: Iterable[str]) -> None:
        """These statements may have been committed; a statement that is not understood wrote every table."""
        for table in {table for statement in statements for table in tables_written(statement)}:
            self._versions[table] = self._versions.get(table, 0) + 1

    def get(self, key: Hashable, token: int) -> tuple[bool, object]:
        """Whether the answer is held and still true, and the answer; a mapping is handed out as a copy.

        One that is not true any more is dropped.
        """
        try:
            found = self._held.get(key)
        except TypeError:
            return False, None
        if found is None:
            return False, None
        then, versions, value, _ = found
        if not self._holds(then, versions, token):
            self._drop(key)
            return False, None
        self._held.move_to_end(key)
        return True, dict(value) if isinstance(value, dict) else value

    def put(self, key: Hashable, token: int, versions: Mapping[str, int], value: object) -> None:
        """Hold an answer; one whose question cannot be hashed is not held."""
        items = _items(value)
        try:
            self._drop(key)
        except TypeError:
            return
        self._held[key] = (token, versions, dict(value) if isinstance(value, dict) else value, items)
        self._items += items
        self._swept += 1
        if self._swept >= SWEEP:
            self._swept = 0
            for each in [each for each, (then, seen, *_) in self._held.items() if not self._holds(then, seen, token)]:
                self._drop(each)
        while len(self._held) > MOST or (self._items > MOST_ITEMS and len(self._held) > 1):
            self._drop(next(iter(self._held)))

    def _holds(self, then: int, versions: Mapping[str, int], token: int) -> bool:
        return then == token and all(self._versions.get(table, 0) == seen for table, seen in versions.items())

    def _drop(self, key: Hashable) -> None:
        dropped = self._held.pop(key, None)
        if dropped is not None:
            self._items -= dropped[3]


def _items(value: object) -> int:
    """How many items an answer has: those of a collection, or of the collections in a record; 1 for anything else."""
    if is_dataclass(value) and not isinstance(value, type):
        return sum(_items(getattr(value, each.name)) for each in fields(value))
    return max(1, len(value)) if isinstance(value, (tuple, frozenset, Mapping)) else 1


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
    """An open database with the threads that call it.

    Its subclasses say what can be asked: functions of one connection, bound by `in_transaction`, `from_memory` and
    `from_database`.
    """

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
        leads: LeaderCheck | None = None,
    ) -> Self:
        """Open the ledger at a path, a ``sqlite:///`` or a ``postgresql://`` URL, made or upgraded as needed.

        `read_only` writes nothing, upgrades nothing and shuts out nobody: for an audit. Without `upgrade` a ledger that
        is not there, or is of another schema, is refused and left as it is. On PostgreSQL one operator may
        write at a time; `wait` is how many seconds to wait for another one to let go. Raises ConfigurationError for a
        ledger in memory, another engine, a newer schema, a foreign database or another operator.

        With a `limit`, a call that takes more seconds raises LedgerUnreachableError, and a PostgreSQL server ends
        statements before that; an upgrade has no limit.

        With `leads`, the check of an elected operator, the session of the leader before is ended if it holds the
        ledger. One that was not elected is waited for, and is a LedgerUnreachableError as long as it is there.
        """
        opened = await asyncio.to_thread(
            Database.open,
            location,
            read_only=read_only,
            upgrade=upgrade,
            wait=wait,
            bounded=limit is not None,
            leads=leads,
        )
        return cls(opened, limit)

    async def ping(self, seconds: float) -> None:
        """Read something; raises LedgerUnreachableError if that, or another call, takes too long, or LedgerError."""
        await self._threads.ask(partial(self._database.read, _glance), seconds)

    @property
    def session(self) -> int:
        """Rises whenever the connection that writes was made again: the database may be another copy then."""
        return self._database.session

    @property
    def silent(self) -> bool:
        """Whether the database does not answer: until it does, every call fails immediately."""
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

        Only for what an archive run leaves as it is: on PostgreSQL one writes next to this process, and is not noticed.
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


def in_transaction(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]:
    """A method of an open ledger that runs `work` in a transaction, as `Calls._write` does."""

    @wraps(work)
    async def method(self: Calls, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._write(work, *args, **kwargs)

    return method


def from_memory(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]:
    """A method of an open ledger that answers from memory if it can, as `Calls._read` does."""

    @wraps(work)
    async def method(self: Calls, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._read(work, *args, **kwargs)

    return method


def from_database(
    work: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]]:
    """A method of an open ledger that reads the database each time, as `Calls._look` does."""

    @wraps(work)
    async def method(self: Calls, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._look(work, *args, **kwargs)

    return method


def _glance(connection: Connection) -> None:
    connection.execute(select(chain_heads).limit(1)).all()
    LEDGER_BYTES.set(connection.exec_driver_sql(SIZE[connection.dialect.name]).scalar_one())
