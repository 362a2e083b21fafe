"""What tenants and providers do by their own hand, and how a wallet waits until it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fedgpu_operator.adapters.chain import Patience, ProviderWallet, TenantWallet, Transfer, Waiting, endpoint, wallet
from fedgpu_operator.domain.settlement import SignedTx
from fedgpu_operator.domain.transactions import Call, Nonces
from fedgpu_operator.errors import ChainError, ChainMismatchError, PendingError, ReplacedError, RevertedError

CHALLENGE = 3600


async def accounts(world: Any) -> Any:
    now = await (await world.client()).snapshot([world.address(5)], [], "latest")
    return now.accounts[world.address(5)]


async def test_a_deposit_needs_neither_gas_nor_approval_of_its_owner(world: Any) -> None:
    tenant, sender = await world.tenant(), await world.tenant(7)
    token, before = world.deployment.token, await accounts(world)
    transfer = Transfer(world.escrow, 2_000_000, 0, 2**40, "0x" + "7a" * 32)
    authorization = await tenant.authorize(token, transfer)
    had, gas = await tenant.tokens(token), await tenant.coins()
    await world.mined(await sender.deposit_with_authorization(world.escrow, 2_000_000, authorization))
    assert (await accounts(world)).balance == before.balance + 2_000_000
    assert (await tenant.tokens(token), await tenant.coins()) == (had - 2_000_000, gas)
    with pytest.raises(RevertedError):
        await sender.deposit_with_authorization(world.escrow, 2_000_000, authorization)


async def test_limits_and_withdrawals_take_their_notice(world: Any) -> None:
    tenant = await world.tenant()
    await world.mined(await tenant.set_spend_limit(world.escrow, 5))
    await world.mined(await tenant.request_withdraw(world.escrow, 70))
    seen = await accounts(world)
    assert (seen.new_limit, seen.withdraw_units, seen.limit) == (5, 70, 100_000_000)
    for early in (tenant.apply_spend_limit(world.escrow), tenant.withdraw(world.escrow)):
        with pytest.raises(RevertedError, match="NoticeRunning"):
            await early
    world.chain.jump(30 * 86400)
    await world.mined(await tenant.apply_spend_limit(world.escrow))
    await world.mined(await tenant.withdraw(world.escrow, world.address(7)))
    seen = await accounts(world)
    assert (seen.limit, seen.new_limit, seen.withdraw_units) == (5, 0, 0)
    assert await (await world.tenant(7)).tokens(world.deployment.token) == 70
    assert await tenant.allowance(world.deployment.token, world.escrow) == 100_000_000


async def test_a_provider_names_its_payee_and_signer_apart(world: Any) -> None:
    key = world.chain.accounts[6].private_key
    provider = await world.stack.enter_async_context(ProviderWallet(world.chain.rpc_url, key))
    with pytest.raises(RevertedError, match="SameKey"):
        await provider.set_provider(world.escrow)
    await world.mined(await provider.set_provider(world.escrow, signer=world.address(7)))
    assert await provider.owed(world.escrow) == 0
    with pytest.raises(RevertedError, match="ZeroAmount"):
        await provider.collect(world.escrow)


async def test_a_provider_puts_stake_down_and_takes_it_out(world: Any) -> None:
    key, token, stake = world.chain.accounts[5].private_key, world.deployment.token, world.deployment.stake
    provider = await world.stack.enter_async_context(ProviderWallet(world.chain.rpc_url, key))
    had = await provider.tokens(token)
    await world.mined(await provider.approve(token, stake, 500))
    await world.mined(await provider.bond(stake, 500))
    await world.mined(await provider.unbond(stake, 200))
    with pytest.raises(RevertedError, match="NotYet"):
        await provider.withdraw_stake(stake)
    world.chain.jump(30 * 86400)
    await world.mined(await provider.withdraw_stake(stake))
    assert await provider.tokens(token) == had - 300


async def test_waiting_shows_each_step_until_it_is_final(world: Any) -> None:
    tenant, steps = await world.tenant(), []
    tx_hash = await tenant.mint(world.deployment.token, 1)

    def on(step: Waiting) -> None:
        steps.append(step)
        # Each look finds the chain a little further.
        world.chain.mine(1 if step.block is None else 8)

    receipt = await tenant.wait(tx_hash, progress=on, poll=0.01)
    assert steps[0].block is None
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[-1].head >= receipt.block_number == steps[-1].needed
    assert receipt.succeeded


async def test_waiting_for_confirmations_counts_the_first_block(world: Any) -> None:
    tenant = await world.tenant()
    tx_hash = await tenant.mint(world.deployment.token, 1)
    world.chain.mine()
    await tenant.wait(tx_hash, confirmations=1, patience=10)
    with pytest.raises(ChainError, match=r"in block \d+, not final after"):
        await tenant.wait(tx_hash, confirmations=3, patience=0.3, poll=0.05)
    world.chain.mine(2)
    await tenant.wait(tx_hash, confirmations=3, patience=10)


async def test_waiting_goes_on_while_the_chain_is_away_and_says_so_at_the_end(world: Any) -> None:
    (endpoint,) = await world.endpoints(1)
    key = world.chain.accounts[5].private_key
    tenant = await world.stack.enter_async_context(TenantWallet(endpoint.url, key, 5.0))
    tx_hash = await tenant.mint(world.deployment.token, 1)
    endpoint.refused.add("eth_getTransactionReceipt")
    with pytest.raises(ChainError, match=r"in no block after .*HTTP 503"):
        await tenant.wait(tx_hash, confirmations=1, patience=2, poll=0.05)
    waiting = asyncio.create_task(tenant.wait(tx_hash, confirmations=1, patience=10, poll=0.05))
    world.chain.mine()
    endpoint.heal()
    assert (await waiting).succeeded


# geth sets no balance or base fee, drops no transaction and holds no key of its own.
@pytest.mark.chains("anvil", "hardhat")
async def test_waiting_for_a_transaction_that_fails_says_so(world: Any) -> None:
    tenant = await world.tenant()
    call = {"from": tenant.address, "to": world.escrow, "data": "0xdeadbeef", "gas": hex(100_000)}
    tx_hash = world.chain.rpc("eth_sendTransaction", call)
    world.chain.mine()
    with pytest.raises(RevertedError, match="was refused in block"):
        await tenant.wait(tx_hash, confirmations=1, patience=10)


async def test_a_wallet_signs_for_no_other_chain(world: Any) -> None:
    key = world.chain.accounts[5].private_key
    wallet = await world.stack.enter_async_context(TenantWallet(world.chain.rpc_url, key, chain_id=1))
    with pytest.raises(ChainMismatchError, match="serves chain 31337, not 1"):
        await wallet.mint(world.deployment.token, 1)


class Kept:
    """An outbox that remembers in memory what was kept before it was sent."""

    def __init__(self, world: Any) -> None:
        self.signed: list[SignedTx] = []
        self.sent: list[str] = []
        self._world = world

    def next_nonce(self, nonces: Nonces, source: str) -> int:
        return nonces.pending

    async def keep(self, call: Call, signed: SignedTx, number: int, block_hash: str) -> None:
        assert self._world.chain.rpc("eth_getBlockByNumber", hex(number), False)["hash"] == block_hash
        known = self._world.chain.rpc("eth_getTransactionByHash", signed.tx_hash)
        assert known is None, "it was sent before it was kept"
        self.signed.append(signed)

    def taken(self, signed: SignedTx) -> None:
        self.sent.append(signed.tx_hash)


async def patient(world: Any, endpoint: Any, said: list[str], outbox: Kept | None = None) -> TenantWallet:
    key = world.chain.accounts[5].private_key
    made = TenantWallet(endpoint.url, key, 0.2, outbox=outbox, patience=Patience(10, 10, said.append))
    await world.stack.enter_async_context(made)
    return made


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(endpoint, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(endpoint, "QUIET_S", 0.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # the endpoint counts, and tells nobody
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("brisk")
async def test_a_wallet_with_patience_reads_on_until_it_is_answered_and_says_what_it_waits_for(world: Any) -> None:
    (endpoint,), said = await world.endpoints(1), list[str]()
    tenant = await patient(world, endpoint, said)
    endpoint.refused |= {"eth_estimateGas", "eth_getTransactionCount"}
    minting = asyncio.create_task(tenant.mint(world.deployment.token, 1))
    await until(lambda: any("HTTP 503" in line and "trying again" in line for line in said))
    await until(lambda: endpoint.calls["eth_estimateGas"] > 2)
    assert not minting.done()
    assert len(said) < 4, "the same silence is not told at each try"
    endpoint.heal()
    assert (await world.mined(await minting)).succeeded


@pytest.mark.usefixtures("brisk")
async def test_a_lost_reply_sends_the_same_bytes_again_and_signs_nothing_more(world: Any) -> None:
    (endpoint,), said, outbox = await world.endpoints(1), list[str](), Kept(world)
    tenant = await patient(world, endpoint, said, outbox)
    endpoint.swallowed.add("eth_sendRawTransaction")
    minting = asyncio.create_task(tenant.mint(world.deployment.token, 1))
    await until(lambda: endpoint.calls["eth_sendRawTransaction"] > 1)
    endpoint.heal()
    tx_hash = await minting
    assert [each.tx_hash for each in outbox.signed] == outbox.sent == [tx_hash]
    assert any(f"looking for {tx_hash}" in line for line in said)
    assert (await world.mined(tx_hash)).succeeded


@pytest.mark.usefixtures("brisk")
async def test_a_lost_reply_is_made_good_by_the_receipt_alone(world: Any) -> None:
    (endpoint,), outbox = await world.endpoints(1), Kept(world)
    tenant = await patient(world, endpoint, [], outbox)
    endpoint.swallowed.add("eth_sendRawTransaction")
    minting = asyncio.create_task(tenant.mint(world.deployment.token, 1))
    await until(lambda: endpoint.calls["eth_sendRawTransaction"] > 1)
    world.chain.mine()
    assert await minting == outbox.signed[0].tx_hash, "that endpoint never confirmed that it took it"


@pytest.mark.usefixtures("brisk")
async def test_a_refusal_is_final_unless_a_reply_was_lost_before_it(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wallet, "UNCLEAR_S", 0.2)
    (endpoint,) = await world.endpoints(1)
    tenant = await patient(world, endpoint, [])
    refusal: dict[str, object] = {"code": -32000, "message": "insufficient funds for gas * price + value"}
    endpoint.errors["eth_sendRawTransaction"] = refusal
    with pytest.raises(ChainError, match="insufficient funds") as caught:
        await tenant.mint(world.deployment.token, 1)
    assert not isinstance(caught.value, PendingError)
    endpoint.heal()
    endpoint.swallowed.add("eth_sendRawTransaction")
    minting = asyncio.create_task(tenant.mint(world.deployment.token, 1))
    await until(lambda: endpoint.calls["eth_sendRawTransaction"] > 2)
    endpoint.errors["eth_sendRawTransaction"] = refusal
    seen = endpoint.calls["eth_sendRawTransaction"]
    # Whatever was forwarded before the endpoint began to refuse is answered by nobody.
    await until(lambda: endpoint.calls["eth_sendRawTransaction"] > seen)
    endpoint.swallowed.clear()
    with pytest.raises(PendingError, match=r"may be on its way.*insufficient funds"):
        await minting


@pytest.mark.usefixtures("brisk")
async def test_what_nobody_confirms_is_pending_when_patience_ends(world: Any) -> None:
    (endpoint,), outbox = await world.endpoints(1), Kept(world)
    key = world.chain.accounts[5].private_key
    tenant = TenantWallet(endpoint.url, key, 0.2, outbox=outbox, patience=Patience(0.1, 0.3))
    await world.stack.enter_async_context(tenant)
    endpoint.silent.add("eth_sendRawTransaction")
    with pytest.raises(PendingError, match="may be on its way") as caught:
        await tenant.mint(world.deployment.token, 1)
    assert outbox.signed[0].tx_hash in str(caught.value)


@pytest.fixture
def dear(world: Any) -> Iterator[Callable[[], None]]:
    """Makes the base fee rise a thousandfold; anvil does not take that back with the blocks that are undone."""
    fee = world.chain.rpc("eth_getBlockByNumber", "latest", False)["baseFeePerGas"]
    yield lambda: world.chain.set_base_fee(10**12)
    world.chain.set_base_fee(int(fee, 16))


@pytest.mark.chains("anvil", "hardhat")
async def test_a_raised_fee_has_the_same_nonce_and_the_version_that_lost_is_replaced(
    world: Any, dear: Callable[[], None]
) -> None:
    outbox, key = Kept(world), world.chain.accounts[5].private_key
    tenant = TenantWallet(world.chain.rpc_url, key, outbox=outbox)
    await world.stack.enter_async_context(tenant)
    await tenant.mint(world.deployment.token, 1)
    (low,) = outbox.signed
    assert await tenant.raised(low) is None, "it offers enough"
    world.chain.drop(low.tx_hash)
    dear()
    world.chain.mine()
    assert tenant.most_it_costs(low) < 10**12 * 21_000
    high = await tenant.raised(low)
    assert high is not None
    assert (high.nonce, high.max_fee > 10**12) == (low.nonce, True)
    assert not await tenant.replaced(low)
    await tenant.deliver(high)
    assert (await world.mined(high.tx_hash)).succeeded
    assert not await tenant.replaced(low), "what is not final can be undone"
    world.finalize()
    assert await tenant.replaced(low)
    assert not await tenant.replaced(high)
    with pytest.raises(ReplacedError, match=f"nonce {low.nonce} of"):
        await tenant.deliver(low)
