"""Signing away tokens (EIP-3009) on tokens that behave as USDC does, in both forms of their domain."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from eth_typing import ABI
from web3 import Web3

from fedgpu_operator.adapters.chain import Periods, TenantWallet, Transfer, deploy
from fedgpu_operator.artifacts import load
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.errors import ChainError

pytestmark = pytest.mark.chains("anvil", "hardhat")

CHALLENGE = 3600
NONCE = "0x" + "7b" * 32
TENANT = 5


async def strict(world: Any, *, salted: bool) -> Deployment:
    """An escrow on a token that refuses as USDC does, and a tenant who has 50 base units of it."""
    chain, owner = world.chain, world.chain.accounts[0]
    artifact = load("StrictUSD")
    made = Web3().eth.contract(abi=cast("ABI", artifact.abi), bytecode=artifact.bytecode).constructor(salted)
    chain.automine(True)
    sent = chain.rpc(
        "eth_sendTransaction", {"from": owner.address, "data": made.data_in_transaction, "gas": hex(3_000_000)}
    )
    async with asyncio.timeout(10):
        while (receipt := chain.rpc("eth_getTransactionReceipt", sent)) is None:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)
    token = receipt["contractAddress"]
    periods = Periods(CHALLENGE, CHALLENGE, CHALLENGE, CHALLENGE)
    deployment = await deploy(chain.rpc_url, owner.private_key, chain.roles, periods, token=token)
    async with TenantWallet(chain.rpc_url, chain.accounts[TENANT].private_key) as wallet:
        await wallet.wait(await wallet.mint(token, 50), confirmations=1)
    return deployment


@pytest.mark.parametrize("salted", [False, True], ids=["chain id", "salt"])
async def test_a_deposit_is_signed_in_the_tokens_own_domain(world: Any, *, salted: bool) -> None:
    on = await strict(world, salted=salted)
    tenant, sender = await world.tenant(), await world.tenant(7)
    authorization = await tenant.authorize(on.token, Transfer(on.escrow, 40, 0, 2**40, NONCE))
    await sender.wait(await sender.deposit_with_authorization(on.escrow, 40, authorization), confirmations=1)
    assert await tenant.tokens(on.token) == 10
    assert await sender.tokens(on.token) == 0


async def test_the_domain_that_a_token_describes_is_one_of_the_candidates(world: Any) -> None:
    """TestUSD answers EIP-5267's eip712Domain() and no version(); a name() that differs is then no hindrance."""
    (endpoint,) = await world.endpoints(1)
    wallet = await world.stack.enter_async_context(TenantWallet(endpoint.url, world.chain.accounts[TENANT].private_key))
    truth = await wallet.authorize(world.deployment.token, Transfer(world.escrow, 1, 0, 2**40, NONCE))
    renamed = "0x" + "20".rjust(64, "0") + "3".rjust(64, "0") + "4e6577".ljust(64, "0")
    endpoint.lies["eth_call"] = _the_first(renamed)
    said = await wallet.authorize(world.deployment.token, Transfer(world.escrow, 1, 0, 2**40, NONCE))
    assert said.signature == truth.signature


async def test_nothing_is_signed_in_a_domain_that_is_not_the_tokens(world: Any) -> None:
    on = await strict(world, salted=False)
    (endpoint,) = await world.endpoints(1)
    wallet = await world.stack.enter_async_context(TenantWallet(endpoint.url, world.chain.accounts[TENANT].private_key))
    transfer = Transfer(on.escrow, 40, 0, 2**40, NONCE)
    endpoint.lies["eth_call"] = lambda real: "0x" + "5e" * 32 if len(real) == 66 else real
    with pytest.raises(ChainError, match=r"DOMAIN_SEPARATOR\(\) is 0x5e5e.*deposit with an approval"):
        await wallet.authorize(on.token, transfer)
    endpoint.lies["eth_call"] = lambda real: "0x" if len(real) == 66 else real
    with pytest.raises(ChainError, match=r"answers no DOMAIN_SEPARATOR\(\)"):
        await wallet.authorize(on.token, transfer)
    endpoint.errors["eth_call"] = {"code": -32005, "message": "rate limited"}
    with pytest.raises(ChainError, match="reading the token's name"):
        await wallet.authorize(on.token, transfer)


def _the_first(answer: str) -> Any:
    """A lie that is told once."""
    left = [answer]
    return lambda real: left.pop() if left else real
