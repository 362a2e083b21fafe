"""The same ledger on both engines, and two ways to hold it: open all the time, or opened anew for every single call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import psycopg
import pytest
from psycopg import sql
from tests.contract.ledger.intruder import Intruder

from fedgpu_lab.postgres import Postgres
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.schema import metadata, schema_version
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.ports import Ledger


class Reopened:
    """A ledger that forgets all it has in memory before each call."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __getattr__(self, name: str) -> Callable[..., Awaitable[object]]:
        async def call(*args: object, **kwargs: object) -> object:
            async with await SqlLedger.open(self._location) as ledger:
                method = cast("Callable[..., Awaitable[object]]", getattr(ledger, name))
                return await method(*args, **kwargs)

        return call


class Shelf:
    """A ledger that is emptied for each test: many times faster than a database for each."""

    def __init__(self, url: str) -> None:
        self._url = url
        asyncio.run(self._make())
        with psycopg.connect(url) as connection:
            self._heads = connection.execute("SELECT chain, length, hash FROM chain_heads").fetchall()

    def emptied(self) -> str:
        """The URL of the ledger, without a row in it."""
        with psycopg.connect(self._url) as connection:
            connection.execute("SET session_replication_role = replica")
            tables = [sql.Identifier(table.name) for table in metadata.sorted_tables if table is not schema_version]
            connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(sql.SQL(", ").join(tables)))
            connection.cursor().executemany("INSERT INTO chain_heads VALUES (%s, %s, %s)", self._heads)
        return self._url

    async def _make(self) -> None:
        await (await SqlLedger.open(self._url)).close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an SQLite ledger may be."""
    return tmp_path / "ledger.db"


@pytest.fixture(scope="session")
def shelf(postgres: Postgres) -> Shelf:
    """The one PostgreSQL ledger that these tests use one after the other."""
    return Shelf(postgres.create())


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, path: Path) -> str:
    """A ledger's place on either engine; whatever it can do, it can do on both."""
    if request.param == "sqlite":
        return str(path)
    shelf: Shelf = request.getfixturevalue("shelf")
    return shelf.emptied()


@pytest.fixture
def intruder(location: str) -> Intruder:
    return Intruder(location)


def as_port(ledger: SqlLedger) -> Ledger:
    """Type-checked only: the ledger is what ports/ asks for."""
    return ledger


@pytest.fixture(params=["held", "reopened"])
async def ledger(request: pytest.FixtureRequest, location: str) -> AsyncIterator[SqlLedger]:
    if request.param == "reopened":
        yield cast("SqlLedger", Reopened(location))
        return
    async with await SqlLedger.open(location) as held:
        yield held


@pytest.fixture
async def held(location: str) -> AsyncIterator[SqlLedger]:
    """A ledger that stays open, for tests in which that makes no difference."""
    async with await SqlLedger.open(location) as opened:
        yield opened


@pytest.fixture
def now() -> datetime:
    return datetime(2025, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)


Ask = Callable[..., AttemptRequest]


@pytest.fixture
def ask() -> Ask:
    """A request for an attempt; any field may be named."""

    def make(**fields: object) -> AttemptRequest:
        values: dict[str, object] = {
            "job_uid": "job",
            "request_id": "placement-1",
            "tenant": "team-a",
            "job_name": "train",
            "provider": "berlin",
            "product": "NVIDIA-H100-80GB-HBM3",
            "price": MicroUSD(1_250_000),
            "gpus": 8,
            "run_limit": 3600,
        }
        return cast("Callable[..., AttemptRequest]", AttemptRequest)(**{**values, **fields})

    return make
