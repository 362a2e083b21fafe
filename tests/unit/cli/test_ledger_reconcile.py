"""`fedgpu ledger check` and `reconcile`: what a restored ledger lacks, what comes back, and what a person accepts."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.cli.conftest import Run
from tests.unit.hub.fakes import FakeClock, FakeKube
from tests.unit.hub.world import World

from fedgpu_operator.adapters.kube import connect as connecting
from fedgpu_operator.adapters.ledger import SqlLedger


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKube:
    """A hub with one job that runs and one whose lease is gone, and an empty ledger in their place."""

    async def made() -> FakeKube:
        async with await SqlLedger.open(tmp_path / "lost.db") as books:
            world = World(books, FakeClock(datetime(2026, 1, 1, 12, tzinfo=UTC)))
            await world.namespace("team-a")
            await world.provider("berlin")
            await world.job("runs")
            await world.job("gone")
            await world.pass_once()
            gone = world.leases[0]
            await world.runs(world.leases[1], 5)
            world.clock.forward(10)
            await world.pass_once()
            world.lose(gone)
        async with await SqlLedger.open(tmp_path / "ledger.db"):
            return world.kube.server

    kube = asyncio.run(made())

    async def connect(_: str | None = None, *, file: Path | None = None) -> FakeKube:
        return kube

    monkeypatch.setattr(connecting, "connect", connect)
    return kube


def test_from_gaps_to_none(hub: FakeKube, run: Run, tmp_path: Path) -> None:
    ledger = ["--ledger", str(tmp_path / "ledger.db")]
    code, out, _ = run("ledger", "check", *ledger, "-o", "json")
    found = {each["text"].split(" of job ")[-1].split(",")[0]: each["id"] for each in json.loads(out)["gaps"]}
    assert (code, len(found)) == (1, 2)
    lost = next(value for text, value in found.items() if "gone" in text)
    before = hub.writes.copy()
    code, out, _ = run("ledger", "reconcile", *ledger, "-o", "json")
    said = json.loads(out)
    assert (code, len(said["putBack"]), [each["id"] for each in said["gaps"]]) == (1, 1, [lost])
    assert hub.writes == before, "nothing is accepted that nobody named"
    code, _, err = run("ledger", "reconcile", *ledger, "--accept-loss", "attempt.other")
    assert (code, "gap attempt.other not found; `fedgpu ledger check` lists" in err) == (2, True)
    code, out, _ = run("ledger", "reconcile", *ledger, "--accept-loss", lost)
    assert (code, "put back from the status of job team-a/gone" in out) == (0, True)
    assert run("ledger", "check", *ledger)[0] == 0
    assert run("ledger", "verify", *ledger)[0] == 0
