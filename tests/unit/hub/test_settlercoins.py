"""The settler's coins: measured across restarts, shown on the newest epoch before they run out, said once."""

from __future__ import annotations

import logging

import pytest
from tests.unit.hub.bank import Bank

from fedgpu_operator.api.base import find
from fedgpu_operator.domain.settlement import TxReceipt
from fedgpu_operator.errors import ConflictError
from fedgpu_operator.hub.services import settler as settlercoins
from fedgpu_operator.hub.services.settler import SETTLER_FUNDED, SettlerWatch
from fedgpu_operator.settlement.funding import Purse

WARN = 3 * 86_400.0


GAS = 90_000
"""Of every transaction on this chain."""


def watch(bank: Bank) -> SettlerWatch:
    """One of a process that has just started."""
    world = bank.world
    return SettlerWatch(
        world.kube, world.writers, bank.ledger, bank.escrow, world.clock, world.metrics, fee_cap=1_000, warn=WARN
    )


def seen(bank: Bank) -> Purse:
    assert bank.world.metrics.purse is not None
    return bank.world.metrics.purse


async def test_what_is_spent_is_known_right_after_a_restart(bank: Bank) -> None:
    bank.escrow.data_fee = 1_000
    await bank.to_the_end()
    await watch(bank).look()
    per_tx = GAS * bank.escrow.base_fee + 1_000
    assert seen(bank).burn == 2 * per_tx, "a post and a claim, within a day"
    gas = seen(bank).epoch - 2 * 1_000
    assert gas % (bank.escrow.base_fee + 1) == 0, "its gas at present fees, and the data fees of an epoch"
    assert seen(bank).lasts == seen(bank).balance * 86_400 / seen(bank).burn


async def test_receipts_are_read_once_and_a_few_at_a_time(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlercoins, "RECEIPTS_PER_LOOK", 1)
    await bank.to_the_end()
    asked: list[str] = []
    receipt = bank.escrow.receipt

    async def counted(tx_hash: str) -> TxReceipt | None:
        asked.append(tx_hash)
        return await receipt(tx_hash)

    monkeypatch.setattr(bank.escrow, "receipt", counted)
    watching, burns = watch(bank), []
    for _ in range(4):
        await watching.look()
        burns.append(seen(bank).burn)
        bank.world.clock.forward(60)
    assert burns == [0, *[2 * GAS * bank.escrow.base_fee] * 3], "an epoch counts when all of it is known"
    assert len(asked) == len(set(asked)) == 2


async def test_what_no_epoch_shows_is_seen_by_the_balance(bank: Bank) -> None:
    watching = watch(bank)
    await watching.look()
    for spent in (0, 5_000_000, -(10**18), 7_000_000):
        bank.world.clock.forward(60)
        bank.escrow.coins -= spent
        await watching.look()
    assert seen(bank).burn == 12_000_000


async def test_it_is_said_on_the_newest_epoch_before_it_runs_out(bank: Bank, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await bank.to_the_end()
    watching = watch(bank)
    await watching.look()
    assert bank.says(SETTLER_FUNDED) == ("True", "Funded")
    assert bank.world.events() == []
    for coins, reason in ((seen(bank).epoch * 5, "SettlerLow"), (seen(bank).next - 1, "SettlerEmpty")):
        for _ in range(3):
            bank.escrow.coins = coins
            bank.world.clock.forward(60)
            await watching.look()
        assert bank.says(SETTLER_FUNDED) == ("False", reason)
    message = find(bank.object().status.conditions, SETTLER_FUNDED)
    assert message is not None
    for words in (bank.escrow.address, "chain 31337", "send coins to it"):
        assert words in message.message
    await watch(bank).look()
    assert bank.world.events() == [("Warning", "SettlerLow"), ("Warning", "SettlerEmpty")], "once per change"
    logged = [record.levelname for record in caplog.records if "settler: " in record.message]
    assert logged == ["INFO", "WARNING", "WARNING", "WARNING"], "the last one by the process that started then"
    bank.escrow.coins = 10**18
    bank.world.clock.forward(60)
    await watching.look()
    assert bank.says(SETTLER_FUNDED) == ("True", "Funded")


async def test_only_the_newest_epoch_carries_it_and_a_newer_one_is_no_change(bank: Bank) -> None:
    await bank.to_the_end()
    watching = watch(bank)
    bank.escrow.coins = 0
    await watching.look()
    await bank.used(1800, "second")
    bank.world.clock.forward(120)
    await bank.to_the_end()
    assert bank.says(SETTLER_FUNDED, 2) == ("", "")
    await watching.look()
    assert bank.says(SETTLER_FUNDED, 2) == ("False", "SettlerEmpty")
    assert bank.says(SETTLER_FUNDED, 1) == ("", "")
    assert bank.says("Paid", 1) == bank.says("Paid", 2) == ("True", "Paid")
    assert bank.world.events() == [("Warning", "SettlerEmpty")]
    await bank.step()
    assert bank.says(SETTLER_FUNDED, 2) == ("False", "SettlerEmpty"), "the settlement loop leaves it"


async def test_a_chain_or_a_hub_that_fails_costs_a_look_and_no_more(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await bank.to_the_end()
    watching, kube = watch(bank), bank.world.kube
    bank.escrow.silent = True
    for _ in range(3):
        await watching.look()
        bank.world.clock.forward(60)
    assert bank.world.metrics.purse is None, "unknown is not zero"
    assert len([record for record in caplog.records if "cannot be looked at" in record.message]) == 1
    bank.escrow.silent = False
    patch = kube.patch_status

    async def conflicting(*_: object) -> None:
        raise ConflictError("somebody wrote", status=409)

    monkeypatch.setattr(kube, "patch_status", conflicting)
    await watching.look()
    assert bank.says(SETTLER_FUNDED) == ("", "")
    monkeypatch.setattr(kube, "patch_status", patch)
    bank.world.clock.forward(60)
    await watching.look()
    assert bank.says(SETTLER_FUNDED) == ("True", "Funded"), "what could not be written is written at the next look"


async def test_without_any_epoch_the_figures_are_there_and_the_log_says_it(
    bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    bank.escrow.coins = 0
    await watch(bank).look()
    assert (seen(bank).balance, seen(bank).epochs) == (0, 0)
    assert "SettlerEmpty" in caplog.text


async def test_a_transaction_on_its_way_needs_what_it_was_signed_with(bank: Bank) -> None:
    """Signed at a high base fee, and no node takes it: what a new one would need is no measure for it."""
    bank.escrow.base_fee, bank.escrow.purse = 60, 0
    await bank.step()
    (tx,) = await bank.ledger.transactions(epoch=1)
    bank.escrow.base_fee = 10
    needed = tx.gas * tx.max_fee
    watching = watch(bank)
    for coins, reason in ((needed, "SettlerLow"), (needed - 1, "SettlerEmpty")):
        bank.escrow.coins = coins
        await watching.look()
        bank.world.clock.forward(60)
        assert (seen(bank).next, bank.says(SETTLER_FUNDED)[1]) == (needed, reason)
