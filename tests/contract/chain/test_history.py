"""What an auditor reads of the chain alone: how epochs were posted, and which disputes and exits are open."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils.crypto import keccak

from fedgpu_operator.adapters.chain import EscrowClient, LocalSigner, ProviderWallet, calls
from fedgpu_operator.adapters.chain.calls import NOBODY
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Receipt
from fedgpu_operator.errors import RevertedError
from fedgpu_operator.settlement import claims
from fedgpu_operator.settlement.typeddata import escrow_domain, receipt

CHALLENGE = 3600
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
