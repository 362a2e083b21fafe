"""A leader that was elected takes the ledger from the one before, however that one hangs; from nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg
import pytest
from sqlalchemy.engine import make_url
from tests.contract.ledger.test_postgres import Ask, sessions
from tests.ledgers import open_attempt

from fedgpu_lab.postgres import Postgres
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger import postgres as engine
from fedgpu_operator.errors import ConfigurationError, LedgerUnreachableError, NotLeaderError

LEADER = """
import asyncio, sys
from datetime import UTC, datetime
from fedgpu_operator.adapters.clock import boot_seconds
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.errors import NotLeaderError

renewed = boot_seconds()

def leads():
    if boot_seconds() - renewed > 1.0:
        raise NotLeaderError("not renewed in time")

async def main():
    global renewed
    ledger = await SqlLedger.open(sys.stdin.readline().strip(), leads=leads)
    sequence = 0
    while True:
        # As an elector that runs: unless it was stopped meanwhile, the Lease is still ours.
        if boot_seconds() - renewed < 1.0:
            renewed = boot_seconds()
        sequence += 1
        try:
            await ledger.record_usage("job-1", sequence, sequence * 3, datetime.now(UTC))
        except Exception as error:
            print(type(error).__name__, flush=True)
        else:
            print(sequence, flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


def yes() -> None:
    """Who leads."""


def no() -> None:
    raise NotLeaderError("it does not lead")


@contextmanager
def leader(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that leads and writes, one line for each write."""
    with subprocess.Popen(
        [sys.executable, "-c", LEADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        child.stdin.write(f"{url}\n")
        child.stdin.flush()
        try:
            yield child
        finally:
            child.kill()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


async def test_a_leader_that_is_stopped_loses_the_ledger_and_cannot_write_when_it_wakes(
    postgres_url: str, ask: Ask, now: datetime
) -> None:
    async with await SqlLedger.open(postgres_url) as ledger:
        await open_attempt(ledger, ask(), now)
    with leader(postgres_url) as one:
        acknowledged = [int(line(one)) for _ in range(10)][-1]
        os.kill(one.pid, signal.SIGSTOP)
        await asyncio.sleep(1.5)
        async with await SqlLedger.open(postgres_url, leads=yes, limit=45) as two:
            last = await two.last_usage("job-1")
            assert last is not None
            assert last.sequence >= acknowledged, "what was acknowledged is there"
            assert await two.record_usage("job-1", last.sequence + 100, (last.sequence + 100) * 3, now) is not None
            os.kill(one.pid, signal.SIGCONT)
            seen = [await asyncio.to_thread(line, one) for _ in range(5)]
            # A few lines may be of before the stop, which nobody had read yet.
            woken = [each for each in seen if not each.isdigit() or int(each) > last.sequence]
            assert woken
            assert set(woken) <= {"NotLeaderError", "LedgerError"}
            assert "NotLeaderError" in woken or "NotLeaderError" in [
                await asyncio.to_thread(line, one) for _ in range(3)
            ]
            found = await two.last_usage("job-1")
            assert found is not None
            assert found.sequence == last.sequence + 100
            await two.end_attempt("job-1", "Succeeded", now)
            assert two.session == 1, "its own connection was never cut"
            assert (await two.verify()).sound


async def test_who_does_not_lead_ends_nobodys_session(postgres_url: str) -> None:
    async with await SqlLedger.open(postgres_url, leads=yes) as one:
        with pytest.raises(NotLeaderError):
            await SqlLedger.open(postgres_url, leads=no, wait=0.5)
        await one.ping(5)
        assert one.session == 1
        assert len(elected(postgres_url)) == 1


async def test_an_operator_that_was_not_elected_is_waited_for_and_never_ended(postgres_url: str) -> None:
    async with await SqlLedger.open(postgres_url) as one:
        with pytest.raises(LedgerUnreachableError, match="takes part in no election has the ledger postgresql://127"):
            await SqlLedger.open(postgres_url, leads=yes, wait=0.3)
        assert len(sessions(postgres_url, "held")) == 1
        assert one.session == 1
    async with await SqlLedger.open(postgres_url, leads=yes, wait=5):
        with pytest.raises(ConfigurationError, match="another operator has the ledger"):
            await SqlLedger.open(postgres_url, wait=0.3)


async def test_a_ledger_in_another_database_of_the_server_is_left_alone(postgres: Postgres) -> None:
    one, two = postgres.create(), postgres.create()
    async with await SqlLedger.open(one, leads=yes) as first, await SqlLedger.open(two, leads=yes) as second:
        async with await SqlLedger.open(two, leads=yes, wait=5):
            assert len(elected(one)) == 1
        assert (first.session, second.session) == (1, 1)


async def test_a_role_that_may_not_end_the_session_is_told_which_right_it_needs(postgres: Postgres) -> None:
    url = postgres.create()
    other = f"other_{make_url(url).database}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {other} LOGIN PASSWORD 'x'".encode())
        admin.execute(f"CREATE ROLE {other}_leader LOGIN PASSWORD 'x'".encode())
        admin.execute(f"GRANT ALL ON SCHEMA public TO {other}_leader".encode())
    theirs = str(make_url(url).set(username=other, password="x").render_as_string(hide_password=False))
    first = str(make_url(url).set(username=f"{other}_leader", password="x").render_as_string(hide_password=False))
    async with await SqlLedger.open(first, leads=yes):

        def take() -> None:
            made = engine.writing(make_url(theirs), "the ledger", 2.0, leads=yes)
            try:
                made.connect().close()
            finally:
                made.dispose()

        with pytest.raises(ConfigurationError, match="grant it pg_signal_backend"):
            await asyncio.to_thread(take)
        assert len(elected(url)) == 1
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f"GRANT pg_signal_backend TO {other}".encode())
        await asyncio.to_thread(take)


def elected(url: str) -> list[int]:
    """Sessions of elected operators that hold the ledger in this database."""
    query = (
        "SELECT pid FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE application_name = 'fedgpu-leader' "
        "AND locktype = 'advisory' AND granted AND datname = current_database()"
    )
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(query.encode())]
