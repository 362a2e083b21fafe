"""The generated month of the benchmarks is a ledger like any other: sound, settled up to its last epoch, upgradable."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.month.history import Month, Size, make
from benchmarks.month.load import load

from fedgpu_lab.postgres import Postgres
from fedgpu_operator.adapters.ledger import SqlLedger


@pytest.fixture(scope="module")
def month() -> Month:
    return make(Size.small())


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is no ledger yet."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.db")
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create()


async def test_a_month_written_by_an_earlier_release_is_upgraded_and_sound(place: str, month: Month) -> None:
    load(place, month)
    async with await SqlLedger.open(place) as ledger:
        audit = await ledger.verify()
        assert audit.sound, audit.faults
        assert audit.rows["attempts"] == len(month.attempts)
        assert audit.rows["usage_records"] == len(month.records)
        assert audit.rows["epochs"] == month.size.epochs
        assert audit.trial_balance.postings > 0


async def test_what_it_owes_is_what_its_epochs_paid_and_what_runs(place: str, month: Month) -> None:
    load(place, month)
    async with await SqlLedger.open(place) as ledger:
        running = {each.lease: each.used(month.end) for each in month.running}
        assert {each.attempt.lease_name: each.gpu_seconds for each in await ledger.open_attempts()} == running
        snapshot = await ledger.settlement_snapshot()
        ended = [each for each in month.attempts if each.ended is not None]
        late = {each.lease for each in ended if (each.ended or 0) > month.size.epochs * 3600}
        assert {each.lease_name for each in snapshot.uncovered} == {*running, *late}
        owed = sum(each.price * each.used(each.ended or month.end) for each in month.attempts)
        assert sum(pair.numerator for pair in snapshot.pairs) == owed


async def test_one_seed_makes_one_ledger(tmp_path: Path, month: Month) -> None:
    heads = set()
    for name, made in (("one", month), ("again", make(Size.small())), ("other", make(Size.small(seed=2)))):
        load(str(tmp_path / f"{name}.db"), made)
        async with await SqlLedger.open(tmp_path / f"{name}.db") as ledger:
            heads.add(str(await ledger.head()))
    assert len(heads) == 2
