"""What only PostgreSQL can do to a ledger: a second operator, a lost connection, a server that dies, a password."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import Connection
from tests.ledgers import attempts_of, current_attempt, open_attempt

from fedgpu_lab.postgres import Postgres, running
from fedgpu_operator.adapters.ledger import SqlLedger, schema
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.errors import ConfigurationError, LedgerError, LedgerUnreachableError

Ask = Callable[..., AttemptRequest]

KEEPER = """
import asyncio, sys
from datetime import UTC, datetime
from fedgpu_operator.adapters.ledger import SqlLedger, schema

async def main():
    ledger = await SqlLedger.open(sys.stdin.readline().strip())
    sequence = 0
    while True:
        sequence += 1
        await ledger.record_usage("job-1", sequence, sequence * 3, datetime.now(UTC))
        print(sequence, flush=True)

asyncio.run(main())
"""


def sessions(url: str, kind: str) -> list[int]:
    """Process ids of the server's sessions that hold the ledger ("held") or of all of ours in this database ("all")."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'fedgpu'"
    if kind == "held":
        query += " AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)"
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(query.encode())]


async def test_one_operator_has_the_ledger_and_readers_may_look(postgres_url: str, ask: Ask, now: datetime) -> None:
    async with await SqlLedger.open(postgres_url) as one:
        await open_attempt(one, ask(), now)
        with pytest.raises(ConfigurationError, match="another operator has the ledger postgresql://127"):
            await SqlLedger.open(postgres_url, wait=0.1)
        async with await SqlLedger.open(postgres_url, read_only=True) as reader:
            assert (await reader.verify()).rows["attempts"] == 1
            with pytest.raises(LedgerError, match="read only"):
                await reader.end_attempt("job-1", "Failed", now)
        assert len(sessions(postgres_url, "held")) == 1
    async with await SqlLedger.open(postgres_url, wait=5) as two:
        assert await current_attempt(two, "job") is not None


async def test_the_next_operator_waits_for_the_one_before(postgres_url: str) -> None:
    one = await SqlLedger.open(postgres_url)
    waiting = asyncio.create_task(SqlLedger.open(postgres_url, wait=30))
    await asyncio.to_thread(until_two_knock, postgres_url)
    assert not waiting.done()
    await one.close()
    await (await waiting).close()


def until_two_knock(url: str) -> None:
    deadline = time.monotonic() + 30
    while len(sessions(url, "all")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_an_operator_whose_session_was_cut_goes_on_or_learns_that_it_lost_the_ledger(
    postgres_url: str, ask: Ask, now: datetime
) -> None:
    async with await SqlLedger.open(postgres_url, wait=0.2) as one:
        cut(postgres_url)
        await open_attempt(one, ask(), now)
        cut(postgres_url)
        async with await SqlLedger.open(postgres_url, wait=5):
            with pytest.raises(LedgerError, match="another operator has the ledger"):
                await one.end_attempt("job-1", "Failed", now)
        assert (await one.end_attempt("job-1", "Succeeded", now)).outcome == "Succeeded"


def cut(url: str) -> None:
    """End all our sessions in this database from the server's side, and wait until they are gone."""
    with psycopg.connect(url) as connection:
        for pid in sessions(url, "all"):
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


async def test_nothing_acknowledged_is_lost_when_the_operator_is_killed(
    postgres_url: str, ask: Ask, now: datetime
) -> None:
    async with await SqlLedger.open(postgres_url) as ledger:
        await open_attempt(ledger, ask(), now)
    acknowledged = await asyncio.to_thread(append_until_killed, postgres_url, 20)
    async with await SqlLedger.open(postgres_url) as ledger:
        last = await ledger.last_usage("job-1")
        assert last is not None
        assert acknowledged <= last.sequence <= acknowledged + 1
        assert last.gpu_seconds == last.sequence * 3
        assert (await ledger.verify()).sound


def append_until_killed(url: str, appends: int) -> int:
    argv = [sys.executable, "-c", KEEPER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{url}\n")
        child.stdin.flush()
        lines = [child.stdout.readline() for _ in range(appends)]
        child.kill()
        lines += child.stdout.read().splitlines()
    assert child.returncode == -signal.SIGKILL
    return int(lines[-1])


@pytest.fixture
def own() -> Iterator[Postgres]:
    """A server that a test may kill."""
    with running() as server:
        yield server


async def test_a_server_that_dies_and_comes_back_holds_the_same_ledger(own: Postgres, ask: Ask, now: datetime) -> None:
    async with await SqlLedger.open(own.create()) as ledger:
        await open_attempt(ledger, ask(), now)
        await asyncio.to_thread(own.kill)
        for call in (ledger.end_attempt("job-1", "Failed", now), attempts_of(ledger, "job")):
            with pytest.raises(LedgerError, match="refused"):
                await call
        await asyncio.to_thread(own.start)
        assert len(await attempts_of(ledger, "job")) == 1
        await ledger.end_attempt("job-1", "Succeeded", now)
        assert (await ledger.verify()).sound


async def test_a_server_that_hangs_holds_up_a_call_for_its_limit_and_nothing_else(
    own: Postgres, ask: Ask, now: datetime
) -> None:
    async with await SqlLedger.open(own.create(), limit=2.0) as ledger:
        await open_attempt(ledger, ask(), now)
        session = ledger.session
        await asyncio.to_thread(own.pause)
        try:
            hung: list[Awaitable[object]] = [attempts_of(ledger, "job") for _ in range(12)]
            hung.append(ledger.record_usage("job-1", 1, 8, now))
            began = time.monotonic()
            answers = await asyncio.gather(*hung, return_exceptions=True)
            assert {type(each) for each in answers} == {LedgerUnreachableError}
            assert time.monotonic() - began < 10
            # The threads of everybody else are free: twice as many as the loop's own pool has.
            async with asyncio.timeout(5):
                await asyncio.gather(*(asyncio.to_thread(int) for _ in range(64)))
            with pytest.raises(LedgerUnreachableError):
                await ledger.ping(0.2)
            began = time.monotonic()
            with pytest.raises(LedgerUnreachableError, match="does not answer"):
                await attempts_of(ledger, "job")
            assert time.monotonic() - began < 0.5, "a database that hangs is not waited for by each call"
        finally:
            await asyncio.to_thread(own.resume)
        await until_it_answers(ledger)
        assert ledger.session > session, "another connection writes: it may lead to another copy"
        with pytest.raises(LedgerUnreachableError, match="first it is compared with what the hub shows"):
            await ledger.record_usage("job-1", 1, 8, now)
        ledger.compared(ledger.session)
        await ledger.record_usage("job-1", 1, 8, now)
        last = await ledger.last_usage("job-1")
        assert last is not None
        assert (last.sequence, last.gpu_seconds) == (1, 8)
        assert (await ledger.verify()).sound


async def until_it_answers(ledger: SqlLedger) -> None:
    for _ in range(400):
        try:
            await ledger.ping(2.0)
            await ledger.open_many([], datetime.now(UTC))
        except LedgerUnreachableError as error:
            if "made again" in str(error):
                return
            await asyncio.sleep(0.1)
        except LedgerError:
            await asyncio.sleep(0.1)
        else:
            return
    raise AssertionError("the ledger does not answer")


async def test_an_operator_lets_go_of_a_server_that_hangs(own: Postgres, ask: Ask, now: datetime) -> None:
    url = own.create()
    ledger = await SqlLedger.open(url, limit=0.5)
    await asyncio.to_thread(own.pause)
    try:
        with pytest.raises(LedgerUnreachableError):
            await open_attempt(ledger, ask(), now)
        async with asyncio.timeout(10):
            await ledger.close()
    finally:
        await asyncio.to_thread(own.resume)
    with left_alone_by_the_collector():
        # The thread that waited for the server connects again, and takes the lock with that.
        await asyncio.to_thread(ledger._threads._writer.shutdown)
        await asyncio.to_thread(until_none_is_left, url)


async def test_a_reading_that_ends_after_the_ledger_was_closed_leaves_no_connection(postgres_url: str) -> None:
    ledger, begun = await SqlLedger.open(postgres_url), threading.Event()

    def slow(connection: Connection) -> None:
        begun.set()
        connection.exec_driver_sql("SELECT pg_sleep(0.5)")

    reading = asyncio.create_task(ledger._look(slow))
    await asyncio.to_thread(begun.wait)
    reading.cancel()
    await ledger.close()
    with left_alone_by_the_collector():
        await asyncio.to_thread(ledger._threads._readers.shutdown)
        await asyncio.to_thread(until_none_is_left, postgres_url)


async def test_a_ledger_that_cannot_be_prepared_leaves_no_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LedgerError("no")

    monkeypatch.setattr(schema, "prepare", refuse)
    with left_alone_by_the_collector():
        with pytest.raises(LedgerError, match="no"):
            await SqlLedger.open(postgres_url)
        await asyncio.to_thread(until_none_is_left, postgres_url)


@contextmanager
def left_alone_by_the_collector() -> Iterator[None]:
    """It would close what nobody else does."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def until_none_is_left(url: str) -> None:
    deadline = time.monotonic() + 15
    while left := sessions(url, "all"):
        assert time.monotonic() < deadline, f"still connected: {left}"
        time.sleep(0.02)


async def test_only_an_operators_statements_are_ended_by_the_server(postgres_url: str) -> None:
    def shown(ledger: SqlLedger) -> set[str]:
        def show(connection: Connection) -> str:
            return str(connection.exec_driver_sql("SHOW statement_timeout").scalar_one())

        return {ledger._database.read(show)[0], str(ledger._database.write([show])[0].value)}

    async with await SqlLedger.open(postgres_url, limit=45) as bounded:
        assert await asyncio.to_thread(shown, bounded) == {"30s"}
    async with await SqlLedger.open(postgres_url) as free:
        assert await asyncio.to_thread(shown, free) == {"0"}


async def test_a_server_may_not_forget_what_it_acknowledged(postgres_url: str, ask: Ask, now: datetime) -> None:
    name = postgres_url.rpartition("/")[2]
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    async with await SqlLedger.open(postgres_url) as ledger:
        (shown,) = await asyncio.to_thread(
            ledger._database.write, [lambda c: c.exec_driver_sql("SHOW synchronous_commit").scalar_one()]
        )
        assert shown.value == "on"


@pytest.mark.parametrize("secret", ["hunter2", "hunter%402%2Fx", "hunter@2"])
async def test_no_password_is_in_any_error(postgres_url: str, secret: str) -> None:
    address = postgres_url.rpartition("@")[2]
    for url in (
        f"postgresql://lab:{secret}@{address}",
        f"postgresql://lab:{secret}@127.0.0.1:1/ledger",
        f"postgresql://lab:{secret}@127.0.0.1:notaport/ledger",
        f"postgresql://lab@127.0.0.1:1/ledger?password={secret}",
    ):
        with pytest.raises(ConfigurationError) as caught:
            await SqlLedger.open(url, wait=1)
        assert "hunter" not in repr(caught.value)
        assert "hunter" not in "".join(traceback.format_exception(caught.value))


async def test_a_foreign_database_is_left_alone(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE photographs (name text)")
    with pytest.raises(ConfigurationError, match="is not a fedgpu ledger"):
        await SqlLedger.open(postgres_url)
    with psycopg.connect(postgres_url) as connection:
        count = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert count == (1,)
