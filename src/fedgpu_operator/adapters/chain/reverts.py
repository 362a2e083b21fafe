"""Turns the bytes of a revert into words, by the packaged contracts' own error definitions; pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final, cast

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak
from web3.exceptions import ContractLogicError

from fedgpu_operator.artifacts import ContractName, load

PACKAGED: Final[tuple[ContractName, ...]] = ("TimelockController", "ProviderStake", "Batch", "TestUSD", "ComputeEscrow")
"""Where two define an error of one name and type, the last one's names of the arguments are shown."""


def explain(error: ContractLogicError) -> str:
    """The custom error with its arguments, such as ``StaleState(seq=1, prevRoot=0x…)``; else the node's words."""
    data = error.data if isinstance(error.data, str) else ""
    try:
        raw = bytes.fromhex(data.removeprefix("0x"))
    except ValueError:
        raw = b""
    known = _errors().get(raw[:4])
    if known is None:
        return f"an unknown error {data[:74]}" if raw else error.message or "reverted without a reason"
    name, fields = known
    try:
        values = decode([kind for _, kind in fields], raw[4:])
    except DecodingError:
        return name
    said = ", ".join(f"{field}={_text(value)}" for (field, _), value in zip(fields, values, strict=True))
    return f"{name}({said})"


@cache
def _errors() -> dict[bytes, tuple[str, list[tuple[str, str]]]]:
    """Selector → (name, [(argument, type)]) of every error the packaged contracts can raise."""
    return {
        keccak(f"{name}({','.join(kind for _, kind in fields)})".encode())[:4]: (name, fields)
        for name, fields in _definitions()
    }


def _definitions() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for entry in (entry for name in PACKAGED for entry in load(name).abi):
        if entry["type"] == "error":
            inputs = cast("list[dict[str, str]]", entry["inputs"])
            yield str(entry["name"]), [(field["name"], field["type"]) for field in inputs]


def _text(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
