"""What an auditor reads of the chain alone: how epochs were posted, and which disputes and exits are open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.chain import EscrowClient, LocalSigner, Patience, ProviderWallet, calls, endpoint, history
from fedgpu_operator.adapters.chain.calls import NOBODY
from fedgpu_operator.adapters.chain.history import tenants_of
from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.errors import ChainError, ChainUnreachableError, RevertedError, StatePrunedError
from fedgpu_operator.settlement import claims
from fedgpu_operator.settlement.typeddata import escrow_domain, receipt

pytestmark = pytest.mark.chains("anvil", "hardhat")

CHALLENGE = 3600
STRANGER = "0x" + "5e" * 20
EVIDENCE = "0x" + "e1" * 32


async def test_an_epoch_is_told_by_the_chain_alone(world: Any) -> None:
    settler = await world.settler()
    guardian = await world.client(account=world.chain.accounts[-3])
    alice, bob, p = world.address(5), world.address(7), world.address(6)
    plans = []
    for number, amount in enumerate((1_000_000, 2_000_000), start=1):
        # Bob has no money there: his debit is skipped, which the manifest cannot know.
        plan = await world.plan(settler, {(alice, p): amount, (bob, p): 5}, {alice: 1_000_000, bob: 5})
        receipt_ = await world.mined(await settler.send(settler.call_post(plan)))
        assert receipt_.epoch == number
        plans.append((plan, receipt_))
        world.chain.jump(CHALLENGE)
        world.chain.mine(10)
    cancelled = await world.plan(settler, {(alice, p): 3_000_000}, {alice: 1_000_000})
    await world.mined(await settler.send(settler.call_post(cancelled)))
    await world.mined(await guardian.send(calls.encode(guardian.escrow, "cancelEpoch", [3])))
    reader = await world.client()
    assert await reader.posted(3) is None, "not final yet"
    world.finalize()
    for number, (plan, receipt_) in enumerate(plans, start=1):
        posted = await reader.posted(number)
        assert (posted.number, posted.seq, posted.root) == (number, plan.seq, plan.root)
        assert (posted.manifest_hash, posted.prev_root) == (plan.manifest_hash, plan.prev_root)
        assert (posted.period_end, posted.debits) == (plan.period_end, plan.debits)
        assert (posted.total, posted.skipped) == (1_000_000, (bob,))
        assert (posted.tx_hash, posted.block_number) == (receipt_.tx_hash, receipt_.block_number)
    assert (await reader.posted(3)).manifest_hash == cancelled.manifest_hash
    for none in (0, 4):
        assert await reader.posted(none) is None


async def test_a_post_by_another_contract_shows_no_debits(world: Any) -> None:
    """A settler that is a contract: the transaction's own input is not the escrow's."""
    settler = await world.settler()
    alice, p = world.address(5), world.address(6)
    plan = await world.plan(settler, {(alice, p): 10}, {alice: 10})
    relay = await _relay(world, settler.call_post(plan).data)
    _as_admin(world, "grantRole(bytes32,address)", keccak(text="SETTLER"), relay)
    world.chain.set_balance(alice, 10**20)
    sent = world.chain.rpc("eth_sendTransaction", {"from": alice, "to": relay, "gas": hex(10**6)})
    await world.mined(sent)
    world.finalize()
    posted = await (await world.client()).posted(1)
    assert (posted.root, posted.debits, posted.total) == (plan.root, None, 10)


async def test_disputes_and_exits_are_listed_while_they_are_open(world: Any) -> None:
    settler, tenant = await world.settler(), await world.tenant()
    reader = await world.client()
    early = await world.client()
    assert await early.disputes() == await early.exits() == ()
    alice, p = world.address(5), world.address(6)
    plan = await world.plan(settler, {(alice, p): 9_000_000}, {alice: 9_000_000})
    await world.mined(await settler.send(settler.call_post(plan)))
    await world.mined(await tenant.dispute(world.escrow, claims(plan)[0], 2_000_000, EVIDENCE))
    await world.mined(await tenant.dispute_debit(world.escrow, 3_000_000))
    assert await early.disputes() == (), "not final yet"
    world.finalize()
    by_pair, unexplained = await reader.disputes()
    assert (by_pair.epoch, by_pair.tenant, by_pair.provider) == (1, alice, p)
    assert (by_pair.amount, by_pair.shown, by_pair.ruled) == (2_000_000, 0, False)
    assert by_pair.floor == 7_000_000
    assert by_pair.bond == await tenant.bond_for(world.escrow, 2_000_000) == 1_000_000
    assert (unexplained.provider, unexplained.amount) == (NOBODY, 3_000_000)
    assert await early.disputes() == (by_pair, unexplained)
    now = await reader.snapshot([alice], [(alice, p)])
    assert (now.accounts[alice].pending, now.accounts[alice].held) == (4_000_000, 3_000_000)
    assert now.books[alice, p].reserved == 2_000_000

    world.chain.jump(2 * CHALLENGE)
    await world.mined(await settler.send(settler.call_close(1, alice, p)))
    world.finalize()
    assert [each.provider for each in await reader.disputes()] == [NOBODY]
    await world.mined(await tenant.close(world.escrow, 1, alice))
    world.finalize()
    assert await reader.disputes() == ()
    assert await reader.exits() == ()
    settled = await reader.snapshot([alice], [])
    assert settled.accounts[alice].held == 0


def too_many(limit: int) -> Callable[[list[Any]], dict[str, object] | None]:
    """Refuses ranges of more blocks, as public endpoints do."""

    def refuse(params: list[Any]) -> dict[str, object] | None:
        count = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
        return {"code": -32005, "message": "block range is too wide"} if count > limit else None

    return refuse


async def disputed_far_away(world: Any) -> tuple[str, str]:
    """An open dispute some blocks back, of a provider that was paid in between.

    Not many blocks: anvil keeps the state of 500, and the tests share one.
    """
    settler, tenant = await world.settler(), await world.tenant()
    alice, p = world.address(5), world.address(6)
    plan = await world.plan(settler, {(alice, p): 9_000_000}, {alice: 9_000_000})
    await world.mined(await settler.send(settler.call_post(plan)))
    await world.mined(await tenant.dispute(world.escrow, claims(plan)[0], 2_000_000, EVIDENCE))
    world.chain.jump(CHALLENGE)
    world.chain.mine()
    await world.mined(await settler.send(settler.call_claim(1, claims(plan))))
    world.chain.mine(40)
    return alice, p


@pytest.mark.parametrize("limit", [1_000, 10, 3])
async def test_the_log_is_read_whatever_range_an_endpoint_allows(world: Any, limit: int) -> None:
    alice, p = await disputed_far_away(world)
    (endpoint,) = await world.endpoints(1)
    endpoint.errors["eth_getLogs"] = too_many(limit)
    client = await world.client(endpoint.url)
    assert [(each.tenant, each.provider) for each in await client.disputes()] == [(alice, p)]
    assert (await client.posted(1)).number == 1
    async with Rpc(endpoint.url) as rpc:
        assert await tenants_of(rpc, world.escrow, p) == (alice,)


async def test_two_endpoints_of_which_one_allows_less_are_read_in_its_pieces(world: Any) -> None:
    alice, p = await disputed_far_away(world)
    two = await world.endpoints(2)
    two[1].errors["eth_getLogs"] = too_many(5)
    client = await world.client(*(each.url for each in two), quorum=2)
    assert [(each.tenant, each.provider) for each in await client.disputes()] == [(alice, p)]


async def test_a_range_of_one_block_refused_is_said_in_the_providers_words(world: Any) -> None:
    await disputed_far_away(world)
    (endpoint,) = await world.endpoints(1)
    endpoint.errors["eth_getLogs"] = too_many(0)
    client = await world.client(endpoint.url)
    with pytest.raises(ChainError, match="answers block range is too wide"):
        await client.disputes()


async def test_a_log_that_was_read_in_part_is_read_on_from_there(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TURNED_AWAY_S", (0.0, 0.0))
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.0)
    alice, p = await disputed_far_away(world)
    (gateways,) = await world.endpoints(1)
    asked: list[int] = []

    def gateway(params: list[Any]) -> dict[str, object] | None:
        asked.append(int(params[0]["fromBlock"], 16))
        limited = {"code": -32005, "message": "daily request count exceeded, request rate limited"}
        # As often in a row as one reading is repeated, and once more.
        turn = len(asked) % (2 + endpoint.TURNED_AWAY + 1)
        return limited if turn >= 2 else too_many(10)(params)

    gateways.errors["eth_getLogs"] = gateway
    client = await world.client(gateways.url)
    found, silences = None, 0
    while found is None:
        try:
            found = await client.disputes()
        except ChainUnreachableError:
            silences += 1
    assert [(each.tenant, each.provider) for each in found] == [(alice, p)]
    assert silences > 1
    assert asked == sorted(asked), "no block that was read is read again"
    asked.clear()
    async with Rpc(gateways.url, patience=Patience(10, 10)) as rpc:
        assert await tenants_of(rpc, world.escrow, p) == (alice,)
    assert asked == sorted(asked)


async def test_an_endpoint_that_drops_old_logs_without_a_word_is_found_out(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some clients do with pruned receipts: an open dispute would be forgotten."""
    monkeypatch.setattr(history, "AGAIN_S", 0.0)
    alice, p = await disputed_far_away(world)
    (endpoint,) = await world.endpoints(1)
    endpoint.lies["eth_getLogs"] = lambda logs: []
    client = await world.client(endpoint.url)
    for read in (client.disputes, client.exits, lambda: client.posted(1)):
        with pytest.raises(StatePrunedError, match="it drops old logs"):
            await read()
    endpoint.heal()
    assert [(each.tenant, each.provider) for each in await client.disputes()] == [(alice, p)], (
        "read again from the start"
    )


async def test_a_node_that_dropped_the_finalized_state_is_found_at_the_start(world: Any) -> None:
    world.finalize()
    (endpoint,) = await world.endpoints(1)
    client = await world.client(endpoint.url)
    await client.check_state()
    endpoint.errors["eth_getCode"] = lambda params: (
        {"code": -32000, "message": "historical state 5f1a is not available"} if params[1] != "latest" else None
    )
    with pytest.raises(StatePrunedError, match=r"an archive node.*finality is 16 blocks behind") as caught:
        await client.check_state()
    assert "historical state 5f1a is not available" in str(caught.value)
    endpoint.heal()
    endpoint.lies["eth_getCode"] = lambda code: None
    with pytest.raises(StatePrunedError, match="finality is 16 blocks behind"):
        await client.check_state()


async def test_an_escrow_that_is_not_final_yet_says_nothing_of_the_nodes_state(world: Any) -> None:
    async with EscrowClient(world.chain.rpc_url, STRANGER, world.chain.chain_id) as client:
        await client.check_state()


async def test_a_provider_leaves_with_a_receipt_of_both_signatures(world: Any) -> None:
    reader = await world.client()
    alice, p = world.address(5), world.address(6)
    account, meter = world.chain.accounts[6], LocalSigner(world.chain.accounts[-1].private_key)
    latest = await reader.snapshot([], [], "latest")
    earned = Receipt(alice, p, MicroUSD(4_000_000), latest.timestamp - CHALLENGE, "0x" + "0a" * 32)
    typed = receipt(escrow_domain(world.chain.chain_id, world.escrow), earned)
    signatures = [await each.sign_typed(typed) for each in (meter, LocalSigner(account.private_key))]
    provider = await world.stack.enter_async_context(ProviderWallet(world.chain.rpc_url, account.private_key))
    with pytest.raises(RevertedError):
        await provider.exit(world.escrow, earned, meter.address, *reversed(signatures))
    await world.mined(await provider.exit(world.escrow, earned, meter.address, *signatures))
    world.finalize()
    (leaving,) = await (await _from_deployment(world)).exits()
    assert (leaving.tenant, leaving.provider, leaving.amount) == (alice, p, 4_000_000)
    assert (leaving.disputed, leaving.ruled) == (False, False)
    world.chain.jump(CHALLENGE)
    before = await provider.tokens(world.deployment.token)
    await world.mined(await provider.finish_exit(world.escrow, alice))
    assert await provider.tokens(world.deployment.token) == before + 4_000_000
    world.finalize()
    assert await (await _from_deployment(world)).exits() == ()


async def test_a_wallet_that_is_a_contract_answers_for_its_signature(world: Any) -> None:
    reader = await world.client()
    accepts = _put_code(world, "0x" + "c0" * 20, "631626ba7e60e01b60005260206000f3")
    refuses = _put_code(world, "0x" + "c1" * 20, "60006000fd")
    short = _put_code(world, "0x" + "c2" * 20, "631626ba7e60e01b60005260046000f3")
    other = _put_code(world, "0x" + "c3" * 20, "63deadbeef60e01b60005260206000f3")
    burns = _put_code(world, "0x" + "c4" * 20, "5b600056")
    # It answers whatever it is asked, and so the magic word first; it is no contract of anybody's.
    identity = "0x" + "00" * 19 + "04"
    world.finalize()
    verdicts = [
        await reader.is_valid_signature(wallet, b"\1" * 32, b"any")
        for wallet in (accepts, refuses, short, other, burns, identity, world.address(5))
    ]
    assert verdicts == [True] + [False] * 6


async def test_what_the_deployment_fixed_and_who_holds_its_roles(world: Any) -> None:
    reader, roles = await world.client(), world.chain.roles
    terms, periods = await reader.terms(), await reader.periods()
    assert (terms.token, terms.symbol, terms.decimals) == (world.deployment.token, "tUSD", 6)
    assert (terms.scale, terms.reserve, terms.periods) == (1, roles.reserve, periods)
    assert (periods.challenge, periods.ruling, periods.exit_after, periods.longest_epoch) == (CHALLENGE,) * 4
    assert periods.notice == 4 * CHALLENGE + 4 * 86400
    assert await reader.holds_role("METER", roles.meter)
    assert await reader.holds_role("SETTLER", roles.settler)
    assert not await reader.holds_role("METER", roles.settler)


async def test_whose_signature_a_providers_receipts_need(world: Any) -> None:
    reader, account = await world.client(), world.chain.accounts[6]
    provider = await world.stack.enter_async_context(ProviderWallet(world.chain.rpc_url, account.private_key))
    await world.mined(await provider.set_provider(world.escrow, signer=world.address(7)))
    assert await reader.signer_of(account.address) == account.address, "not final yet"
    world.finalize()
    assert await reader.signer_of(account.address.lower()) == world.address(7)


async def _from_deployment(world: Any) -> EscrowClient:
    """No epoch was ever posted: an exit is found where one says from which block on to look."""
    client = EscrowClient(world.chain.rpc_url, world.escrow, world.chain.chain_id, from_block=world.deployment.block)
    made: EscrowClient = await world.stack.enter_async_context(client)
    return made


def _put_code(world: Any, address: str, code: str) -> str:
    world.chain.set_code(address, "0x" + code)
    return address


async def _relay(world: Any, data: str) -> str:
    """A contract that calls the escrow with these bytes, whatever it is sent."""
    size = len(data) // 2 - 1
    # CODECOPY its own tail to memory, then CALL.
    head = f"61{size:04x}6100006000396000600061{size:04x}6000600073{world.escrow[2:].lower()}5af160005260206000f3"
    start = len(head) // 2
    head = head.replace("610000", f"61{start:04x}", 1)
    return _put_code(world, "0x" + "ca" * 20, head + data[2:])


def _as_admin(world: Any, signature: str, *words: bytes | str) -> None:
    packed = "".join((word.hex() if isinstance(word, bytes) else word[2:]).rjust(64, "0") for word in words)
    admin, data = world.deployment.timelock, "0x" + keccak(text=signature)[:4].hex() + packed
    world.chain.set_balance(admin, 10**18)
    world.chain.own("impersonateAccount", admin)
    world.chain.rpc("eth_sendTransaction", {"from": admin, "to": world.escrow, "data": data})
    world.chain.own("stopImpersonatingAccount", admin)
    world.chain.mine()
