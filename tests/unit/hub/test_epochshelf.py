"""How long the hub shows an epoch and its manifest: never while anybody can still act on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.hub.bank import Bank
from tests.unit.hub.chain import WINDOW
from tests.unit.hub.world import Crash

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.domain.money import NOTHING, MicroUSD
from fedgpu_operator.domain.settlement import ChainSnapshot, Epoch, EpochDraft, EpochStage, EpochState
from fedgpu_operator.domain.terms import EscrowPeriods
from fedgpu_operator.errors import ForbiddenError
from fedgpu_operator.hub.loops import retention as epochshelf
from fedgpu_operator.hub.loops import settlement
from fedgpu_operator.hub.loops.retention import EpochShelf, is_over
from fedgpu_operator.hub.services import epochs as manifests

KEEP = 86_400
PERIODS = EscrowPeriods(challenge=100, notice=10_000, ruling=200, exit_after=1_000, longest_epoch=500)
ENDS = 1_767_268_800
"""The end of the epoch's period."""
AFTER = 1_300
"""EXIT_AFTER, then CHALLENGE and RULING of such an exit."""
MADE = datetime.fromtimestamp(ENDS, UTC)
DRAFT = EpochDraft(0, "0x0", "0xroot", b"", "0xhash", MADE, MicroUSD(1), (), ())


def epoch(stage: EpochStage, chain_epoch: int | None = 3) -> Epoch:
    return Epoch(7, DRAFT, stage, MADE, chain_epoch)


def on_chain(*, active_at: int = ENDS + 150, number: int = 3, cancelled: bool = False) -> EpochState:
    return EpochState(number, "0xroot", active_at, ENDS, NOTHING, number - 1, cancelled)


def chain(clock: int, *, active: int = 9, head: int = 9) -> ChainSnapshot:
    return ChainSnapshot(1, "0x", 1, "0x", clock, 9, head, head, "0x", active, 0, {}, {}, clock=clock)


def judged(stage: EpochStage, state: EpochState | None, view: ChainSnapshot, number: int | None = 3) -> bool:
    now = datetime.fromtimestamp(view.timestamp, UTC)
    return is_over(epoch(stage, number), state, view, PERIODS, now)


@pytest.mark.parametrize("stage", [EpochStage.PAID, EpochStage.SUPERSEDED, EpochStage.CANCELLED])
def test_an_epoch_is_over_when_the_last_of_its_windows_has_passed(stage: EpochStage) -> None:
    assert not judged(stage, on_chain(), chain(ENDS + AFTER - 1))
    assert judged(stage, on_chain(), chain(ENDS + AFTER))
    late = on_chain(active_at=ENDS + 5_000)
    assert not judged(stage, late, chain(ENDS + 5_199)), "it was posted late, and the arbiter has its time"
    assert judged(stage, late, chain(ENDS + 5_200))


def test_a_pause_of_the_contract_puts_it_off() -> None:
    view = replace(chain(ENDS + AFTER - 1), timestamp=ENDS + 10 * AFTER)
    assert not judged(EpochStage.PAID, on_chain(), view)


@pytest.mark.parametrize("stage", [EpochStage.PREPARED, EpochStage.POSTED, EpochStage.FINALIZED])
def test_an_epoch_that_can_still_change_is_not_over(stage: EpochStage) -> None:
    assert not judged(stage, on_chain(), chain(ENDS + 10 * AFTER))


def test_the_root_that_can_be_claimed_and_the_one_to_build_on_are_not_over() -> None:
    assert not judged(EpochStage.PAID, on_chain(), chain(ENDS + 10 * AFTER, active=3, head=3))
    assert not judged(EpochStage.PAID, on_chain(), chain(ENDS + 10 * AFTER, active=3, head=4))
    assert judged(EpochStage.PAID, on_chain(), chain(ENDS + 10 * AFTER, active=4, head=4))
    assert judged(EpochStage.CANCELLED, on_chain(cancelled=True), chain(ENDS + 10 * AFTER, active=2, head=2))


def test_what_the_finalized_chain_does_not_show_is_not_over() -> None:
    late = chain(ENDS + 10 * AFTER)
    assert not judged(EpochStage.PAID, None, late)
    assert not judged(EpochStage.PAID, replace(on_chain(), active_at=0), late)
    assert not judged(EpochStage.PAID, replace(on_chain(), root="0xanother"), late)


def test_an_epoch_that_never_stood_is_over_after_the_same_time() -> None:
    assert not judged(EpochStage.ABANDONED, None, chain(ENDS + AFTER - 1), None)
    assert judged(EpochStage.ABANDONED, None, chain(ENDS + AFTER), None)


# ---------------------------------------------------------------- the objects


def shelf(bank: Bank) -> EpochShelf:
    """One that remembers nothing."""
    return EpochShelf(
        bank.world.kube,
        bank.world.writers,
        bank.ledger,
        bank.escrow,
        bank.world.clock,
        namespace="fedgpu-system",
        keep=KEEP,
    )


def shown(bank: Bank) -> list[str]:
    """SettlementEpochs and pieces of manifests."""
    return sorted(name for plural, _, name in bank.world.kube.objects if plural in ("settlementepochs", "configmaps"))


async def paid(bank: Bank, epochs: int) -> None:
    """So many epochs are paid, each with a manifest in the hub's ConfigMaps."""
    for number in range(1, epochs + 1):
        if number > 1:
            await bank.used(3600, f"job-{number}")
            bank.world.clock.forward(60)
        await bank.to_the_end()
    assert await bank.stages() == ["Paid"] * epochs


def pass_time(bank: Bank, seconds: float) -> None:
    bank.world.clock.forward(seconds)
    bank.escrow.jump(int(seconds))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs are always shown, and looked at by the settlement loop."""
    for module in (epochshelf, settlement):
        monkeypatch.setattr(module, "LOOKED_AT", 2)


@pytest.fixture(autouse=True)
def archived(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Epochs count as archived up to a number, at first all of them; how archives are made is tested elsewhere."""

    def until(number: int) -> None:
        async def answer(_ledger: SqlLedger) -> int:
            return number

        monkeypatch.setattr(SqlLedger, "archived_until", answer)

    until(100)
    return until


async def test_old_epochs_go_with_their_manifests_and_the_newest_stay(bank: Bank) -> None:
    await paid(bank, 4)
    before = shown(bank)
    assert len(before) == 8
    await shelf(bank).tidy()
    assert shown(bank) == before, "they are to be shown for a day"
    pass_time(bank, KEEP)
    await shelf(bank).tidy()
    left = shown(bank)
    assert [name for name in left if name.startswith("epoch-")] == ["epoch-3", "epoch-4"]
    assert [name[:14] for name in left if name.startswith("fedgpu-")] == ["fedgpu-epoch-3", "fedgpu-epoch-4"]
    await bank.step()
    assert shown(bank) == left, "a settler that starts again does not show them again"
    assert len(await bank.ledger.epochs()) == 4, "the ledger keeps them"


async def test_windows_that_are_longer_than_the_setting_are_kept_to(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def periods() -> EscrowPeriods:
        return EscrowPeriods(WINDOW, 10 * WINDOW, WINDOW, 10 * KEEP, WINDOW)

    monkeypatch.setattr(bank.escrow, "periods", periods)
    await paid(bank, 3)
    before = shown(bank)
    pass_time(bank, 9 * KEEP)
    await shelf(bank).tidy()
    assert shown(bank) == before
    pass_time(bank, 2 * KEEP)
    await shelf(bank).tidy()
    assert shown(bank) != before


async def test_a_death_between_any_two_writes_leaves_nothing_behind(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "PIECE_BYTES", 200)
    await paid(bank, 4)
    pass_time(bank, KEEP)
    assert len(shown(bank)) >= 12, "manifests have several pieces"
    left = 0

    def die(verb: str, plural: str, name: str) -> None:
        """After so many deletions of this life."""
        nonlocal left
        if verb == "delete":
            left -= 1
            if left < 0:
                raise Crash(name)

    bank.world.kube.before = die
    for life in range(20):
        left = life
        try:
            await shelf(bank).tidy()
        except Crash:
            for number in (1, 2):
                if any(name.startswith(f"fedgpu-epoch-{number}-") for name in shown(bank)):
                    assert f"epoch-{number}" in shown(bank), "a manifest without its epoch would stay for ever"
        else:
            break
    assert life > 4
    assert {name[:14] for name in shown(bank)} == {"epoch-3", "epoch-4", "fedgpu-epoch-3", "fedgpu-epoch-4"}


async def test_a_chain_that_does_not_answer_puts_it_off(bank: Bank) -> None:
    await paid(bank, 4)
    pass_time(bank, KEEP)
    bank.escrow.silent = True
    before, keeper = shown(bank), shelf(bank)
    await keeper.tidy()
    assert shown(bank) == before
    bank.escrow.silent = False
    bank.world.clock.forward(epochshelf.EVERY.total_seconds())
    await keeper.tidy()
    assert shown(bank) != before


async def test_an_epoch_is_shown_until_it_is_archived(bank: Bank, archived: Callable[[int], None]) -> None:
    await paid(bank, 4)
    pass_time(bank, 400 * KEEP)
    archived(0)
    await shelf(bank).tidy()
    assert "epoch-1" in shown(bank)
    archived(1)
    await shelf(bank).tidy()
    assert "epoch-1" not in shown(bank)
    assert "epoch-2" in shown(bank)


async def test_epochs_of_another_ledger_are_left_alone(bank: Bank) -> None:
    await paid(bank, 4)
    pass_time(bank, KEEP)
    stranger = bank.world.kube.objects["settlementepochs", "", "epoch-1"]
    stranger["spec"]["manifestHash"] = "0x" + "77" * 32
    await shelf(bank).tidy()
    assert "epoch-1" in shown(bank)
    assert "epoch-2" not in shown(bank)


async def test_epochs_that_are_never_over_do_not_keep_the_others(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochshelf, "MOST_PER_LOOK", 1)
    await paid(bank, 5)
    pass_time(bank, KEEP)
    bank.world.kube.objects["settlementepochs", "", "epoch-1"]["spec"]["manifestHash"] = "0x" + "77" * 32
    keeper = shelf(bank)
    for _ in range(4):
        await keeper.tidy()
        bank.world.clock.forward(epochshelf.EVERY.total_seconds())
    assert [name for name in shown(bank) if name.startswith("epoch-")] == ["epoch-1", "epoch-4", "epoch-5"]


async def test_a_chain_that_does_not_answer_loses_no_turn(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochshelf, "MOST_PER_LOOK", 1)
    await paid(bank, 3)
    pass_time(bank, KEEP)
    keeper, bank.escrow.silent = shelf(bank), True
    await keeper.tidy()
    bank.escrow.silent = False
    bank.world.clock.forward(epochshelf.EVERY.total_seconds())
    await keeper.tidy()
    assert "epoch-1" not in shown(bank)


async def test_a_hub_that_does_not_allow_it_is_asked_once_a_look(bank: Bank) -> None:
    await paid(bank, 4)
    pass_time(bank, KEEP)
    tries = 0

    def refuse(verb: str, plural: str, name: str) -> None:
        nonlocal tries
        if verb == "delete":
            tries += 1
            raise ForbiddenError("no", status=403)

    bank.world.kube.before = refuse
    assert await shelf(bank).tidy() == epochshelf.EVERY / timedelta(seconds=1)
    assert tries == 1
