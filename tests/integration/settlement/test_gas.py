"""What each call costs on chain, the 21k of a transaction included: a change beyond 3 % is meant or a mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedgpu_operator.domain.settlement import EpochPlan, TxReceipt
from fedgpu_operator.settlement import claims

CHALLENGE = 3600

MEASURED = {
    "deposit, first": 78_043,
    "deposit, repeat": 43_843,
    "postEpoch, 1 tenant, first": 109_550,
    "postEpoch, 1 tenant, steady": 92_846,
    "postEpoch, 10 tenants": 157_352,
    "claim, 1 line, first": 105_768,
    "claim, 1 line, steady": 71_568,
    "claim, 16 lines, first": 607_837,
    "claim, 16 lines, steady": 334_237,
}


async def settle(world: Any, plan: EpochPlan) -> tuple[TxReceipt, TxReceipt]:
    posted = await world.mined(world.settler.send(world.settler.call_post(plan)))
    world.chain.jump(CHALLENGE)
    return posted, await world.mined(world.keeper.send(world.keeper.call_claim(posted.epoch, claims(plan))))


async def test_gas(world: Any, addresses: Any, record_property: Callable[[str, object], None]) -> None:
    (p, q), used = world.providers, {}
    first, _ = await world.fund(0, 1_000_000, 500_000)
    again, _ = await world.fund(0, 1_000_000, 500_000)
    used["deposit, first"], used["deposit, repeat"] = first.gas_used, again.gas_used
    alice = world.tenants[0]
    for number in (1, 2):
        posted, paid = await settle(world, await world.plan({(alice, p): 1_000 * number}, {alice: 1_000}))
        word = {1: "first", 2: "steady"}[number]
        used[f"postEpoch, 1 tenant, {word}"], used[f"claim, 1 line, {word}"] = posted.gas_used, paid.gas_used
    holders = addresses(16)
    for tenant in holders:
        world.give(tenant, 10_000, 5_000)
    plan = await world.plan({(t, q): 10 for t in holders[:10]}, dict.fromkeys(holders[:10], 10))
    posted, _ = await settle(world, plan)
    used["postEpoch, 10 tenants"] = posted.gas_used
    for number, word in ((3, "first"), (4, "steady")):
        plan = await world.plan({(t, p): 10 * number for t in holders}, dict.fromkeys(holders, 50))
        _, paid = await settle(world, plan)
        used[f"claim, 16 lines, {word}"] = paid.gas_used
        assert len(paid.payments) == 16
    for name, gas in used.items():
        record_property(name, gas)
    assert used == {name: pytest.approx(gas, rel=0.03) for name, gas in MEASURED.items()}
