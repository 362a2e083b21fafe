"""How an open ledger is called from a loop: every call is a coroutine, writes go through one thread, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from sqlalchemy import Connection

from fedgpu_operator.adapters.ledger.database import Database

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """An open database with a thread that writes; ledger.py says what."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")

    @classmethod
    async def open(cls, location: str | Path, *, read_only: bool = False, wait: float = 10.0) -> Self:
        """Open the ledger at a path, a ``sqlite:///`` or a ``postgresql://`` URL, made or upgraded as needed.

        `read_only` writes nothing, upgrades nothing and shuts out nobody: for an audit. On PostgreSQL one operator may
        write at a time; `wait` is how many seconds to wait for another one to let go. Raises ConfigurationError for a
        ledger in memory, another engine, a newer schema, a foreign database or another operator.
        """
        return cls(await asyncio.to_thread(Database.open, location, read_only=read_only, wait=wait))

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
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    async def _read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(self._database.read, lambda connection: work(connection, *args, **kwargs))

    def _close(self) -> None:
        self._writer.shutdown(wait=True)
        self._database.close()
