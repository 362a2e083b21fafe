"""A disk that hangs: a write to an SQLite ledger does not come back, and all that the ledger can do is to say so."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.ledgers import attempts_of

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.errors import LedgerUnreachableError


async def test_a_write_that_hangs_makes_the_ledger_silent_until_it_comes_back(tmp_path: Path) -> None:
    disk = threading.Event()

    def hang(_: Connection) -> None:
        disk.wait(30)

    async with await SqlLedger.open(tmp_path / "ledger.db", limit=0.1) as ledger:
        await ledger.ping(5)
        with pytest.raises(LedgerUnreachableError, match=r"did not answer within 0\.1 s"):
            await ledger._write(hang)
        with pytest.raises(LedgerUnreachableError, match="has not come back for"):
            await ledger.ping(5)
        with pytest.raises(LedgerUnreachableError, match="does not answer"):
            await attempts_of(ledger, "job")
        disk.set()
        # The next write queues behind the one that hung, so it cannot pass before that has ended.
        ledger._threads._writer.submit(int).result(5)
        await ledger.ping(5)
        assert await attempts_of(ledger, "job") == ()
