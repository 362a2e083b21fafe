"""The escrow's functions as calls, encoded by the packaged ABI; pure: nothing is read, simulated or sent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import cast

from eth_abi.abi import encode as abi_encode
from eth_typing import ABI, ChecksumAddress, HexStr
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from web3 import Web3
from web3.contract import Contract
from web3.contract.async_contract import AsyncContract

from fedgpu_operator.adapters.chain.rpc import Rpc
from fedgpu_operator.artifacts import ContractName, load
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Answer, Claim, EpochPlan, Line, Receipt
from fedgpu_operator.domain.transactions import Call

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
        raise ValueError(f"{function.fn_name} is no claim")
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
