"""The connection to a chain: every failure as an error of the project's tree, and blocks, nonces and fees.

No contract is known here. An endpoint's address often carries an API key in its path, so messages name the host alone
and drop the causes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from types import TracebackType
from typing import Final, Self

from eth_utils.address import to_checksum_address
from web3 import AsyncWeb3
from web3.exceptions import BadFunctionCallOutput, BadResponseFormat, BlockNotFound, Web3Exception
from web3.types import BlockIdentifier, RPCEndpoint

from fedgpu_operator.adapters.chain.endpoint import SILENCE, Patience, authorities, why_silent
from fedgpu_operator.adapters.chain.errors import AnswerError, explain
from fedgpu_operator.adapters.chain.quorum import QuorumProvider
from fedgpu_operator.adapters.chain.votes import FEE_HISTORY, TIP
from fedgpu_operator.adapters.chain.wordings import SEND, Meaning
from fedgpu_operator.adapters.requests import FINALIZED
from fedgpu_operator.domain.transactions import FeeView, Nonces
from fedgpu_operator.errors import (
    ChainError,
    ChainMismatchError,
    ChainUnreachableError,
    NotTakenError,
    Refusal,
    RevertedError,
    StatePrunedError,
)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """URLs of endpoints, and a PEM file of further authorities that may sign their certificates."""

    urls: tuple[str, ...] = field(repr=False)
    ca_file: Path | None = None

    @classmethod
    def of(cls, addresses: Addresses) -> Endpoints:
        """Whatever way they were written."""
        if isinstance(addresses, Endpoints):
            return addresses
        return cls((addresses,) if isinstance(addresses, str) else tuple(addresses))


Addresses = str | Sequence[str] | Endpoints
"""One endpoint's URL, or several of which a quorum must agree."""


NOT_TAKEN: Final[Mapping[Meaning, Refusal]] = {
    Meaning.UNDERPRICED: Refusal.UNDERPRICED,
    Meaning.TOO_LARGE: Refusal.TOO_LARGE,
    Meaning.FEE_CAPPED: Refusal.FEE_CAPPED,
    Meaning.POOR: Refusal.POOR,
    Meaning.GAS_TOO_LOW: Refusal.GAS_TOO_LOW,
    Meaning.NONCE_USED: Refusal.NONCE_USED,
}
"""Why a transaction is not taken, or would not be, by what the node means; any other error to a send is OTHER."""

ARCHIVE: Final = (
    "an archive node (geth: --gcmode=archive --history.state=90000), or a provider that keeps old state and logs, is "
    "needed (docs/chains.md)"
)


class Rpc:
    """A connection to one endpoint or several; `timeout` is seconds per request.

    A reading that was turned away is repeated twice, with `patience` until it is answered; what is sent goes out once.

    `quorum` is how many must agree, by default more than half; ConfigurationError for less. With `chain_id` an
    endpoint that serves another chain does not count.
    """

    def __init__(
        self,
        rpc: Addresses,
        *,
        quorum: int | None = None,
        timeout: float = 10.0,
        chain_id: int | None = None,
        patience: Patience | None = None,
    ) -> None:
        given = Endpoints.of(rpc)
        trust = authorities(given.ca_file)
        self._provider = QuorumProvider(given.urls, quorum, timeout, chain_id, trust, patience)
        self.w3: AsyncWeb3[QuorumProvider] = AsyncWeb3(self._provider)
        # It asks for the chain id before every call, and refuses the blocks of proof-of-authority chains.
        self.w3.middleware_onion.remove("validation")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._provider.name})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._provider.disconnect()

    @contextmanager
    def speaking(self, what: str) -> Iterator[None]:
        """Translate what goes wrong while doing `what` into the error tree.

        ChainUnreachableError if nothing usable came back, not now, or too few agree; RevertedError if the
        contract refused; NotTakenError if a quorum refuses a transaction, or would refuse one as large as the call
        that was estimated, or the sender cannot pay; StatePrunedError if the node does not keep what was asked for;
        ChainMismatchError if the endpoints serve another chain; ChainError for any other answer. Messages carry the
        provider's own words.
        """
        name = self._provider.name
        try:
            yield
        except (ChainUnreachableError, ChainMismatchError) as error:
            raise type(error)(f"{what}: {error}") from None
        except AnswerError as error:
            raise _translated(what, name, error) from None
        except BadResponseFormat as error:
            raise ChainUnreachableError(f"{what}: {name} gives no usable answer ({type(error).__name__})") from None
        except BlockNotFound:
            raise ChainUnreachableError(f"{what}: {name} has no such block now") from None
        except BadFunctionCallOutput:
            raise ChainError(f"{what}: contract not found at that block on {name}") from None
        except Web3Exception as error:
            raise ChainError(f"{what}: {type(error).__name__}") from None
        except (*SILENCE, TypeError, LookupError, AttributeError) as error:
            # An answer that is JSON-RPC, and yet nothing that web3 or we can read: endpoints send whatever they like.
            raise ChainUnreachableError(f"{what}: {name} gives no usable answer ({why_silent(error)})") from None


def _translated(what: str, name: str, error: AnswerError) -> ChainError:
    """The error tree's own for an error that the endpoints answer alike."""
    fault, meaning = error.fault, error.fault.meaning
    said = f"{what}: {name} answers {fault.words}"
    if meaning in {Meaning.WAIT, Meaning.DENIED}:
        return ChainUnreachableError(said)
    if meaning in NOT_TAKEN or error.method == SEND:
        text = f"{said} ({error.others})" if error.others else said
        return NotTakenError(text, NOT_TAKEN.get(meaning, Refusal.OTHER), certain=not error.others)
    if meaning is Meaning.REVERTED:
        return RevertedError(f"{what}: {explain(fault.revert, fault.words)}")
    if meaning is Meaning.PRUNED:
        return StatePrunedError(f"{said}: it no longer keeps what was read; {ARCHIVE}")
    return ChainError(said)


TIP_BLOCKS: Final = 10
"""So many newest blocks' median tips are looked at where endpoints suggest none."""
FRESH_S: Final = 600
"""Seconds; a node whose newest block is older is behind, or its chain makes blocks only for transactions."""


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """A block's header, as far as we use it; `timestamp` in Unix seconds."""

    number: int
    hash: str
    timestamp: int


async def block_at(rpc: Rpc, name: BlockIdentifier) -> BlockHeader:
    """The block of that number or tag."""
    with rpc.speaking("reading a block"):
        header = await rpc.w3.eth.get_block(name)
        found = BlockHeader(header["number"], header["hash"].to_0x_hex(), header["timestamp"])
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
    """Read `address` in the state of the newest finalized block; StatePrunedError with the lag if it is not kept.

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

    Where they do not know `eth_maxPriorityFeePerGas` it is what the newest blocks paid, or if nobody paid any, what
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
    """The raw result; None if the method is not known."""
    try:
        # Not `eth.max_priority_fee`: where that is refused, web3 guesses from the fee history, with a warning.
        return await rpc.w3.manager.coro_request(RPCEndpoint(method), params)
    except AnswerError as error:
        if error.fault.meaning is not Meaning.UNSUPPORTED:
            raise
        return None
