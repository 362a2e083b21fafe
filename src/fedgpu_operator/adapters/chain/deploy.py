"""Puts an escrow (and, where none is given, a test token) on a chain; for the lab, the tests and a first set-up."""

from __future__ import annotations

import asyncio
from typing import cast

from eth_typing import ABI, ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from web3.exceptions import TransactionNotFound

from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.adapters.chain.sender import Sender
from fedgpu_operator.artifacts import ContractName, load
from fedgpu_operator.domain.settlement import Deployment
from fedgpu_operator.errors import ChainError, RevertedError

PATIENCE_S = 60.0
"""How long a deployment may take to get into a block."""

POLL_S = 0.1


async def deploy(
    rpc_url: str,
    key: str,
    *,
    challenge_seconds: int,
    notice_seconds: int,
    settler: str,
    guardian: str,
    admin: str | None = None,
    token: str | None = None,
) -> Deployment:
    """Deploy a ComputeEscrow and wait until it is in a block.

    `key` pays for it; `admin` (default: its address) may appoint settler and guardian. Without `token` a TestUSD that
    anybody can mint is deployed first. The notice is at least twice the challenge window and a day: RevertedError
    with BadPeriods otherwise.
    """
    async with Rpc(rpc_url) as rpc:
        sender = Sender(rpc, key)
        coin = to_checksum_address(token) if token else await _create(rpc, sender, "TestUSD")
        escrow = await _create(
            rpc,
            sender,
            "ComputeEscrow",
            coin,
            to_checksum_address(admin or sender.address),
            to_checksum_address(settler),
            to_checksum_address(guardian),
            challenge_seconds,
            notice_seconds,
        )
        with rpc.speaking("reading the chain id"):
            chain_id = await rpc.w3.eth.chain_id
    return Deployment(chain_id=chain_id, token=coin, escrow=escrow)


async def _create(rpc: Rpc, sender: Sender, name: ContractName, *arguments: object) -> ChecksumAddress:
    artifact = load(name)
    factory = rpc.w3.eth.contract(abi=cast("ABI", artifact.abi), bytecode=artifact.bytecode)
    data = factory.constructor(*arguments).data_in_transaction
    tx_hash = await sender.send(f"deploying {name}", None, data)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await _address(rpc, tx_hash, name)
    except TimeoutError:
        raise ChainError(f"{name} did not get into a block within {PATIENCE_S:.0f} s") from None


async def _address(rpc: Rpc, tx_hash: str, name: str) -> ChecksumAddress:
    while True:
        with rpc.speaking(f"deploying {name}"):
            try:
                receipt = await rpc.w3.eth.get_transaction_receipt(HexStr(tx_hash))
            except TransactionNotFound:
                receipt = None
        if receipt is not None:
            address = receipt["contractAddress"]
            if receipt["status"] != 1 or address is None:
                raise RevertedError(f"deploying {name} failed in block {receipt['blockNumber']}")
            return address
        await asyncio.sleep(POLL_S)
