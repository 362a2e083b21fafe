"""What the chain adapter makes of a chain behind a gateway: not now is not no, and limits are lived with."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contract.chain.test_sending import signed_post

from fedgpu_lab.gateway import ETHER, NOT_NOW, PRUNED, RANGES, Gateway
from fedgpu_operator.adapters.chain import EscrowClient
from fedgpu_operator.domain.settlement import ZERO_HASH
from fedgpu_operator.domain.transactions import Fees
from fedgpu_operator.errors import (
    ChainUnreachableError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)

GWEI = 10**9


@pytest.fixture
async def gateway(world: Any) -> Gateway:
    made: Gateway = await world.stack.enter_async_context(Gateway(world.chain.rpc_url))
    return made


async def test_every_not_now_is_unknown_for_reads_receipts_and_sends(world: Any, gateway: Gateway) -> None:
    client = await world.settler(gateway.url)
    _, signed = await signed_post(world, client)
    gateway.busy_every = 1
    for _ in NOT_NOW:
        for ask in (client.epoch(1), client.receipt(ZERO_HASH), client.snapshot([], []), client.broadcast(signed)):
            with pytest.raises(ChainUnreachableError):
                await ask
    gateway.heal()
    assert await client.broadcast(signed) == signed.tx_hash
    assert (await world.mined(signed.tx_hash)).epoch == 1


async def test_what_was_sent_and_whose_reply_was_lost_is_unknown_and_counts_once(world: Any, gateway: Gateway) -> None:
    client = await world.settler(gateway.url)
    _, signed = await signed_post(world, client)
    gateway.lost_every = 1
    for _ in range(3):
        with pytest.raises(ChainUnreachableError):
            await client.broadcast(signed)
    assert (await world.mined(signed.tx_hash)).epoch == 1


@pytest.mark.parametrize("words", RANGES)
async def test_the_log_is_read_within_each_gateways_range(world: Any, gateway: Gateway, words: str) -> None:
    settler = await world.settler()
    _, signed = await signed_post(world, settler)
    await settler.broadcast(signed)
    await world.mined(signed.tx_hash)
    world.finalize()
    gateway.log_range, gateway.range_words = 7, words
    reader: EscrowClient = await world.client(gateway.url)
    found = await reader.posted(1)
    assert found is not None
    assert found.tx_hash == signed.tx_hash


@pytest.mark.parametrize("words", PRUNED)
async def test_a_node_without_the_finalized_state_is_named(world: Any, gateway: Gateway, words: str) -> None:
    world.finalize()
    gateway.state_of, gateway.pruned_words = 8, words
    client = await world.client(gateway.url)
    with pytest.raises(StatePrunedError):
        await client.snapshot([], [])
    assert await client.snapshot([], [], "latest")


async def test_a_nodes_own_limit_on_fees_is_no_reason_to_offer_more(world: Any, gateway: Gateway) -> None:
    client = await world.settler(gateway.url)
    call, signed = await signed_post(world, client)
    gateway.fee_limit = ETHER // 100
    dear = await client.sign(call, signed.nonce, Fees(1_000 * GWEI, GWEI))
    with pytest.raises(NotTakenError, match=r"exceeds the configured cap \(0.01 ether\)") as caught:
        await client.broadcast(dear)
    assert caught.value.why is Refusal.FEE_CAPPED


# geth sets no balance or base fee, drops no transaction and holds no key of its own.
@pytest.mark.chains("anvil", "hardhat")
async def test_reverts_and_refusals_under_http_400_are_what_they_are(world: Any, gateway: Gateway) -> None:
    client = await world.settler(gateway.url)
    gateway.error_status = 400
    with pytest.raises(RevertedError, match="NotActive"):
        await client.simulate(client.call_claim(7, []))
    world.chain.set_balance(client.address, 1)
    signed = await client.self_transfer(0, Fees(GWEI, GWEI))
    with pytest.raises(NotTakenError):
        await client.broadcast(signed)


async def test_a_call_goes_out_with_all_the_habits_of_gateways_at_once(world: Any, gateway: Gateway) -> None:
    client = await world.settler(gateway.url)
    _, signed = await signed_post(world, client)
    gateway.as_public_ones()
    sent = 0
    for _ in range(6):
        try:
            await client.broadcast(signed)
        except ChainUnreachableError:
            continue
        sent += 1
    assert sent
    assert (await world.mined(signed.tx_hash)).epoch == 1
