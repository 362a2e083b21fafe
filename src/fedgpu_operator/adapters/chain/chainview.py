"""What of the chain itself everybody here needs: blocks, nonces and fees; no contract is known here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from eth_utils.address import to_checksum_address
from web3.types import BlockIdentifier, RPCEndpoint

from fedgpu_operator.adapters.chain.answers import AnswerError
from fedgpu_operator.adapters.chain.rpc import ARCHIVE, Rpc
from fedgpu_operator.adapters.chain.votes import FEE_HISTORY, TIP
from fedgpu_operator.adapters.chain.wordings import Meaning
from fedgpu_operator.adapters.requests import FINALIZED
from fedgpu_operator.domain.transactions import FeeView, Nonces
from fedgpu_operator.errors import ChainError, ChainUnreachableError, StatePrunedError

TIP_BLOCKS: Final = 10
"""So many newest blocks' median tips are looked at where endpoints suggest none."""
FRESH_S: Final = 600
"""Seconds; a node whose newest block is older is behind, or its chain makes blocks only for transactions."""


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
        found = Block(header["number"], header["hash"].to_0x_hex(), header["timestamp"])
    if name == "finalized":
        FINALIZED.set(found.timestamp)
    return found


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


async def state_kept(rpc: Rpc, address: str) -> None:
    """Read `address` in the state of the newest finalized block; StatePrunedError with the lag where it is not kept.

    A full node drops state after a fixed number of blocks, 128 at geth's defaults, and finality may lag more.
    """
    final = await block_at(rpc, "finalized")
    lag = max(0, (await block_at(rpc, "latest")).number - final.number)
    behind = f"finality is {lag} blocks behind the newest block"
    asked = [to_checksum_address(address), hex(final.number)]
    try:
        with rpc.speaking("reading the state of the finalized block"):
            code = await rpc.w3.manager.coro_request(RPCEndpoint("eth_getCode"), asked)
    except StatePrunedError as error:
        raise StatePrunedError(f"{error}; {behind}") from None
    if code is None:
        # Besu's answer for a block that it has and whose state it has not (EthGetCode.java).
        raise StatePrunedError(f"{rpc!r} has no state of the finalized block: {ARCHIVE}; {behind}")


async def behind(rpc: Rpc, old_is_behind: bool) -> str:
    """Why the endpoints may not have got to the chain's newest block, empty if they have.

    They say so themselves, or have no block but the first, or, with `old_is_behind`, none of the last FRESH_S seconds:
    a node without peers says that it is in sync.
    """
    try:
        with rpc.speaking("asking whether the node is in sync"):
            if await rpc.w3.eth.syncing:
                return f"{rpc!r} is catching up with the chain"
    except ChainUnreachableError:
        raise
    except ChainError:
        # Some gateways do not have the method.
        pass
    head = await block_at(rpc, "latest")
    age = int(time.time()) - head.timestamp
    if not head.number:
        return f"{rpc!r} has no block but the first"
    return f"the newest block of {rpc!r} is {age} s old" if old_is_behind and age > FRESH_S else ""


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
    """The base fee of the newest block, 0 on a chain without one, and the tip that endpoints suggest.

    Where they do not know `eth_maxPriorityFeePerGas` it is what the newest blocks paid, or where nobody paid any, what
    the gas price is above the base fee.
    """
    with rpc.speaking("reading fees"):
        tip, head = await asyncio.gather(_known(rpc, TIP, []), rpc.w3.eth.get_block("latest"))
        base_fee = head.get("baseFeePerGas", 0)
        if tip is not None:
            return FeeView(base_fee=base_fee, tip=int(str(tip), 16))
        history = await _known(rpc, FEE_HISTORY, [hex(TIP_BLOCKS), hex(head["number"]), [50]])
        rewards = history.get("reward") or [] if isinstance(history, Mapping) else []
        paid = [wei for row in rewards if (wei := int(str(row[0]), 16)) > 0]
        return FeeView(base_fee, median_low(paid) if paid else max(0, await rpc.w3.eth.gas_price - base_fee))


async def _known(rpc: Rpc, method: str, params: list[object]) -> object:
    """The raw result; None where the method is not known."""
    try:
        # Not `eth.max_priority_fee`: where that is refused, web3 guesses from the fee history, with a warning.
        return await rpc.w3.manager.coro_request(RPCEndpoint(method), params)
    except AnswerError as error:
        if error.fault.meaning is not Meaning.UNSUPPORTED:
            raise
        return None
