"""Several calls as one transaction, through a contract with Multicall3's `aggregate3`; decides nothing about them.

Ours (contracts/src/Batch.sol) has the same ABI as the one that is deployed on most public chains; neither has rights.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_typing import HexStr
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3.types import TxParams

from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import ChainError, ChainMismatchError, ChainUnreachableError, RevertedError

MULTICALL3: Final = "0xcA11bde05977b3631167028862bE2a173976CA11"
"""Where the canonical Multicall3 is, on every chain that has it (mds1/multicall3: the same presigned deployment)."""

FAILING_GAS: Final = 100_000
"""Set aside for each call of a bundle that would fail now: more than the escrow's own refusals cost."""
BYTE_GAS: Final = 16
"""Of a byte of calldata that is not zero (EIP-2028)."""

_CALLS: Final = "(address,bool,bytes)[]"
_RESULTS: Final = "(bool,bytes)[]"
_SELECTOR: Final = keccak(text=f"aggregate3({_CALLS})")[:4]


def bundle(batch: str, calls: Sequence[Call]) -> Call:
    """The calls as one of the batch contract at that address, each of which may fail alone."""
    return _bundle(batch, [(call.to or "", True, bytes.fromhex(call.data[2:])) for call in calls], calls[0].what)


def is_bundle(call: Call) -> bool:
    """Whether a call was made by `bundle`."""
    return bytes.fromhex(call.data[2:10]) == _SELECTOR


def bundled(call: Call) -> tuple[Call, ...]:
    """The calls that `bundle` put into this one, in their order; none of any other call."""
    return (
        tuple(Call(to, "0x" + inner.hex(), what=call.what) for to, _, inner in _items(call)) if is_bundle(call) else ()
    )


async def is_batch(rpc: Rpc, address: str) -> bool:
    """Whether a contract at that address bundles calls: asked to make none, it has to answer with no results.

    Raises ChainUnreachableError if the chain does not answer, ChainMismatchError if it is another chain.
    """
    try:
        return await _results(rpc, None, _bundle(address, [], "")) == []
    except (ChainUnreachableError, ChainMismatchError):
        raise
    except ChainError:
        return False


async def simulate(rpc: Rpc, sender: str, call: Call, estimate: Callable[[Call], Awaitable[int]]) -> int:
    """The gas limit to give a bundle; RevertedError if each of its calls would fail now.

    `estimate` is the gas limit of a call that must not fail. A node's estimate of the bundle itself is worthless: it is
    the least with which the transaction succeeds, and that is one in which calls run out of gas. So it is asked for the
    same calls with no failure allowed.
    """
    items = _items(call)
    results = await _results(rpc, sender, call)
    if len(results) != len(items):
        raise RevertedError(f"{call.what}: {call.to} does not answer as aggregate3 does")
    good = [(to, False, inner) for (to, _, inner), succeeds in zip(items, results, strict=True) if succeeds]
    if not good:
        raise RevertedError(f"{call.what}: each of the {len(items)} bundled calls would fail")
    failing = sum(
        FAILING_GAS + BYTE_GAS * len(inner) for (_, _, inner), ok in zip(items, results, strict=True) if not ok
    )
    return failing + await estimate(_bundle(call.to or "", good, call.what))


async def _results(rpc: Rpc, sender: str | None, call: Call) -> list[bool]:
    """Which calls of a bundle succeed at the newest block; RevertedError for what is no batch contract's answer."""
    asked: TxParams = {"to": to_checksum_address(call.to or ""), "data": HexStr(call.data)}
    if sender is not None:
        asked["from"] = to_checksum_address(sender)
    with rpc.speaking(call.what or "asking a batch contract"):
        said = await rpc.w3.eth.call(asked)
    try:
        return [bool(succeeded) for succeeded, _ in decode([_RESULTS], bytes(said))[0]]
    except DecodingError:
        raise RevertedError(f"{call.to} does not answer as aggregate3 does") from None


def _items(call: Call) -> list[tuple[str, bool, bytes]]:
    data = bytes.fromhex(call.data[10:])
    return [(to_checksum_address(to), bool(may), bytes(inner)) for to, may, inner in decode([_CALLS], data)[0]]


def _bundle(batch: str, items: Sequence[tuple[str, bool, bytes]], what: str) -> Call:
    data = _SELECTOR + encode([_CALLS], [list(items)])
    return Call(to_checksum_address(batch), "0x" + data.hex(), what=what)
