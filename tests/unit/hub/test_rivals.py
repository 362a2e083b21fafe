"""What others may do to this hub's settlement on the same escrow: it goes on, and pays everybody once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.hub.bank import TENANT, Bank
from tests.unit.hub.chain import WINDOW

from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import EpochPlan
from fedgpu_operator.errors import ForbiddenError
from fedgpu_operator.ports import ResourceType
from fedgpu_operator.settlement import Terms, build_epoch

WHOLE = 1_250_000


def foreign(bank: Bank) -> EpochPlan:
    """An epoch of another settler, over pairs that this hub knows nothing of."""
    books = bank.escrow.latest
    head = books.head
    return build_epoch(
        chain_id=bank.escrow.chain_id,
        escrow=bank.escrow.escrow,
        seq=books.seq,
        prev_root=head.root if head else "0x" + "00" * 32,
        period_end=books.timestamp,
        pairs={("0x" + "0a" * 20, "0x" + "0b" * 20): MicroUSD(7)},
        debits={},
    )


async def test_a_root_that_another_settler_built_over_is_settled_anew(bank: Bank) -> None:
    for _ in range(3):
        await bank.step()
    assert await bank.stages() == ["Finalized"]
    bank.escrow.jump(WINDOW)
    bank.escrow.post_as_another(foreign(bank))
    bank.escrow.jump(WINDOW)
    await bank.step()
    assert (await bank.stages())[0] == "Superseded"
    assert bank.says("Paid") == ("False", "SupersededByAnotherSettler")
    bank.world.clock.forward(61)
    await bank.to_the_end()
    assert (await bank.stages())[-1] == "Paid"
    assert bank.paid == WHOLE
    assert bank.escrow.latest.accounts[TENANT].balance == 100_000_000 - WHOLE


async def test_who_makes_every_post_stale_delays_it_by_a_pass_and_not_by_an_interval(bank: Bank) -> None:
    bank.terms = Terms(every=timedelta(hours=1), at_most=timedelta(days=7))
    bank.world.clock.forward(3_600)
    for _ in range(3):
        await bank.step(mine=False)
        bank.escrow.latest.seq += 1
        bank.escrow.mine()
        bank.escrow.finalize()
        await bank.step(mine=False)
        bank.world.clock.forward(60)
    assert (await bank.stages())[:3] == ["Abandoned"] * 3
    await bank.to_the_end()
    assert (await bank.stages())[-1] == "Paid"
    assert bank.paid == WHOLE


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_small_payout_waits_but_not_for_a_tenant_that_leaves(bank: Bank, leaves: bool) -> None:
    bank.terms = replace(bank.terms, min_payout=MicroUSD(WHOLE + 1))
    if leaves:
        account = bank.escrow.latest.accounts[TENANT]
        bank.escrow.latest.accounts[TENANT] = replace(account, withdraw_units=account.balance, withdraw_at=1)
        bank.escrow.finalize()
    await bank.to_the_end()
    assert await bank.stages() == (["Paid"] if leaves else [])


async def test_a_small_payout_waits_no_longer_than_an_epoch_may(bank: Bank) -> None:
    bank.terms = Terms(every=timedelta(seconds=60), at_most=timedelta(hours=1), min_payout=MicroUSD(WHOLE + 1))
    bank.world.clock.forward(3_600 - 61)
    await bank.step()
    assert await bank.stages() == []
    await bank.step()
    assert await bank.stages() == ["Posted"]


async def test_a_hub_that_does_not_take_the_object_holds_up_no_money(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = bank.world.kube.create

    async def refusing(kind: ResourceType, obj: JSONObject) -> JSONObject:
        if kind.kind == "SettlementEpoch":
            raise ForbiddenError("not allowed", status=403)
        return await create(kind, obj)

    monkeypatch.setattr(bank.world.kube, "create", refusing)
    await bank.to_the_end()
    assert await bank.stages() == ["Paid"]
    assert bank.paid == WHOLE
