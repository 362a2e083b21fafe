"""Settlement goes on over a ledger that is archived beside it: everybody is paid once, as without."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.hub.bank import PAIR, TENANT, Bank
from tests.unit.hub.chain import WINDOW

from fedgpu_operator.adapters.ledger import archives
from fedgpu_operator.domain.ledger import Archived, ArchiveWish
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the segments go."""
    made = tmp_path / "archive"
    made.mkdir()
    return made


async def archive(bank: Bank, folder: Path, tmp_path: Path, whole: int = 20) -> Archived:
    """What the command does, by a process of its own; the operator's ledger stays open."""
    wish, now = ArchiveWish(whole=whole), bank.world.clock.now()
    return await asyncio.to_thread(archives.archive, str(tmp_path / "ledger.db"), folder, wish, now)


async def test_epochs_are_paid_once_with_an_archive_between_any_two_passes(
    bank: Bank, folder: Path, tmp_path: Path
) -> None:
    removed = 0
    for number in range(1, 5):
        if number > 1:
            await bank.used(1800, f"job-of-{number}")
        await bank.ledger.append_receipt(
            Receipt(*PAIR, MicroUSD(number), number, "0xroot"), b"\x01", b"\x02", bank.world.clock.now()
        )
        bank.world.clock.forward(120)
        for _ in range(8):
            await bank.step()
            removed += sum((await archive(bank, folder, tmp_path)).removed.values())
        bank.escrow.jump(WINDOW)
        for _ in range(3):
            await bank.step()
            removed += sum((await archive(bank, folder, tmp_path)).removed.values())
    assert await bank.stages() == ["Paid"] * 4
    assert removed > 10
    assert bank.paid == 1_250_000 + 3 * 625_000
    assert bank.world.metrics.paid_total == bank.paid
    audit = await bank.ledger.verify(folder)
    assert audit.sound, audit.faults
    assert (await bank.ledger.trial_balance()).balanced
    balances = await bank.ledger.balances()
    assert balances[f"provider/{PAIR[1]}"] == 0, "all that was charged is paid"


async def test_an_epoch_that_is_cancelled_after_an_archive_pays_only_what_is_unpaid(
    bank: Bank, folder: Path, tmp_path: Path
) -> None:
    await bank.to_the_end()
    await bank.used(1800, "second")
    bank.world.clock.forward(120)
    for _ in range(3):
        await bank.step()
    assert await bank.stages() == ["Paid", "Finalized"]
    assert not (await archive(bank, folder, tmp_path)).nothing
    bank.escrow.cancel(2)
    await bank.step()
    bank.world.clock.forward(60)
    await bank.to_the_end()
    assert await bank.stages() == ["Paid", "Cancelled", "Paid"]
    assert bank.paid == 1_875_000
    assert bank.escrow.latest.accounts[TENANT].balance == 100_000_000 - 1_875_000
    audit = await bank.ledger.verify(folder)
    assert audit.sound, audit.faults
