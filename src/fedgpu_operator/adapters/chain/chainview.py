"""What of the chain itself everybody here needs: blocks, nonces and fees; no contract is known here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from eth_utils.address import to_checksum_address
from web3.types import BlockIdentifier, RPCEndpoint

from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.domain.transactions import FeeView, Nonces


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header, as far as we use it; `timestamp` in Unix seconds."""

    number: int
    hash: str
    timestamp: int


async def block_at(rpc: Rpc, name: BlockIdentifier) -> Block:
    """The block of that number or tag."""
    with rpc.speaking("reading a block"):
        header = await rpc.w3.eth.get_block(name)
        return Block(header["number"], header["hash"].to_0x_hex(), header["timestamp"])


async def first_block_since(rpc: Rpc, timestamp: int, low: int, high: int) -> int:
    """The lowest block from `low` on whose time is at least `timestamp`; `high` + 1 where there is none up to it."""
    high += 1
    while low < high:
        middle = (low + high) // 2
        if (await block_at(rpc, middle)).timestamp < timestamp:
            low = middle + 1
        else:
            high = middle
    return low


async def nonces_of(rpc: Rpc, account: str) -> Nonces:
    """The next nonce of an account, by finalized blocks, by all blocks, and by what waits in pools."""
    owner, eth = to_checksum_address(account), rpc.w3.eth
    with rpc.speaking("reading a nonce"):
        # In this order, so that what is mined in between can only raise the later ones.
        finalized = await eth.get_transaction_count(owner, "finalized")
        latest = await eth.get_transaction_count(owner, "latest")
        pending = await eth.get_transaction_count(owner, "pending")
    return Nonces(finalized, max(latest, finalized), max(pending, latest, finalized))


async def next_nonce(rpc: Rpc, account: str) -> int:
    """The next nonce of an account with what waits in pools counted."""
    with rpc.speaking("reading a nonce"):
        return await rpc.w3.eth.get_transaction_count(to_checksum_address(account), "pending")


async def fees_asked(rpc: Rpc) -> FeeView:
    """The base fee of the newest block and the tip that endpoints suggest."""
    with rpc.speaking("reading fees"):
        # Not `eth.max_priority_fee`: where that is refused, web3 guesses from the fee history, with a warning.
        asked = rpc.w3.manager.coro_request(RPCEndpoint("eth_maxPriorityFeePerGas"), [])
        tip, head = await asyncio.gather(asked, rpc.w3.eth.get_block("latest"))
        return FeeView(base_fee=head.get("baseFeePerGas", 0), tip=int(str(tip), 16))
