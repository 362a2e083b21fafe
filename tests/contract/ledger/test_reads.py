"""Reads of the process that writes cost no SQL while nothing they read was written, and never show what is past."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from tests.contract.ledger.intruder import Intruder
from tests.contract.ledger.test_epochs import draft
from tests.ledgers import open_attempt

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.ledger.database import TABLES, tables_read, tables_written
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.ledger import Position, PostingKind
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochStage, Receipt
from fedgpu_operator.domain.transactions import ChainTx, IntentState

Ask = Callable[..., AttemptRequest]


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """Every statement of any ledger in this process, as it is run."""
    heard: list[str] = []

    def hear(_c: object, _cursor: object, statement: str, _p: object, _x: object, _m: bool) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            heard.append(statement)

    event.listen(Engine, "before_cursor_execute", hear)
    yield heard
    event.remove(Engine, "before_cursor_execute", hear)


def reads(ledger: SqlLedger) -> dict[str, Callable[[], Awaitable[object]]]:
    """What a pass asks every time."""
    return {
        "open_attempts": ledger.open_attempts,
        "pair_totals": ledger.pair_totals,
        "settlement_snapshot": ledger.settlement_snapshot,
        "first_work": ledger.first_work,
        "work_to_settle": ledger.work_to_settle,
        "epochs": ledger.epochs,
        "epoch_headers": ledger.epoch_headers,
        "transactions": lambda: ledger.transactions(pending_only=True),
        "intents": lambda: ledger.intents(open_only=True),
        "receipts": ledger.receipts,
        "usage_disputes": lambda: ledger.usage_disputes(open_only=True),
        "balances": ledger.balances,
        "head": ledger.head,
    }


async def asked(ledger: SqlLedger, statements: list[str]) -> set[str]:
    """The reads that went to the database this time."""
    found = set()
    for name, read in reads(ledger).items():
        statements.clear()
        await read()
        if statements:
            found.add(name)
    return found


async def test_nothing_written_nothing_asked(held: SqlLedger, ask: Ask, now: datetime, statements: list[str]) -> None:
    await open_attempt(held, ask(), now)
    assert await asked(held, statements) == set(reads(held))
    assert await asked(held, statements) == set()
    await held.record_usage("job-1", 1, 5, now)
    assert await asked(held, statements) == {"open_attempts", "pair_totals", "settlement_snapshot", "work_to_settle"}
    await held.store_epoch(draft(now, "a"), now)
    assert await asked(held, statements) == {"settlement_snapshot", "epochs", "epoch_headers", "head"} - {
        "settlement_snapshot"
    }
    intent = await held.open_intent("post:1", "post", 1, "0xS", 0, "0xE", b"", now)
    assert await asked(held, statements) == {"intents"}
    await held.store_tx(ChainTx("0x1", "post", 1, None, "0xS", 0, b"\x02", intent=intent.id), now)
    assert await asked(held, statements) == {"transactions"}
    await held.append_receipt(Receipt("0xT", "0xB", MicroUSD(5), 7, "0x"), b"", b"", now)
    assert await asked(held, statements) == {"receipts", "head"}


async def test_an_answer_after_any_write_is_that_of_a_fresh_process(
    held: SqlLedger, location: str, ask: Ask, now: datetime
) -> None:
    async def end_it() -> object:
        await held.end_attempt("job-1", "Succeeded", now)
        return None

    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: open_attempt(held, ask(tenant_wallet="0xT", provider_wallet="0xP"), now),
        lambda: held.record_usage("job-1", 1, 5, now),
        lambda: held.stop_attempt("job-1", "Suspended", now),
        lambda: held.store_epoch(draft(now, "a"), now),
        lambda: held.mark_epoch(1, EpochStage.POSTED),
        lambda: held.open_intent("post:1", "post", 1, "0xS", 0, "0xE", b"", now),
        lambda: held.close_intent(1, IntentState.DEAD),
        lambda: held.append_receipt(Receipt("0xT", "0xP", MicroUSD(5), 7, "0x"), b"", b"", now),
        lambda: held.post([Position(PostingKind.CHARGED, "0xT", "0xP", MicroUSD(5))], now),
        held.seal,
        end_it,
    ]
    for step in steps:
        await step()
        async with await SqlLedger.open(location, read_only=True) as fresh:
            for name, read in reads(held).items():
                assert await read() == await reads(fresh)[name](), name


async def test_what_another_process_wrote_is_seen(path: Path, ask: Ask, now: datetime) -> None:
    """On SQLite alone: on PostgreSQL there is no second writer."""
    async with await SqlLedger.open(path) as one, await SqlLedger.open(path) as two:
        for index in range(5):
            writer, reader = (one, two) if index % 2 else (two, one)
            assert len(await reader.open_attempts()) == index
            await open_attempt(writer, ask(job_uid=f"j{index}"), now)
            assert len(await reader.open_attempts()) == index + 1
        Intruder(str(path)).run("UPDATE attempts SET ended_at = 1, outcome = 'x' WHERE job_uid = 'j0'")
        assert len(await one.open_attempts()) == 4


async def test_a_write_under_way_never_brings_an_older_answer_back(held: SqlLedger, ask: Ask, now: datetime) -> None:
    await open_attempt(held, ask(), now)
    for sequence in range(1, 40):
        write = asyncio.create_task(held.record_usage("job-1", sequence, sequence, now))
        early = [await held.pair_totals() for _ in range(3)]
        await write
        assert (await held.pair_totals())[0].gpu_seconds == sequence
        figures = [total[0].gpu_seconds for total in early]
        assert figures == sorted(figures)
        assert set(figures) <= {sequence - 1, sequence}


def test_what_cannot_be_understood_counts_as_written_everywhere() -> None:
    assert tables_written('INSERT INTO "epochs" (number) VALUES (1)') == {"epochs"}
    assert tables_written("UPDATE lease_usage SET sequence = (SELECT 1 FROM epochs)") == {"lease_usage"}
    assert tables_written("DELETE FROM market_prices") == {"market_prices"}
    assert tables_written("SELECT 1 FROM epochs") == frozenset()
    assert tables_written("WITH x AS (SELECT 1) UPDATE epochs SET seq = 1") == TABLES
    assert tables_read("SELECT epochs.number FROM epochs JOIN epoch_leases ON 1 = 1") == {"epochs", "epoch_leases"}
