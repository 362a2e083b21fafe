"""Crowds of providers with one line each: how many claims pay them where a transaction has at most 2^24 gas."""

from __future__ import annotations

from benchmarks.gas import prices
from benchmarks.gas.cases import LIMIT, Row
from benchmarks.gas.escrow import CHALLENGE, Stage, party
from benchmarks.gas.evm import BLOCK_GAS
from benchmarks.gas.scale import claim_work, require_paid

from fedgpu_operator.settlement import Room, batches, claims, gas_cap

CROWDS = (210, 1_000, 5_000)


def crowds(stage: Stage, sizes: tuple[int, ...] = CROWDS) -> list[Row]:
    """A post and the claims of each crowd, all pairs new, divided as the settler divides them."""
    rows = []
    tenant = party("tenant of crowds")
    stage.fund(tenant, 10**9, LIMIT)
    room = Room(gas_cap(BLOCK_GAS))
    for size in sizes:
        providers = [party(f"crowd {size} {index}") for index in range(size)]
        for provider in providers:
            stage.mint(provider, 1)
        plan = stage.plan({(tenant, provider): 1_000 for provider in providers}, {tenant: 1_000 * size})
        stage.post(plan)
        stage.evm.warp(CHALLENGE)
        gas, least, most, count = 0, 0, 0, 0
        for batch in batches(claims(plan), room):
            mined = stage.claim(plan, batch)
            gas, most, count = gas + mined.gas, max(most, mined.gas), count + 1
            least += prices.floor(mined.data, claim_work(batch, new=True))
        require_paid(stage, plan)
        rows.append(Row(f"{size} providers of one line, {count} claims", gas, size, "provider", least))
        rows.append(Row(f"{size} providers of one line, the largest claim", most, target=room.gas))
    return rows
