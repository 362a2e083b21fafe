"""Whatever is deleted, suspended or killed around an attempt, in whatever order: it runs at most once."""

from __future__ import annotations

import os
import shutil
from itertools import permutations
from pathlib import Path

import pytest
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.orders import Scene

from fedgpu_operator.adapters.ledger import SqlLedger, sqlite

EVENTS = (
    "suspend",
    "delete",
    "remove_lease",
    "remove_workload",
    "kill",
    "start_and_die",
    "start_unheard",
    "start_unanswered",
)
LONGEST = int(os.environ.get("TEST_LONGEST_ORDER", "2"))
"""Events in one order at most; `make orders` plays longer ones."""
ORDERS = [order for length in range(1, LONGEST + 1) for order in permutations(EVENTS, length)]
LOOKS: tuple[tuple[str, ...], ...] = ((), ("hub_pass", "agent_pass"), ("hub_pass",), ("agent_pass",))
BETWEEN = LOOKS if LONGEST > 2 else LOOKS[:2]
"""Who gets to look between two events; `make orders` plays them all."""


@pytest.mark.parametrize("between", BETWEEN, ids=lambda steps: "+".join(steps) or "nobody")
@pytest.mark.parametrize("started", [False, True], ids=["placed", "running"])
@pytest.mark.parametrize("followed", [True, False], ids=["push", "elsewhere"])
async def test_an_attempt_runs_at_most_once_in_every_order(
    tmp_path: Path,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    followed: bool,
    started: bool,
    between: tuple[str, ...],
) -> None:
    # No power is lost here, and some thousand ledgers need not reach the disk.
    monkeypatch.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, "PRAGMA synchronous = OFF"))
    blank = tmp_path / "blank.db"
    async with await SqlLedger.open(blank):
        pass
    for number, order in enumerate(ORDERS):
        copy = shutil.copy(blank, tmp_path / f"{number}.db")
        async with await SqlLedger.open(copy) as ledger:
            await _play(Scene(ledger, clock, followed=followed), ledger, order, between, started=started)


async def _play(
    scene: Scene, ledger: SqlLedger, order: tuple[str, ...], between: tuple[str, ...], *, started: bool
) -> None:
    await scene.begin()
    if started:
        await scene.agent_pass()
    for event in order:
        await scene.play(event)
        for step in between:
            await scene.play(step)
    await scene.settle()
    await _check(scene, ledger, order)
    if "suspend" in order and scene.exists:
        await scene.resume()
        await scene.settle()
        await _check(scene, ledger, order, suspended=False)


async def _check(scene: Scene, ledger: SqlLedger, order: tuple[str, ...], *, suspended: bool | None = None) -> None:
    twice = {name: count for name, count in scene.member.starts.items() if count > 1}
    assert not twice, f"{order}: an attempt ran twice: {twice}"
    assert scene.member.most_at_once <= 1, f"{order}: two attempts of one job ran at the same time"
    if "delete" in order:
        assert not scene.exists, f"{order}: the job is deleted"
        assert not scene.member.jobs, f"{order}: something of a deleted job is left on the member"
        assert not scene.leases, f"{order}: a lease of a deleted job is left"
    elif ("suspend" in order) if suspended is None else suspended:
        assert not scene.member.jobs, f"{order}: a suspended job has a workload"
    elif "remove_workload" not in order:
        assert len(scene.member.jobs) == 1, f"{order}: the job runs"
    open_attempts = {entry.attempt.lease_name for entry in await ledger.open_attempts()}
    assert open_attempts >= set(scene.member.jobs), f"{order}: what runs is in the books"
    assert not set(scene.member.starts) & open_attempts - set(scene.member.jobs), f"{order}: books of nothing are open"
