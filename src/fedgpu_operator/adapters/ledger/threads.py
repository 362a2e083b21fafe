"""The threads in which a database is called: their own, so that one that hangs takes none from anybody else.

Nothing can end a thread that waits for a database. On PostgreSQL its connection is cut, and it comes back with an
error. On SQLite it waits for the disk: then the ledger is reported as silent, until the disk answers.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from fedgpu_operator.adapters.requests import LEDGER_SECONDS
from fedgpu_operator.errors import LedgerUnreachableError

T = TypeVar("T")

READERS: Final = 4
"""Readings at once; each has a connection."""
LIMIT_SECONDS: Final = 45.0
"""Most that an operator waits for one call: more than the server's own limit on a statement (postgres.py)."""


class Threads:
    """One thread that writes, in order, some that read, and one that asks whether the database answers.

    `limit` seconds are the most that a call may take, None for no limit; after that `cut` ends all connections and the
    call raises LedgerUnreachableError, though it may have been carried out. Then further calls fail at once, until the
    database answers again.
    """

    def __init__(self, limit: float | None, cut: Callable[[], None]) -> None:
        self._limit, self._cut = limit, cut
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ledger-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="ledger-asker")
        self._under_way: dict[int, float] = {}
        self._numbers = itertools.count()
        self.silent = False
        """Whether calls fail at once, since the database does not answer."""

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
