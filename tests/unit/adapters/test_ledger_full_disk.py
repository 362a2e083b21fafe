"""A transaction that the database ends by itself: no write of it is answered as kept unless the ledger holds it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.ledgers import attempts_of, open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.database import Database
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import LedgerError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MARKET = "INSERT INTO market_prices VALUES (60, '{}', 'eu', 0, 0, 1, NULL, 1, 1, 1, 0, 0, 1, 1)"
"""A row of a table without guards."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def ask(job: str) -> AttemptRequest:
    return AttemptRequest(job, "after-0", "team-a", job, "berlin", "NVIDIA-H100", MicroUSD(1), 8, 60, "0xT", "0xP")


def put(name: str) -> Callable[[Connection], str]:
    """A work that inserts one row."""

    def work(connection: Connection) -> str:
        connection.exec_driver_sql(MARKET.format(name))
        return name

    return work


def fill(connection: Connection) -> None:
    """More than the disk has room for; SQLite then rolls back more than this statement."""
    connection.exec_driver_sql("INSERT INTO chain_heads (chain, length, hash) VALUES ('big', 1, zeroblob(1000000))")


def leave_room(connection: Connection) -> None:
    """The file may grow by a few pages from here."""
    pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 8}")


def held(database: Database) -> set[str]:
    read = database.snapshot(lambda connection: connection.exec_driver_sql("SELECT product FROM market_prices").all())
    return {product for (product,) in read}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_full_disk_fails_the_write_that_fills_it_and_no_other(path: Path, place: int) -> None:
    database = Database.open(path)
    heard: set[str] = set()
    try:
        database.once(leave_room)
        works: list[Callable[[Connection], object]] = [put("a"), put("z")]
        works.insert(place, fill)
        outcomes = database.write(works, heard.update)
        error = outcomes.pop(place).error
        assert isinstance(error, LedgerError)
        assert "full" in str(error)
        assert [(outcome.value, outcome.error) for outcome in outcomes] == [("a", None), ("z", None)]
        assert held(database) == {"a", "z"}
        assert any("'z'" in statement for statement in heard)
    finally:
        database.close()


async def test_an_attempt_that_was_answered_is_held_when_a_write_beside_it_filled_the_disk(
    path: Path,
) -> None:
    async with await SqlLedger.open(path) as ledger:
        ledger._database.once(leave_room)
        gate = threading.Event()
        first = asyncio.create_task(ledger._write(lambda _: gate.wait(30)))
        writes = (
            open_attempt(ledger, ask("a"), NOW),
            ledger._write(fill),
            open_attempt(ledger, ask("b"), NOW),
        )
        tasks = [asyncio.create_task(write) for write in writes]
        await asyncio.sleep(0)  # each queues its write in its first step
        assert len(ledger._queue) == len(tasks)
        gate.set()
        await first
        opened, filled, also = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(filled, LedgerError)
        for answer, job in ((opened, "a"), (also, "b")):
            assert isinstance(answer, Attempt)
            assert await attempts_of(ledger, job) == (answer,)
        assert (await ledger.verify()).sound


@pytest.mark.parametrize("works", [1, 3])
def test_a_write_that_ends_the_transaction_is_not_answered_as_kept(path: Path, works: int) -> None:
    """Whatever the cause: here the work ends it, and reports no error."""

    def ends(connection: Connection) -> str:
        connection.exec_driver_sql(MARKET.format("lost"))
        connection.exec_driver_sql("ROLLBACK")
        return "kept"

    database = Database.open(path)
    try:
        if works == 1:
            with pytest.raises(LedgerError, match="nothing of it is kept"):
                database.write([ends])
        else:
            first, ended, last = database.write([put("a"), ends, put("z")])
            assert (first.value, last.value) == ("a", "z")
            assert isinstance(ended.error, LedgerError)
        assert held(database) == ({"a", "z"} if works > 1 else set())
    finally:
        database.close()
