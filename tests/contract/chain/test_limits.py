"""What a chain that enforces mainnet's limits refuses, in its own words."""

from __future__ import annotations

from typing import Any

import pytest

from fedgpu_operator.adapters.chain import LocalSigner
from fedgpu_operator.errors import ChainError

DEAR = 2 * 10**10
"""Wei per gas, at which all the gas of a transaction stays under geth's own limit of 1 ether."""
GAS_CAP = 2**24
"""EIP-7825, since Osaka: the most gas that a transaction may ask for."""


async def raw(world: Any, **changes: Any) -> str:
    """A signed transfer of nothing to oneself."""
    signer = LocalSigner(world.chain.accounts[7].private_key)
    nonce = int(str(world.chain.rpc("eth_getTransactionCount", signer.address, "latest")), 16)
    fees = {"maxFeePerGas": DEAR, "maxPriorityFeePerGas": 10**9}
    transaction = {"to": signer.address, "value": 0, "data": "0x", "nonce": nonce, "gas": 21_000, **fees, **changes}
    signed = await signer.sign_transaction({**transaction, "type": 2, "chainId": world.chain.chain_id})
    return "0x" + bytes(signed).hex()


@pytest.mark.chains("anvil", "hardhat", "geth")
async def test_a_transaction_may_ask_for_the_cap_and_for_no_gas_more(world: Any) -> None:
    assert world.chain.rpc("eth_sendRawTransaction", await raw(world, gas=GAS_CAP))
    world.chain.mine()
    refused = r"(?i)gas.*cap"
    with pytest.raises(ChainError, match=refused):
        world.chain.rpc("eth_sendRawTransaction", await raw(world, gas=GAS_CAP + 1))


@pytest.mark.chains("hardhat", "geth")
async def test_a_replacement_offers_a_tenth_more(world: Any) -> None:
    assert world.chain.rpc("eth_sendRawTransaction", await raw(world))
    with pytest.raises(ChainError, match=r"(?i)replacement transaction underpriced"):
        world.chain.rpc("eth_sendRawTransaction", await raw(world, maxFeePerGas=DEAR + 1))
    dearer = {"maxFeePerGas": DEAR * 11 // 10, "maxPriorityFeePerGas": 11 * 10**8}
    assert world.chain.rpc("eth_sendRawTransaction", await raw(world, **dearer))
