"""Three endpoints of one chain, of which one or two fail in every way: what is read is true, or unknown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from fedgpu_lab.faultychain import FaultyEndpoint
from fedgpu_operator.adapters.chain import EscrowClient, TenantWallet, calls
from fedgpu_operator.domain.settlement import ZERO_HASH
from fedgpu_operator.domain.transactions import FeeView
from fedgpu_operator.errors import (
    ChainMismatchError,
    ChainUnreachableError,
    ConfigurationError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)

Fault = Callable[[FaultyEndpoint], None]
STRANGER = "0x" + "5e" * 20


def silent(endpoint: FaultyEndpoint) -> None:
    endpoint.silent.add("*")


def refusing(endpoint: FaultyEndpoint) -> None:
    endpoint.refused |= {"eth_call", "eth_getBlockByNumber", "eth_getTransactionReceipt", "eth_getTransactionCount"}


def behind(endpoint: FaultyEndpoint) -> None:
    endpoint.lag = 3


def elsewhere(endpoint: FaultyEndpoint) -> None:
    endpoint.chain_id = 1


def lying(endpoint: FaultyEndpoint) -> None:
    endpoint.lies = {
        "eth_call": lambda answer: "0x" + "f" * (len(answer) - 2),
        "eth_getBlockByNumber": lambda block: block and block | {"number": hex(int(block["number"], 16) + 900)},
        "eth_getTransactionReceipt": lambda receipt: receipt and receipt | {"status": "0x0", "logs": []},
        "eth_getTransactionCount": lambda count: hex(int(count, 16) + 7),
        "eth_getLogs": lambda logs: [],
        "eth_getCode": lambda code: "0x",
    }


FAULTS = [silent, refusing, behind, elsewhere, lying]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("place", [0, 2])
async def test_one_of_three_that_fails_changes_nothing(world: Any, fault: Fault, place: int) -> None:
    tenant = await world.tenant()
    minted = await world.mined(await tenant.mint(world.deployment.token, 1))
    world.finalize()
    three = await world.endpoints(3)
    fault(three[place])
    honest, client = await world.client(), await world.client(*(each.url for each in three), patience=60)
    # An endpoint that is silent for a minute holds nobody up.
    async with asyncio.timeout(30):
        await client.verify()
        assert await client.snapshot([tenant.address], []) == await honest.snapshot([tenant.address], [])
        assert await client.receipt(minted.tx_hash) == minted
        assert await client.receipt(ZERO_HASH) is None
        nonces = await client.nonces(tenant.address)
        assert (nonces.finalized, nonces.latest) == (5, 5)
        assert await client.disputes() == ()


async def test_gas_and_tip_are_not_set_by_one_that_exaggerates(world: Any) -> None:
    three = await world.endpoints(3)
    honest = await world.settler()
    settler = await world.settler(*(each.url for each in three))
    owner = world.address(5)
    call = honest.call_post(await world.plan(honest, {(owner, STRANGER): 10}, {owner: 10}))
    three[1].lies = {"eth_estimateGas": lambda gas: "0xffffff", "eth_maxPriorityFeePerGas": lambda tip: hex(10**15)}
    assert await settler.simulate(call) == await honest.simulate(call)
    assert await settler.suggest_fees() == await honest.suggest_fees()
    three[1].lies = {"eth_estimateGas": lambda gas: "0x1", "eth_maxPriorityFeePerGas": lambda tip: "0x0"}
    assert await settler.simulate(call) == await honest.simulate(call)
    assert await settler.suggest_fees() == await honest.suggest_fees()


async def test_a_nonce_is_taken_by_what_a_quorum_has_in_its_pools(world: Any) -> None:
    three = await world.endpoints(3)
    tenant = TenantWallet([each.url for each in three], world.chain.accounts[5].private_key)
    await world.stack.enter_async_context(tenant)
    there = (await tenant.nonces()).pending

    three[1].lies = {"eth_getTransactionCount": lambda nonce: hex(there + 1000)}
    assert (await tenant.nonces()).pending == there
    three[1].lies = {}
    await tenant.mint(world.deployment.token, 1)
    assert (await tenant.nonces()).pending == there + 1
    three[1].lies = {"eth_getTransactionCount": lambda nonce: hex(there)}
    assert (await tenant.nonces()).pending == there + 1, "what two of three know is taken"


# Hardhat's eth_gasPrice is one of the next block, whose base fee is another.
@pytest.mark.chains("anvil")
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_fees_are_known_without_the_method_for_tips(world: Any, count: int) -> None:
    several = await world.endpoints(count)
    client = await world.client(*(each.url for each in several))
    known = await (await world.client()).suggest_fees()
    several[0].errors["eth_maxPriorityFeePerGas"] = {"code": -32601, "message": "the method does not exist"}
    if count == 3:
        several[1].errors["eth_maxPriorityFeePerGas"] = {"code": -32004, "message": "Method x is not supported"}
    paid = [["0x7"], ["0x0"], ["0x9"], ["0x8"], ["0x0"]]
    for endpoint in several:
        endpoint.lies["eth_feeHistory"] = lambda history: history | {"reward": paid}
    assert await client.suggest_fees() == FeeView(known.base_fee, tip=8), "what the newest blocks paid"
    several[-1].lies["eth_feeHistory"] = lambda history: history | {"reward": paid, "gasUsedRatio": [0.5000001]}
    assert (await client.suggest_fees()).tip == 8, "clients round what is not compared in their own way"
    for endpoint in several:
        endpoint.lies["eth_feeHistory"] = lambda history: history | {"reward": [["0x0"]] * 5}
        endpoint.lies["eth_gasPrice"] = lambda price: hex(known.base_fee + 5)
    assert await client.suggest_fees() == FeeView(known.base_fee, tip=5), "nobody paid a tip"
    several[0].errors["eth_feeHistory"] = {"code": -32601, "message": "the method does not exist"}
    assert (await client.suggest_fees()).tip == 5
    for endpoint in several:
        endpoint.lies["eth_gasPrice"] = lambda price: hex(known.base_fee)
    assert (await client.suggest_fees()).tip == 0, "a chain without tips keeps its zero"
    for endpoint in several:
        endpoint.lies["eth_getBlockByNumber"] = lambda block: {
            name: value for name, value in block.items() if name != "baseFeePerGas"
        }
    assert await client.suggest_fees() == FeeView(base_fee=0, tip=known.base_fee), "a chain without a base fee"


LIMITED = {"code": -32005, "message": "daily request count exceeded, request rate limited"}
GONE = {"code": -32000, "message": "missing trie node 5f1a (path ) state 0x5f1a is not available, not found"}


async def test_who_says_not_now_has_no_vote(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.client(*(each.url for each in three))
    known = await client.epoch(1)
    three[0].errors["eth_call"] = LIMITED
    assert await client.epoch(1) == known
    three[1].errors["eth_call"] = {"code": -32000, "message": "header not found"}
    with pytest.raises(ChainUnreachableError, match="request rate limited") as caught:
        await client.epoch(1)
    assert "header not found" in str(caught.value)


async def test_a_node_without_the_state_has_no_vote_and_a_quorum_of_them_is_named(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.client(*(each.url for each in three))
    known = await client.epoch(1)
    three[0].errors["eth_call"] = GONE
    assert await client.epoch(1) == known
    three[1].errors["eth_call"] = {"code": -32603, "message": "state at block #17 is pruned"}
    with pytest.raises(StatePrunedError, match="an archive node"):
        await client.epoch(1)
    three[1].errors["eth_call"] = LIMITED
    with pytest.raises(ChainUnreachableError, match="missing trie node"):
        await client.epoch(1)


async def test_clients_that_refuse_in_different_words_agree(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.settler(*(each.url for each in three))
    data = "0x08c379a0" + f"{32:064x}" + f"{6:064x}" + b"paused".hex().ljust(64, "0")
    three[0].errors["eth_estimateGas"] = {"code": 3, "message": "execution reverted: paused", "data": data}
    three[1].errors["eth_estimateGas"] = {"code": -32015, "message": "VM execution error.", "data": f"Reverted {data}"}
    three[2].errors["eth_estimateGas"] = {
        "code": -32603,
        "message": "Error: VM Exception while processing transaction: reverted with reason string 'paused'",
        "data": {"message": "Error", "data": data},
    }
    for silent in three:
        silent.silent.add("eth_estimateGas")
        with pytest.raises(RevertedError, match=r": paused$"):
            await client.simulate(client.call_claim(1, []))
        silent.silent.clear()


async def test_a_refused_send_is_unknown_unless_a_quorum_refuses_it(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.settler(*(each.url for each in three))
    signed = await client.prepare(client.call_post(await _any_plan(world, client)))
    for endpoint in three:
        endpoint.errors["eth_sendRawTransaction"] = {"code": -32000, "message": "what nobody has heard"}
    for endpoint in three[1:]:
        endpoint.errors["eth_sendRawTransaction"] = LIMITED
    with pytest.raises(ChainUnreachableError, match="request rate limited"):
        await client.broadcast(signed)
    three[1].errors["eth_sendRawTransaction"] = {"code": -32000, "message": "exceeds block gas limit"}
    with pytest.raises(NotTakenError, match="exceeds block gas limit") as caught:
        await client.broadcast(signed)
    assert (caught.value.why, caught.value.certain) == (Refusal.TOO_LARGE, False)
    three[2].errors["eth_sendRawTransaction"] = {"code": -32000, "message": "already known"}
    assert await client.broadcast(signed) == signed.tx_hash


async def test_a_refusal_of_the_contract_needs_a_quorum_too(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.client(*(each.url for each in three), account=world.chain.accounts[6])
    three[0].lies["eth_estimateGas"] = lambda gas: "0x5208"
    with pytest.raises(RevertedError, match="AccessControlUnauthorizedAccount"):
        await client.send(calls.encode(client.escrow, "cancelEpoch", [1]))


async def test_two_that_lie_differently_leave_nothing_known(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.client(*(each.url for each in three))
    assert await client.epoch(1)
    for index, endpoint in enumerate(three[:2]):
        endpoint.lies["eth_call"] = lambda answer, by=index: hex(0xABC + by)
    with pytest.raises(ChainUnreachableError, match="do not agree") as caught:
        await client.epoch(1)
    assert all(each.url.removeprefix("http://") in str(caught.value) for each in three)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_two_of_two_must_agree(world: Any, fault: Fault) -> None:
    two = await world.endpoints(2)
    client = await world.client(*(each.url for each in two), quorum=2, patience=0.5)
    minted = await world.mined(await (await world.tenant()).mint(world.deployment.token, 1))
    assert await client.receipt(minted.tx_hash) == minted
    fault(two[1])
    # Found by the chain id only when somebody comes back, so this one is a stranger from the beginning.
    again = await world.client(*(each.url for each in two), quorum=2, patience=0.5)
    with pytest.raises(ChainUnreachableError):
        await again.receipt(minted.tx_hash)


async def test_a_receipt_that_only_one_shows_is_no_receipt(world: Any) -> None:
    three = await world.endpoints(3)
    minted = await world.mined(await (await world.tenant()).mint(world.deployment.token, 1))
    client = await world.client(*(each.url for each in three))
    shown = dict(world.chain.rpc("eth_getTransactionReceipt", minted.tx_hash))
    three[2].lies["eth_getTransactionReceipt"] = lambda receipt: shown
    assert await client.receipt("0x" + "ab" * 32) is None
    for endpoint in three[:2]:
        endpoint.lies["eth_getTransactionReceipt"] = lambda receipt: None
    assert await client.receipt(minted.tx_hash) is None, "two nulls from endpoints that are up to date"


async def test_who_has_not_got_to_the_finalized_block_cannot_say_no(world: Any) -> None:
    """The dangerous case: two that were restored from an old copy deny a transaction that is final."""
    three = await world.endpoints(3)
    minted = await world.mined(await (await world.tenant()).mint(world.deployment.token, 1))
    world.finalize()
    client = await world.client(*(each.url for each in three))
    assert (await client.snapshot([], [])).block_number >= minted.block_number
    for endpoint in three[:2]:
        endpoint.lag = 20
    with pytest.raises(ChainUnreachableError, match="has not got to block"):
        await client.receipt(minted.tx_hash)
    three[0].lag = 0
    assert await client.receipt(minted.tx_hash) == minted


@pytest.mark.parametrize("count", [1, 3])
async def test_the_finalized_block_never_goes_back(world: Any, count: int) -> None:
    """The endpoint ahead fails, or a balancer asks a node that is behind: what was final a moment ago still is."""
    several, tenant, settler = await world.endpoints(count), await world.tenant(), await world.settler()
    owner = world.address(5)
    plan = await world.plan(settler, {(owner, STRANGER): 9_000_000}, {owner: 9_000_000})
    await world.mined(await settler.send(settler.call_post(plan)))
    world.finalize()
    client = await world.client(*(each.url for each in several))
    assert await client.disputes() == ()
    await world.mined(await tenant.dispute_debit(world.escrow, 3_000_000))
    world.finalize()
    several[-1].lag = 3 if count > 1 else 0
    (dispute,) = await client.disputes()
    before = await client.snapshot([], [])
    several[0].lag = 3
    assert await client.snapshot([], []) == before
    assert await client.disputes() == (dispute,)
    for endpoint in several:
        endpoint.lag = 30
    for read in (client.disputes, lambda: client.snapshot([], []), lambda: client.holds_role("METER", owner)):
        with pytest.raises(ChainUnreachableError, match="fell behind"):
            await read()
    for endpoint in several:
        endpoint.heal()
    assert await client.disputes() == (dispute,)
    world.chain.mine()
    assert (await client.snapshot([], [])).block_number == before.block_number + 1


async def test_a_tag_is_the_newest_block_that_a_quorum_has(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.client(*(each.url for each in three))
    head = (await client.snapshot([], [], "latest")).block_number
    three[0].lag = 2
    assert (await client.snapshot([], [], "latest")).block_number == head
    three[1].lag = 1
    assert (await client.snapshot([], [], "latest")).block_number == head - 1
    three[2].lies["eth_getBlockByNumber"] = lambda block: block and block | {"hash": "0x" + "77" * 32}
    assert (await client.snapshot([], [], "latest")).block_number == head - 2


async def test_state_is_read_at_the_block_that_a_quorum_has_reached(world: Any) -> None:
    """Each of the three is at another block, and the count differs in each: read by tag, no two would agree."""
    three, tenant = await world.endpoints(3), await world.tenant()
    for _ in range(2):
        await world.mined(await tenant.mint(world.deployment.token, 1))
    for lag, endpoint in enumerate(three):
        endpoint.lag = lag
    before = (await (await world.client()).nonces(tenant.address)).latest
    assert (await (await world.client(*(each.url for each in three))).nonces(tenant.address)).latest == before - 1


@pytest.mark.chains("anvil")
async def test_a_reorg_that_runs_through_a_snapshot_is_noticed(world: Any) -> None:
    (endpoint,) = await world.endpoints(1)
    client = await world.client(endpoint.url)
    await client.verify()
    await world.mined(await (await world.tenant()).mint(world.deployment.token, 1))
    before = await client.snapshot([world.address(5)], [], "latest")

    def after_a_reorg(answer: str) -> str:
        endpoint.heal()
        world.chain.reorg(1)
        return answer

    endpoint.lies["eth_call"] = after_a_reorg
    with pytest.raises(ChainUnreachableError, match=f"block {before.block_number} was replaced while it was read"):
        await client.snapshot([world.address(5)], [], "latest")
    assert (await client.snapshot([], [], "latest")).block_hash != before.block_hash


async def test_a_transaction_goes_to_all_and_one_taker_is_enough(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.settler(*(each.url for each in three), patience=0.5)
    signed = await client.prepare(client.call_post(await _any_plan(world, client)))
    three[0].silent.add("eth_sendRawTransaction")
    three[1].refused.add("eth_sendRawTransaction")
    assert await client.broadcast(signed) == signed.tx_hash
    assert [each.calls["eth_sendRawTransaction"] for each in three] == [1, 1, 1]
    three[0].heal()
    assert await client.broadcast(signed) == signed.tx_hash, "the same bytes again"
    assert (await world.mined(signed.tx_hash, client)).epoch == 1


async def test_a_reply_that_is_lost_leaves_a_transaction_unknown(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.settler(*(each.url for each in three), patience=0.5)
    signed = await client.prepare(client.call_post(await _any_plan(world, client)))
    three[0].swallowed.add("eth_sendRawTransaction")
    for endpoint in three[1:]:
        endpoint.errors["eth_sendRawTransaction"] = {"code": -32000, "message": "txpool is full"}
    with pytest.raises(ChainUnreachableError, match="txpool is full"):
        await client.broadcast(signed)
    assert (await world.mined(signed.tx_hash, client)).epoch == 1, "it was on its way all the same"
    for endpoint in three:
        endpoint.heal()
    with pytest.raises(NotTakenError, match="nonce too low"):
        await client.broadcast(signed)


async def test_who_takes_a_transaction_and_forwards_none_proves_nothing(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.settler(*(each.url for each in three))
    signed = await client.prepare(client.call_post(await _any_plan(world, client)))
    for endpoint in three:
        endpoint.deaf = True
    assert await client.broadcast(signed) == signed.tx_hash
    world.chain.mine()
    assert await client.receipt(signed.tx_hash) is None
    three[0].deaf = False
    await client.broadcast(signed)
    assert (await world.mined(signed.tx_hash, client)).epoch == 1


async def test_a_quorum_on_another_chain_is_refused_for_good(world: Any) -> None:
    three = await world.endpoints(3)
    for endpoint in three[:2]:
        endpoint.chain_id = 1
    client = await world.client(*(each.url for each in three))
    for read in (client.verify, lambda: client.snapshot([], []), lambda: client.receipt(ZERO_HASH)):
        with pytest.raises(ChainMismatchError, match="serves chain 1, "):
            await read()


async def test_an_endpoint_that_comes_back_as_another_chain_does_not_count(world: Any) -> None:
    three = await world.endpoints(3)
    client = await world.client(*(each.url for each in three), patience=0.3)
    assert await client.receipt(ZERO_HASH) is None
    three[1].silent.add("*")
    assert await client.receipt(ZERO_HASH) is None
    await _all_said(client)
    three[1].heal()
    three[1].chain_id = 1
    three[2].refused.add("eth_getTransactionReceipt")
    with pytest.raises(ChainUnreachableError, match="serves chain 1, not 31337"):
        await client.receipt(ZERO_HASH)


async def test_a_faulty_endpoint_is_named_once_and_without_its_secret(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    three = await world.endpoints(3)
    caplog.set_level(logging.INFO, "fedgpu_operator.adapters.chain")
    urls = [f"{each.url}/v3/s3cr3t-{index}" for index, each in enumerate(three)]
    client = await world.client(*urls)
    for endpoint in three[1:2]:
        endpoint.lies["eth_call"] = lambda answer: "0xdead"
    for _ in range(4):
        await client.epoch(1)
        await _all_said(client)
    three[1].heal()
    for _ in range(4):
        await client.epoch(1)
        await _all_said(client)
    host = three[1].url.removeprefix("http://")
    assert caplog.messages == [
        f"the endpoint {host} answers otherwise on eth_call; the others decide",
        f"the endpoint {host} is back in step on eth_call",
    ]


async def test_an_endpoint_that_is_limited_is_named_once_whatever_its_words(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    three = await world.endpoints(3)
    caplog.set_level(logging.INFO, "fedgpu_operator.adapters.chain")
    client = await world.client(*(each.url for each in three))
    for number in range(4):
        three[1].errors["eth_call"] = LIMITED | {"message": f"rate limit reached, request {number}"}
        await client.epoch(1)
        await _all_said(client)
    host = three[1].url.removeprefix("http://")
    assert caplog.messages == [
        f"the endpoint {host} gives no answer now (rate limit reached, request 0) on eth_call; the others decide"
    ]


async def test_an_endpoint_that_does_not_tell_its_chain_now_has_no_vote(world: Any) -> None:
    (endpoint,) = await world.endpoints(1)
    client = await world.client(endpoint.url)
    endpoint.errors["eth_chainId"] = LIMITED
    with pytest.raises(ChainUnreachableError, match="request rate limited"):
        await client.epoch(1)
    assert not endpoint.calls["eth_call"]
    endpoint.heal()
    await client.epoch(1)


@pytest.mark.parametrize(("count", "quorum"), [(1, 0), (1, 2), (2, 1), (3, 1), (4, 2), (3, 4)])
def test_less_than_a_majority_is_no_quorum(count: int, quorum: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{quorum} of {count} endpoints is not a quorum"):
        EscrowClient(["http://127.0.0.1:1"] * count, STRANGER, 1, quorum=quorum)


async def _any_plan(world: Any, client: EscrowClient) -> Any:
    owner = world.address(5)
    return await world.plan(client, {(owner, STRANGER): 10}, {owner: 10})


async def _all_said(client: EscrowClient) -> None:
    """Wait for the answers that were not waited for."""
    running = client._rpc._provider._running
    if running:
        await asyncio.wait(set(running), timeout=10)
