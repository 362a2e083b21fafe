"""From deposit to paid on a real chain, and what a settler can and cannot do there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fedgpu_lab.audit import audit
from fedgpu_operator.adapters.chain import EscrowClient, Periods, calls, deploy
from fedgpu_operator.artifacts import load
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import ZERO_HASH, EpochPlan, Pair, SignedTx
from fedgpu_operator.errors import ChainMismatchError, ConfigurationError, RevertedError
from fedgpu_operator.settlement import advances, build_epoch, claims, fund, parse_manifest

CHALLENGE = 3600
NOTICE = Periods(CHALLENGE, CHALLENGE, CHALLENGE, CHALLENGE).least_notice


async def prepared(client: EscrowClient, plan: EpochPlan) -> SignedTx:
    """Simulated and signed, not sent."""
    return await client.prepare(client.call_post(plan))


async def test_from_deposit_to_paid(world: Any) -> None:
    alice, bob = world.tenants[:2]
    p, q = world.providers
    await world.fund(0, 10_000_000, 5_000_000)
    await world.fund(1, 1_000_000, 1_000_000)
    world.chain.mine(3)
    owed: dict[Pair, MicroUSD] = {
        (alice, p): MicroUSD(1_250_001),
        (alice, q): MicroUSD(2_490_000),
        (bob, q): MicroUSD(7),
    }
    before = await world.settler.snapshot([alice, bob], list(owed))
    assert (before.seq, before.head_root, before.active_epoch) == (0, ZERO_HASH, 0)
    assert before.head_is_active
    assert before.accounts[alice].balance == 10_000_000
    funding = fund(owed, before)
    assert funding.payable == owed
    plan = build_epoch(
        chain_id=before.chain_id,
        escrow=before.escrow,
        seq=before.seq,
        prev_root=before.head_root,
        period_end=before.timestamp,
        pairs=funding.payable,
        debits=funding.debits,
    )
    posted = await world.mined(world.settler.send(world.settler.call_post(plan)))
    assert posted.epoch == 1
    world.conserves()

    with pytest.raises(RevertedError, match=r"NotActive\(epoch=1, active=0\)"):
        await world.keeper.send(world.keeper.call_claim(1, claims(plan)))
    assert world.balance(p) == 0

    world.chain.jump(CHALLENGE)
    paid = await world.mined(world.keeper.send(world.keeper.call_claim(1, claims(plan))))
    assert {(line.tenant, line.provider): line.amount for line in paid.payments} == owed
    assert (world.balance(p), world.balance(q)) == (1_250_001, 2_490_007)
    world.conserves()

    again = await world.mined(world.keeper.send(world.keeper.call_claim(1, claims(plan))))
    assert again.payments == ()
    world.chain.mine(3)
    after = await world.settler.snapshot([alice, bob], list(owed))
    assert {pair: book.paid for pair, book in after.books.items()} == owed
    assert (after.seq, after.head_root, after.active_epoch) == (1, plan.root, 1)
    assert after.accounts[alice].balance == 10_000_000 - 3_740_001
    assert (after.accounts[alice].allocated, after.accounts[alice].pending) == (0, 0)
    settled = fund(owed, after, plan.pairs)
    assert not advances(settled, plan.pairs)
    state = await world.settler.epoch(1)
    assert (state.root, state.total, state.cancelled) == (plan.root, plan.total, False)
    world.conserves()


async def test_finalized_lags_behind_latest(world: Any) -> None:
    alice = world.tenants[0]
    world.chain.mine(3)
    await world.fund(0, 1_000, 1_000)
    latest = await world.settler.snapshot([alice], [], "latest")
    final = await world.settler.snapshot([alice], [])
    assert latest.accounts[alice].limit == 1_000
    assert final.accounts[alice].limit == 0, "not final yet"
    assert final.block_number < latest.block_number


async def test_of_two_settlers_one_wins(world: Any) -> None:
    alice, p = world.tenants[0], world.providers[0]
    await world.fund(0, 1_000, 1_000)
    one = await world.plan({(alice, p): 100}, {alice: 100})
    other = await world.plan({(alice, p): 200}, {alice: 200})
    rival = await world.client(world.chain.accounts[1])
    await world.mined(world.settler.send(world.settler.call_post(one)))
    with pytest.raises(RevertedError, match=rf"StaleState\(seq=1, prevRoot={one.root}\)"):
        await rival.send(rival.call_post(other))
    chain = await world.settler.snapshot([alice], [], "latest")
    assert chain.accounts[alice].pending == 100


async def test_the_chain_itself_refuses_the_loser_of_a_race(world: Any) -> None:
    """Both were simulated before either was mined."""
    alice, p = world.tenants[0], world.providers[0]
    await world.fund(0, 1_000, 1_000)
    rival_account = world.chain.accounts[3]
    world.grant("SETTLER", rival_account.address)
    rival = await world.client(rival_account)
    one, other = [await world.plan({(alice, p): total}, {alice: total}) for total in (100, 200)]
    signed, rival_signed = await prepared(world.settler, one), await prepared(rival, other)
    await world.mined(world.settler.broadcast(signed))
    lost = await rival.broadcast(rival_signed)
    world.chain.mine()
    receipt = await rival.receipt(lost)
    assert receipt is not None
    assert (receipt.succeeded, receipt.epoch) == (False, None)
    chain = await world.settler.snapshot([alice], [], "latest")
    assert (chain.head_root, chain.accounts[alice].pending) == (one.root, 100)
    world.conserves()


async def test_the_same_bytes_sent_twice_are_one_transaction(world: Any) -> None:
    alice, p = world.tenants[0], world.providers[0]
    await world.fund(0, 1_000, 1_000)
    signed = await prepared(world.settler, await world.plan({(alice, p): 100}, {alice: 100}))
    world.chain.rpc("evm_setAutomine", False)
    try:
        assert await world.settler.broadcast(signed) == signed.tx_hash
        assert await world.settler.receipt(signed.tx_hash) is None, "not in a block yet"
        assert await world.settler.broadcast(signed) == signed.tx_hash
    finally:
        world.chain.rpc("evm_setAutomine", True)
    world.chain.mine()
    assert (await world.settler.receipt(signed.tx_hash)).epoch == 1


async def test_concurrent_calls_of_one_sender_take_their_turn(world: Any) -> None:
    wallet, token = await world.wallet(5), world.deployment.token
    hashes = await asyncio.gather(*(wallet.mint(token, 1) for _ in range(5)))
    world.chain.mine()
    assert [(await world.settler.receipt(tx_hash)).succeeded for tx_hash in hashes] == [True] * 5
    assert world.balance(wallet.address) == 5


async def test_over_committed_root_takes_only_its_own_tenants_allocated(world: Any) -> None:
    alice, bob = world.tenants[:2]
    p, q = world.providers
    await world.fund(0, 1_000, 50)
    await world.fund(1, 1_000, 1_000)
    plan = await world.plan({(alice, p): 2**64 - 1, (bob, q): 700}, {alice: 50, bob: 700})
    await world.mined(world.settler.send(world.settler.call_post(plan)))
    world.chain.jump(CHALLENGE)
    paid = await world.mined(world.keeper.send(world.keeper.call_claim(1, claims(plan))))
    assert {line.provider: line.amount for line in paid.payments} == {p: 50, q: 700}
    chain = await world.settler.snapshot([alice, bob], [], "latest")
    assert chain.accounts[alice].balance == 950, "nothing beyond its limit"
    assert chain.accounts[bob].balance == 300
    world.conserves()


async def test_a_zero_debit_is_refused(world: Any) -> None:
    alice, p = world.tenants[0], world.providers[0]
    await world.fund(0, 1_000, 50)
    plan = await world.plan({(alice, p): 51}, {alice: 0})
    with pytest.raises(RevertedError, match="ZeroAmount"):
        await world.settler.send(world.settler.call_post(plan))


async def test_a_tenant_that_leaves_right_before_the_post_stops_nobody_else(world: Any) -> None:
    """Signed on the state of before; the withdrawal gets into the block first."""
    (alice, bob), (p, q) = world.tenants[:2], world.providers
    await world.fund(0, 1_000, 1_000)
    await world.fund(1, 1_000, 1_000)
    wallet, escrow = await world.wallet(0), world.deployment.escrow
    await world.mined(wallet.request_withdraw(escrow, 900))
    world.chain.jump(NOTICE)
    owed: dict[Pair, MicroUSD] = {(alice, p): MicroUSD(400), (alice, q): MicroUSD(1), (bob, q): MicroUSD(50)}
    plan = await world.plan(owed, {alice: 401, bob: 50})
    signed = await prepared(world.settler, plan)
    await world.mined(wallet.withdraw(escrow))
    posted = await world.mined(world.settler.broadcast(signed))
    assert (posted.epoch, posted.skipped) == (1, (alice,))
    assert (await world.settler.epoch(1)).total == 50 < plan.total
    world.chain.jump(CHALLENGE)
    paid = await world.mined(world.keeper.send(world.keeper.call_claim(1, claims(plan))))
    assert {(line.tenant, line.provider): line.amount for line in paid.payments} == {(bob, q): 50}
    assert paid.skipped == ()
    world.conserves()

    # Nothing more can be claimed under this root; the next one takes what alice still has, and shares it.
    chain = await world.settler.snapshot([alice, bob], list(owed), "latest")
    assert (chain.accounts[alice].balance, chain.accounts[alice].allocated) == (100, 0)
    funding = fund(owed, chain, plan.pairs)
    assert funding.debits == {alice: 100}
    assert advances(funding, plan.pairs)
    assert funding.unfunded == {alice: 301}
    again = await world.plan(dict(funding.payable), dict(funding.debits))
    assert (await world.mined(world.settler.send(world.settler.call_post(again)))).skipped == ()
    world.chain.jump(CHALLENGE)
    await world.mined(world.keeper.send(world.keeper.call_claim(2, claims(again))))
    assert world.balance(p) + world.balance(q) == 150
    world.conserves()


async def test_money_sent_past_the_contract_spoils_no_audit(world: Any) -> None:
    token, escrow = world.deployment.token, world.deployment.escrow
    await world.fund(0, 1_000, 1_000)
    world.force(world.providers[0], token, "mint(address,uint256)", escrow, 7)
    world.chain.mine(3)
    seen = audit(world.chain.rpc_url, token, escrow)
    assert seen.problems == ()
    assert (seen.deposited, seen.unsolicited, seen.held, seen.balances) == (1_000, 7, 1_007, 1_000)


async def test_money_never_goes_to_the_escrow_itself(world: Any) -> None:
    alice, p, escrow = world.tenants[0], world.providers[0], world.deployment.escrow
    await world.fund(0, 1_000, 1_000)
    plan = await world.plan({(alice, p): 60, (alice, escrow): 40}, {alice: 100})
    await world.mined(world.settler.send(world.settler.call_post(plan)))
    world.chain.jump(CHALLENGE)
    paid = await world.mined(world.keeper.send(world.keeper.call_claim(1, claims(plan))))
    assert len(paid.payments) == 2
    assert world.balance(p) == 60
    assert world.balance(escrow) == 940
    world.auditor().conserves(world.tenants, [p, escrow])


async def test_the_guardian_cancels_and_the_next_epoch_bills_again(world: Any) -> None:
    alice, p = world.tenants[0], world.providers[0]
    await world.fund(0, 1_000, 1_000)
    bad = await world.plan({(alice, p): 900}, {alice: 900})
    await world.mined(world.settler.send(world.settler.call_post(bad)))
    with pytest.raises(RevertedError, match="AccessControlUnauthorizedAccount"):
        await world.keeper.send(calls.encode(world.keeper.escrow, "cancelEpoch", [1]))
    await world.mined(world.guardian.send(calls.encode(world.guardian.escrow, "cancelEpoch", [1])))
    owed = {(alice, p): MicroUSD(100)}
    chain = await world.settler.snapshot([alice], list(owed), "latest")
    assert (chain.seq, chain.head_epoch, chain.head_root) == (2, 0, ZERO_HASH)
    funding = fund(owed, chain)
    assert funding.debits == {alice: 100}
    good = await world.plan(dict(funding.payable), dict(funding.debits))
    assert (await world.mined(world.settler.send(world.settler.call_post(good)))).epoch == 2
    world.chain.jump(CHALLENGE)
    await world.mined(world.keeper.send(world.keeper.call_claim(2, claims(good))))
    assert world.balance(p) == 100
    world.conserves()


async def test_a_short_tenant_pays_its_providers_in_step(world: Any) -> None:
    alice = world.tenants[0]
    p, q = world.providers
    await world.fund(0, 1_000, 200)
    owed: dict[Pair, MicroUSD] = {(alice, p): MicroUSD(300), (alice, q): MicroUSD(100)}
    committed: dict[Pair, MicroUSD] = {}
    received = []
    for number in (1, 2):
        chain = await world.settler.snapshot([alice], list(owed), "latest")
        funding = fund(owed, chain, committed)
        plan = await world.plan(dict(funding.payable), dict(funding.debits))
        committed = dict(plan.pairs)
        await world.mined(world.settler.send(world.settler.call_post(plan)))
        world.chain.jump(CHALLENGE)
        await world.mined(world.keeper.send(world.keeper.call_claim(number, claims(plan))))
        received.append((world.balance(p), world.balance(q)))
    assert received == [(150, 50), (300, 100)]
    world.conserves()


async def test_a_tenant_leaves_with_what_is_not_owed(world: Any) -> None:
    alice, p = world.tenants[0], world.providers[0]
    await world.fund(0, 1_000, 1_000)
    wallet, escrow = await world.wallet(0), world.deployment.escrow
    await world.mined(wallet.request_withdraw(escrow, 1_000))
    with pytest.raises(RevertedError, match=r"NoticeRunning\(at=\d+\)"):
        await wallet.withdraw(escrow)
    plan = await world.plan({(alice, p): 400}, {alice: 400})
    await world.mined(world.settler.send(world.settler.call_post(plan)))
    chain = await world.settler.snapshot([alice], [], "latest")
    assert chain.accounts[alice].free == 0
    assert chain.accounts[alice].withdraw_at > chain.timestamp
    world.chain.jump(NOTICE)
    await world.mined(wallet.withdraw(escrow))
    assert world.balance(alice) == 600
    await world.mined(world.keeper.send(world.keeper.call_claim(1, claims(plan))))
    assert world.balance(p) == 400
    world.conserves()


async def test_many_tenants_in_several_leaves(world: Any, addresses: Callable[[int], list[str]]) -> None:
    """The contract accepts every leaf of a tree with an odd number of them, built from the manifest alone."""
    alice, (p, q) = world.tenants[0], world.providers
    await world.fund(0, 1_000_000, 1_000_000)
    strangers = addresses(200)
    pairs = {(tenant, p): 1 for tenant in strangers} | {(alice, p): 10, (alice, q): 20}
    plan = await world.plan(pairs, {alice: 30})
    await world.mined(world.settler.send(world.settler.call_post(plan)))
    world.chain.jump(CHALLENGE)
    rebuilt = parse_manifest(plan.manifest)
    assert len(rebuilt.leaves) == 5
    receipt = await world.mined(world.keeper.send(world.keeper.call_claim(1, claims(rebuilt))))
    assert {line.provider: line.amount for line in receipt.payments} == {p: 10, q: 20}
    skipped = world.chain.rpc("eth_getTransactionReceipt", receipt.tx_hash)
    assert len(skipped["logs"]) == 2 * 3, "a line, a transfer and a credit for each provider, no leaf skipped"


async def test_verify_accepts_this_escrow_and_nothing_else(world: Any) -> None:
    await world.settler.verify()
    url, escrow, token = world.chain.rpc_url, world.deployment.escrow, world.deployment.token
    cases = [
        (escrow, 1, "serves chain 31337, configured is 1"),
        (token, world.chain.chain_id, "of other code"),
        (world.providers[0], world.chain.chain_id, "no contract"),
    ]
    for address, chain_id, words in cases:
        async with EscrowClient(url, address, chain_id) as client:
            with pytest.raises(ChainMismatchError, match=words):
                await client.verify()


async def test_an_epoch_for_another_escrow_is_never_sent(world: Any) -> None:
    alice, p = world.tenants[0], world.providers[0]
    plan = await world.plan({(alice, p): 1}, {})
    other = build_epoch(
        chain_id=plan.chain_id,
        escrow=world.deployment.token,
        seq=plan.seq,
        prev_root=plan.prev_root,
        period_end=plan.period_end,
        pairs=plan.pairs,
        debits={},
    )
    with pytest.raises(ChainMismatchError, match="the epoch is for"):
        await world.settler.send(world.settler.call_post(other))


async def test_deploying_what_could_never_work_costs_nothing(world: Any) -> None:
    chain, roles = world.chain, world.chain.roles
    before = int(chain.rpc("eth_getTransactionCount", chain.accounts[0].address, "latest"), 16)
    for periods, people, words in (
        (Periods(notice=86400), roles, "a notice of 86400 s is too short: at least 1728000 s"),
        (Periods(unbonding=86400), roles, "an unbonding time of 86400 s is too short"),
        (Periods(), replace(roles, meter=roles.settler), "settler and meter must be different keys"),
        (Periods(), replace(roles, owners=()), "at least one owner"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            await deploy(chain.rpc_url, chain.accounts[0].private_key, people, periods, token=world.deployment.token)
    after = int(chain.rpc("eth_getTransactionCount", chain.accounts[0].address, "latest"), 16)
    assert after == before, "nothing was sent"


async def test_the_packaged_abi_is_plain_json(world: Any) -> None:
    assert json.loads(json.dumps(load("ComputeEscrow").abi))
    assert load("TestUSD").test_only
    assert not load("ComputeEscrow").test_only
