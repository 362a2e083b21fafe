"""Fixtures of the hub's tests: a clock, a real ledger in a file, and a hub in memory around them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.hub.bank import OWNER, TENANT, USED, Bank
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.office import Office
from tests.unit.hub.world import TEAM, World

from fedgpu_operator.adapters.ledger import SqlLedger


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC))


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    async with await SqlLedger.open(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
async def world(ledger: SqlLedger, clock: FakeClock) -> World:
    """A hub with one tenant namespace and no providers yet, long after its operator began."""
    made = World(ledger, clock)
    await made.namespace(TEAM)
    return made


@pytest.fixture
async def bank(world: World) -> Bank:
    """One provider with a payout wallet, one funded tenant, one billed lease; the first epoch is due."""
    made = Bank(world)
    await world.provider("berlin", payout={"address": OWNER})
    await world.account(TENANT)
    made.escrow.fund(TENANT, 100)
    await made.used(USED)
    made.world.clock.forward(60)
    return made


@pytest.fixture
def office(world: World) -> Office:
    """Where receipts are proposed, signed and kept."""
    return Office(world)
