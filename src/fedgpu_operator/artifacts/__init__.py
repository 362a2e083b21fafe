"""Compiled contracts as package data and how to read them; written by hack/build_contracts.py, never by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

from fedgpu_operator.errors import ConfigurationError

ContractName = Literal["ComputeEscrow", "ProviderStake", "Batch", "TimelockController", "TestUSD", "StrictUSD"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract.

    `bytecode` is the creation code without constructor arguments, `deployed_bytecode` the code on chain with zeros
    at `immutables` (start, length in bytes). `input_sha256` is the hash of `compiler_input(name)`.
    """

    name: str
    abi: tuple[dict[str, object], ...]
    bytecode: str
    deployed_bytecode: str
    immutables: tuple[tuple[int, int], ...]
    compiler: str
    input_sha256: str
    test_only: bool

    def masked(self, code: bytes) -> bytes:
        """`code` with zeros where this contract keeps its immutables, to be compared with `deployed_bytecode`."""
        plain = bytearray(code)
        for start, length in self.immutables:
            if start + length <= len(plain):
                plain[start : start + length] = bytes(length)
        return bytes(plain)

    def is_deployed_as(self, code: bytes) -> bool:
        """Whether `code`, read from a chain, is this contract whatever its constructor arguments were."""
        return self.masked(code) == bytes.fromhex(self.deployed_bytecode.removeprefix("0x"))


@cache
def load(name: ContractName) -> Artifact:
    """Read a packaged contract; ConfigurationError when the installation lacks it."""
    resource = files(__package__).joinpath(f"{name}.json")
    try:
        raw = json.loads(resource.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"the package lacks its contract {name}: reinstall fedgpu-operator") from error
    return Artifact(
        name=raw["name"],
        abi=tuple(cast("list[dict[str, object]]", raw["abi"])),
        bytecode=raw["bytecode"],
        deployed_bytecode=raw["deployedBytecode"],
        immutables=tuple((start, length) for start, length in raw["immutables"]),
        compiler=raw["compiler"],
        input_sha256=raw["inputSha256"],
        test_only=raw["testOnly"],
    )


def compiler_input(name: ContractName) -> bytes:
    """The standard-JSON input that solc alone makes a contract's bytecode of, for whoever wants to check that."""
    return files(__package__).joinpath(f"{name}.input.json").read_bytes()
