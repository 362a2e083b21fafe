"""A hostile chain: reorgs, lost and replaced transactions, fees, silence and lies; everybody is paid exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.child import FEE_CAP, Settler, settler
from tests.chaos.faults import Trap
from tests.chaos.field import Range, open_range

from fedgpu_lab.cluster import Cluster
from fedgpu_lab.faultychain import FaultyEndpoint
from fedgpu_operator.domain.transactions import Fees

pytestmark = pytest.mark.chains("anvil")

FINALITY = 16
GWEI = 10**9
PASSES = 12


@pytest.fixture(scope="session")
def long_range(
    hubs: tuple[Cluster, Cluster], chain_kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Range]:
    """A chain on which a block is final only when sixteen more stand on it."""
    folder: Path = tmp_path_factory.mktemp("hostile")
    with open_range(hubs[0], folder, kind=chain_kind, finality=FINALITY) as field:
        yield field


@pytest.fixture
def field(long_range: Range) -> Iterator[Range]:
    long_range.restore()
    yield long_range
    long_range.chain.automine(True)


async def ends_well(field: Range, life: Settler) -> None:
    """From here on nothing is in the way: all is paid, once, and no transaction offered more than the cap."""
    assert await life.settle(PASSES)
    await asyncio.to_thread(field.judge)
    for tx in transactions(field, life):
        assert int(tx["maxFeePerGas"], 16) <= field.site.fee_cap


def transactions(field: Range, life: Settler) -> list[dict[str, Any]]:
    """Every transaction of the settler in the chain."""
    last = int(str(field.chain.rpc("eth_blockNumber")), 16)
    blocks: list[Any] = [field.chain.rpc("eth_getBlockByNumber", hex(number), True) for number in range(last + 1)]
    settler_address = str(life.escrow.address).lower()
    return [tx for block in blocks for tx in block["transactions"] if tx["from"].lower() == settler_address]


async def until(life: Settler, kind: str) -> None:
    """Passes up to and with the one that sends a transaction of this kind."""
    for _ in range(PASSES):
        await life.step()
        if [each.kind for each in await life.ledger.intents(open_only=True)] == [kind]:
            return
        await life.move()
    raise AssertionError(f"no {kind} was sent")


@pytest.mark.parametrize("depth", range(1, 13))
async def test_reorgs_before_finality_at_each_stage_change_nothing(field: Range, depth: int) -> None:
    async with settler(field.site, Trap()) as life:
        for kind in ("post", "claim"):
            await until(life, kind)
            if depth > 1:
                field.chain.mine(depth - 1)
            nonce = await life.escrow.nonces(str(life.escrow.address))
            field.reorg(depth)
            assert (await life.escrow.nonces(str(life.escrow.address))).latest == nonce.latest - 1, "it was in a block"
        await ends_well(field, life)


@pytest.mark.parametrize("kind", ["post", "claim"])
async def test_a_dropped_transaction_is_sent_again(field: Range, kind: str) -> None:
    async with settler(field.site, Trap()) as life:
        if kind == "claim":
            await until(life, "post")
            await life.move()
        field.chain.automine(False)
        await until(life, kind)
        [intent] = await life.ledger.intents(open_only=True)
        [tx] = await life.ledger.transactions(intent=intent.id)
        field.chain.drop(tx.tx_hash)
        field.chain.automine(True)
        await ends_well(field, life)


@pytest.mark.parametrize("kind", ["post", "claim"])
async def test_a_nonce_that_went_to_another_transaction_is_given_up(field: Range, kind: str) -> None:
    async with settler(field.site, Trap()) as life:
        if kind == "claim":
            await until(life, "post")
            await life.move()
        field.chain.automine(False)
        await until(life, kind)
        [intent] = await life.ledger.intents(open_only=True)
        [tx] = await life.ledger.transactions(intent=intent.id)
        field.chain.drop(tx.tx_hash)
        field.chain.automine(True)
        other = await life.escrow.self_transfer(intent.nonce, Fees(100 * GWEI, GWEI))
        await life.escrow.broadcast(other)
        await ends_well(field, life)
        assert other.tx_hash in {tx["hash"] for tx in transactions(field, life)}


@pytest.mark.parametrize("gwei", [100, 2_000])
async def test_a_base_fee_that_rises_is_followed_up_to_the_cap(field: Range, gwei: int) -> None:
    async with settler(field.site, Trap()) as life:
        field.chain.automine(False)
        await until(life, "post")
        field.chain.set_base_fee(gwei * GWEI)
        field.chain.mine()
        assert not transactions(field, life)
        for _ in range(3):
            await life.step()
        field.chain.set_base_fee(gwei * GWEI)
        field.chain.mine()
        sent = transactions(field, life)
        assert len(sent) == (gwei * GWEI < FEE_CAP)
        field.chain.set_base_fee(GWEI)
        field.chain.automine(True)
        await ends_well(field, life)


async def test_a_gateway_that_times_out_after_it_sent(field: Range) -> None:
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(FaultyEndpoint(field.chain.rpc_url))
        site = replace(field.site, rpc_urls=(endpoint.url,), timeout=0.7)
        endpoint.swallowed.add("eth_sendRawTransaction")
        life = await stack.enter_async_context(settler(site, Trap()))
        for _ in range(3):
            await life.step()
        assert len(transactions(field, life)) == 1, "what was sent and not acknowledged is not sent a second time"
        await life.move()
        await life.step()
        endpoint.heal()
        await ends_well(field, life)


LIES = {"absent": lambda _: None, "reverted": lambda real: real and {**real, "status": "0x0", "logs": []}}


@pytest.mark.parametrize("endpoints", [1, 3])
@pytest.mark.parametrize("lie", LIES)
async def test_lies_about_receipts_pay_nobody_twice(field: Range, lie: str, endpoints: int) -> None:
    """One endpoint of three is outvoted; a lone one that lies is caught by the contract's own state."""
    async with AsyncExitStack() as stack:
        asked = [await stack.enter_async_context(FaultyEndpoint(field.chain.rpc_url)) for _ in range(endpoints)]
        asked[0].lies["eth_getTransactionReceipt"] = LIES[lie]
        site = replace(field.site, rpc_urls=tuple(each.url for each in asked))
        life = await stack.enter_async_context(settler(site, Trap()))
        if endpoints == 1:
            # Where nobody contradicts, it may have to wait for the truth; it must not act on the lie.
            for _ in range(4):
                await life.step()
                await life.move()
            asked[0].heal()
        await ends_well(field, life)
        assert len(transactions(field, life)) == 2, "a post and a claim"


@pytest.mark.parametrize("lag", [1, 3])
async def test_an_endpoint_that_is_behind_only_delays(field: Range, lag: int) -> None:
    field.chain.mine(lag)
    async with FaultyEndpoint(field.chain.rpc_url) as endpoint:
        endpoint.lag = lag
        async with settler(replace(field.site, rpc_urls=(endpoint.url,)), Trap()) as life:
            await ends_well(field, life)
            assert len(transactions(field, life)) == 2


async def test_endpoints_of_which_most_are_silent_stop_settlement_and_lose_nothing(field: Range) -> None:
    async with AsyncExitStack() as stack:
        asked = [await stack.enter_async_context(FaultyEndpoint(field.chain.rpc_url)) for _ in range(3)]
        site = replace(field.site, rpc_urls=tuple(each.url for each in asked), timeout=1.5)
        for each in asked[:2]:
            each.silent.add("*")
        life = await stack.enter_async_context(settler(site, Trap()))
        assert not await life.step()
        assert not transactions(field, life)
        asked[0].heal()
        await ends_well(field, life)
