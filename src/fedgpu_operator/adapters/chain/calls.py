"""The escrow's functions as calls, encoded by the packaged ABI, and several calls as one transaction; decides nothing.

Bundles go through a contract with Multicall3's `aggregate3`. Ours (contracts/src/Batch.sol) has the same ABI as the one
that is deployed on most public chains; neither has rights.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Final, cast

from eth_abi.abi import decode
from eth_abi.abi import encode as abi_encode
from eth_abi.exceptions import DecodingError
from eth_typing import ABI, ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract
from web3.contract.async_contract import AsyncContract
from web3.types import TxParams

from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.artifacts import ContractName, load
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Answer, Claim, EpochPlan, Line, Receipt
from fedgpu_operator.domain.transactions import Call
from fedgpu_operator.errors import ChainError, ChainMismatchError, ChainUnreachableError, RevertedError

NOBODY = "0x" + "00" * 20
"""The provider of a dispute that names none."""


def contract_at(rpc: Rpc, address: ChecksumAddress, name: ContractName = "ComputeEscrow") -> AsyncContract:
    """A contract object on a connection; structs come back with their fields' names."""
    abi = cast("ABI", load(name).abi)
    contract: AsyncContract = rpc.w3.eth.contract(address=address, abi=abi, decode_tuples=True)
    return contract


def encode(to: str, function: str, arguments: Sequence[object] = (), name: ContractName = "ComputeEscrow") -> Call:
    """A call of one of a packaged contract's functions, without gas."""
    data: str = _contract(name).encode_abi(function, list(arguments))
    return Call(to_checksum_address(to), data, what=function)


def post(escrow: str, plan: EpochPlan) -> Call:
    """The settler's postEpoch."""
    debits = [(to_checksum_address(tenant), amount) for tenant, amount in plan.debits.items()]
    roots = [HexStr(plan.prev_root), HexStr(plan.root), HexStr(plan.manifest_hash)]
    return encode(escrow, "postEpoch", [plan.seq, *roots, plan.period_end, debits])


def claim(escrow: str, epoch: int, claims: Sequence[Claim]) -> Call:
    """Anybody's claim of leaves of the active epoch."""
    leaves = [(to_checksum_address(each.provider), _lines(each.lines), _proof(each.proof)) for each in claims]
    return encode(escrow, "claim", [epoch, leaves])


def claimed(call: Call) -> tuple[int, list[Claim]]:
    """The epoch and the leaves that a claim was made of; ValueError for any other call."""
    function, arguments = _contract("ComputeEscrow").decode_function_input(HexStr(call.data))
    if function.fn_name != "claim":
        raise ValueError(f"{function.fn_name} is not a claim")
    leaves = [
        Claim(
            provider=to_checksum_address(leaf["provider"]),
            lines=tuple(
                Line(to_checksum_address(each["tenant"]), MicroUSD(each["cumulative"])) for each in leaf["lines"]
            ),
            proof=tuple("0x" + bytes(node).hex() for node in leaf["proof"]),
        )
        for leaf in arguments["credits"]
    ]
    return arguments["epoch"], leaves


def dispute(escrow: str, provider: str, amount: int, evidence: str, leaf: Claim | None, index: int) -> Call:
    """The tenant's dispute of a line, or with the provider NOBODY and no leaf of a debit that nothing explains."""
    lines, proof = (_lines(leaf.lines), _proof(leaf.proof)) if leaf is not None else ([], [])
    arguments = [to_checksum_address(provider), amount, HexStr(evidence), lines, index, proof]
    return encode(escrow, "dispute", arguments)


def answer(escrow: str, epoch: int, tenant: str, provider: str, answers: Sequence[Answer]) -> Call:
    """Anybody's answer to a dispute, by receipts of both signatures."""
    shown = [
        (
            to_checksum_address(each.provider),
            _lines(each.lines),
            each.index,
            _proof(each.proof),
            receipt_tuple(each.receipt),
            (to_checksum_address(each.meter), each.meter_signature, each.provider_signature),
        )
        for each in answers
    ]
    return encode(escrow, "answer", [epoch, to_checksum_address(tenant), to_checksum_address(provider), shown])


def of_dispute(escrow: str, function: str, epoch: int, tenant: str, provider: str, *more: object) -> Call:
    """Anybody's `close` or the arbiter's `rule` of a dispute."""
    return encode(escrow, function, [epoch, to_checksum_address(tenant), to_checksum_address(provider), *more])


def dispute_exit(escrow: str, provider: str, evidence: str) -> Call:
    """The tenant's disputeExit."""
    return encode(escrow, "disputeExit", [to_checksum_address(provider), HexStr(evidence)])


def exit_with(escrow: str, receipt: Receipt, meter: str, meter_signature: bytes, provider_signature: bytes) -> Call:
    """The provider's exit with a receipt of both signatures."""
    signatures = (to_checksum_address(meter), meter_signature, provider_signature)
    return encode(escrow, "exit", [receipt_tuple(receipt), signatures])


def erc1271(digest: bytes, signature: bytes) -> str:
    """The data of isValidSignature(bytes32,bytes) of a contract wallet."""
    selector = keccak(text="isValidSignature(bytes32,bytes)")[:4]
    return "0x" + (selector + abi_encode(["bytes32", "bytes"], [digest, signature])).hex()


def receipt_tuple(receipt: Receipt) -> tuple[object, ...]:
    """A receipt as the contract takes it."""
    return (
        to_checksum_address(receipt.tenant),
        to_checksum_address(receipt.provider),
        receipt.cumulative,
        receipt.period_end,
        HexStr(receipt.usage_root),
    )


@cache
def _contract(name: ContractName) -> type[Contract]:
    return Web3().eth.contract(abi=cast("ABI", load(name).abi))


def _lines(lines: Sequence[Line]) -> list[tuple[str, int]]:
    return [(to_checksum_address(line.tenant), line.cumulative) for line in lines]


def _proof(proof: Sequence[str]) -> list[HexStr]:
    return [HexStr(node) for node in proof]


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


async def simulate_bundle(rpc: Rpc, sender: str, call: Call, estimate: Callable[[Call], Awaitable[int]]) -> int:
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
    data = _SELECTOR + abi_encode([_CALLS], [list(items)])
    return Call(to_checksum_address(batch), "0x" + data.hex(), what=what)
