"""Kept bytes against a chain that drops, reorganizes, takes the nonce away or asks a hundred times the price."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from fedgpu_operator.domain.settlement import ZERO_HASH, SignedTx
from fedgpu_operator.domain.transactions import Call, Fees, FeeView
from fedgpu_operator.errors import ChainError, NotTakenError, Refusal, RevertedError
from fedgpu_operator.settlement.fees import bumped, first_fees, underpriced

GWEI = 10**9
CAP = 500 * GWEI
STRANGER = "0x" + "5e" * 20


async def posting(world: Any, client: Any) -> Call:
    """A post of the first epoch with its gas."""
    owner = world.address(5)
    call: Call = client.call_post(await world.plan(client, {(owner, STRANGER): 10}, {owner: 10}))
    return replace(call, gas=await client.simulate(call))


async def signed_post(world: Any, client: Any, cap: int = CAP) -> tuple[Call, SignedTx]:
    call = await posting(world, client)
    nonces = await client.nonces(client.address)
    assert nonces.latest == nonces.pending
    return call, await client.sign(call, nonces.latest, first_fees(await client.suggest_fees(), cap))


async def test_what_was_signed_says_what_it_offers(world: Any) -> None:
    client = await world.settler()
    call, signed = await signed_post(world, client)
    again = await client.sign(call, signed.nonce, Fees(signed.max_fee, signed.tip))
    assert again == signed, "the same terms give the same bytes"
    await client.broadcast(signed)
    receipt = await world.mined(signed.tx_hash, client)
    assert receipt.epoch == 1
    assert 0 < receipt.gas_price <= signed.max_fee
    assert receipt.gas_used <= call.gas


async def test_a_call_without_gas_is_not_signed(world: Any) -> None:
    client = await world.settler()
    call = replace(await posting(world, client), gas=0)
    with pytest.raises(ChainError, match="must be simulated first"):
        await client.sign(call, 0, Fees(GWEI, GWEI))


async def test_a_call_that_would_fail_is_refused_by_simulation(world: Any) -> None:
    client = await world.settler()
    with pytest.raises(RevertedError, match=r"NotActive\(epoch=7, active=0\)"):
        await client.simulate(client.call_claim(7, []))


@pytest.mark.chains("anvil")
@pytest.mark.parametrize("depth", range(1, 13))
async def test_a_reorg_before_finality_is_undone_by_the_same_bytes(world: Any, depth: int) -> None:
    client = await world.settler()
    before = await client.nonces(client.address)
    _, signed = await signed_post(world, client)
    await client.broadcast(signed)
    mined = await world.mined(signed.tx_hash, client)
    world.chain.mine(depth - 1) if depth > 1 else None
    world.chain.reorg(depth)
    assert await client.receipt(signed.tx_hash) is None
    nonces = await client.nonces(client.address)
    assert (nonces.finalized, nonces.latest) == (before.finalized, signed.nonce)
    assert (await client.snapshot([], [], "latest")).head_root == ZERO_HASH
    await client.broadcast(signed)
    again = await world.mined(signed.tx_hash, client)
    assert (again.epoch, again.block_hash != mined.block_hash) == (1, True)
    world.finalize()
    assert (await client.nonces(client.address)).finalized == signed.nonce + 1
    assert (await client.posted(1)).tx_hash == signed.tx_hash
    assert await client.posted(2) is None


@pytest.mark.chains("anvil")
@pytest.mark.parametrize("depth", [1, 12])
async def test_a_rollback_is_a_shorter_chain_and_nothing_worse(world: Any, depth: int) -> None:
    client = await world.settler()
    _, signed = await signed_post(world, client)
    await client.broadcast(signed)
    await world.mined(signed.tx_hash, client)
    world.chain.mine(depth - 1) if depth > 1 else None
    world.chain.own("rollback", depth)
    assert await client.receipt(signed.tx_hash) is None
    await client.broadcast(signed)
    assert (await world.mined(signed.tx_hash, client)).epoch == 1


# geth sets no balance or base fee, drops no transaction and holds no key of its own.
@pytest.mark.chains("anvil", "hardhat")
async def test_a_dropped_transaction_is_sent_again_byte_for_byte(world: Any) -> None:
    client = await world.settler()
    _, signed = await signed_post(world, client)
    await client.broadcast(signed)
    assert (await client.nonces(client.address)).pending == signed.nonce + 1
    world.chain.drop(signed.tx_hash)
    assert (await client.nonces(client.address)).pending == signed.nonce
    world.chain.mine()
    assert await client.receipt(signed.tx_hash) is None
    assert await client.broadcast(signed) == signed.tx_hash
    assert await client.broadcast(signed) == signed.tx_hash
    assert (await world.mined(signed.tx_hash, client)).epoch == 1


async def test_of_two_versions_of_one_nonce_one_is_mined(world: Any) -> None:
    client = await world.settler()
    call, first = await signed_post(world, client)
    await client.broadcast(first)
    fees = bumped(Fees(first.max_fee, first.tip), await client.suggest_fees(), CAP)
    assert fees is not None
    second = await client.sign(call, first.nonce, fees)
    await client.broadcast(second)
    world.chain.mine()
    assert await client.receipt(first.tx_hash) is None
    assert (await client.receipt(second.tx_hash)).epoch == 1
    with pytest.raises(NotTakenError, match="nonce too low"):
        await client.broadcast(first)


async def test_a_version_that_offers_no_more_replaces_nothing(world: Any) -> None:
    client = await world.settler()
    _, first = await signed_post(world, client)
    await client.broadcast(first)
    rival = await client.self_transfer(first.nonce, Fees(first.max_fee, first.tip))
    with pytest.raises(NotTakenError, match="underpriced"):
        await client.broadcast(rival)


async def test_a_nonce_that_somebody_else_took_shows_in_the_finalized_count(world: Any) -> None:
    client, thief = await world.settler(), await world.settler()
    _, signed = await signed_post(world, client)
    taken = await thief.self_transfer(signed.nonce, Fees(2 * signed.max_fee, 2 * signed.tip))
    await thief.broadcast(taken)
    world.chain.mine()
    with pytest.raises(NotTakenError, match="nonce too low"):
        await client.broadcast(signed)
    assert (await client.nonces(client.address)).finalized == signed.nonce, "not for good yet"
    world.finalize()
    assert (await client.nonces(client.address)).finalized == signed.nonce + 1
    assert await client.receipt(signed.tx_hash) is None
    assert (await client.receipt(taken.tx_hash)).succeeded


async def test_a_stuck_nonce_is_freed_by_a_transfer_to_oneself(world: Any) -> None:
    client = await world.settler()
    call = await posting(world, client)
    view, nonces = await client.suggest_fees(), await client.nonces(client.address)
    ahead = await client.sign(call, nonces.latest + 1, first_fees(view, CAP))
    await client.broadcast(ahead)
    world.chain.mine()
    assert await client.receipt(ahead.tx_hash) is None, "there is a gap before it"
    filling = await client.self_transfer(nonces.latest, first_fees(view, CAP))
    await client.broadcast(filling)
    world.chain.mine()
    assert (await client.receipt(filling.tx_hash)).gas_used == 21_000
    assert (await client.receipt(ahead.tx_hash)).epoch == 1


# geth sets no balance or base fee, drops no transaction and holds no key of its own.
@pytest.mark.chains("anvil", "hardhat")
async def test_a_base_fee_a_hundred_times_higher_is_followed_and_the_cap_is_not_passed(world: Any) -> None:
    client = await world.settler()
    call, signed = await signed_post(world, client)
    before = await client.suggest_fees()
    await client.broadcast(signed)
    world.chain.set_base_fee(100 * before.base_fee)
    world.chain.mine()
    assert await client.receipt(signed.tx_hash) is None, "too cheap for that block"
    risen = await client.suggest_fees()
    assert risen.base_fee == 100 * before.base_fee
    assert underpriced(Fees(signed.max_fee, signed.tip), risen)
    assert bumped(Fees(signed.max_fee, signed.tip), risen, signed.max_fee) is None, "a cap there means: wait"
    fees = bumped(Fees(signed.max_fee, signed.tip), risen, CAP)
    assert fees is not None
    dearer = await client.sign(call, signed.nonce, fees)
    await client.broadcast(dearer)
    receipt = await world.mined(dearer.tx_hash, client)
    assert receipt.epoch == 1
    assert before.base_fee < receipt.gas_price <= dearer.max_fee <= CAP
    # The chain is that of other tests too, in whatever order they come.
    world.chain.set_base_fee(before.base_fee)
    world.chain.mine()


# Others keep in their pools what is too cheap for the next block.
@pytest.mark.chains("anvil")
async def test_under_the_cap_a_transaction_waits_until_the_chain_is_cheap_again(world: Any) -> None:
    client = await world.settler()
    calm = await client.suggest_fees()
    cap = 3 * (calm.base_fee + calm.tip)
    world.chain.set_base_fee(100 * cap)
    world.chain.mine()
    call = await posting(world, client)
    fees = first_fees(await client.suggest_fees(), cap)
    assert fees.max_fee == cap
    signed = await client.sign(call, (await client.nonces(client.address)).latest, fees)
    with pytest.raises(ChainError, match="max fee per gas less than block base fee"):
        await client.broadcast(signed)
    world.chain.set_base_fee(calm.base_fee)
    world.chain.mine()
    assert await client.suggest_fees() == FeeView(calm.base_fee, calm.tip)
    await client.broadcast(signed)
    assert (await world.mined(signed.tx_hash, client)).gas_price <= cap


REFUSALS = [
    ("InsufficientFunds, Account balance: 1", Refusal.POOR),
    ("Upfront cost exceeds account balance", Refusal.POOR),
    ("tx fee (1.20 ether) exceeds the configured cap (1.00 ether)", Refusal.FEE_CAPPED),
    ("transaction gas limit too high (cap: 16777216, tx: 17400000)", Refusal.TOO_LARGE),
    ("FeeTooLow", Refusal.UNDERPRICED),
    ("OldNonce", Refusal.NONCE_USED),
    ("what nobody has heard", Refusal.OTHER),
]


# geth sets no balance or base fee, drops no transaction and holds no key of its own.
@pytest.mark.chains("anvil", "hardhat")
async def test_why_a_transaction_is_not_taken_is_known_whichever_client_refuses(world: Any) -> None:
    (endpoint,) = await world.endpoints(1)
    client = await world.settler(endpoint.url)
    _, signed = await signed_post(world, client)
    world.chain.set_balance(client.address, 1)
    with pytest.raises(NotTakenError, match=r"(?i)(insufficient|enough) funds") as caught:
        await client.broadcast(signed)
    assert caught.value.why is Refusal.POOR
    for words, why in REFUSALS:
        endpoint.errors["eth_sendRawTransaction"] = {"code": -32000, "message": words}
        with pytest.raises(NotTakenError, match=re.escape(words)) as caught:
            await client.broadcast(signed)
        assert caught.value.why is why


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("gas required exceeds allowance (16777216)", Refusal.TOO_LARGE),
        ("insufficient funds for transfer", Refusal.POOR),
    ],
)
async def test_an_estimate_says_that_no_node_would_take_the_call(world: Any, words: str, why: Refusal) -> None:
    (endpoint,) = await world.endpoints(1)
    client = await world.settler(endpoint.url)
    endpoint.errors["eth_estimateGas"] = {"code": -32000, "message": words}
    with pytest.raises(NotTakenError, match=re.escape(words)) as caught:
        await posting(world, client)
    assert caught.value.why is why
