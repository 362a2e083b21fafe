"""A fresh anvil and the few words in which the benchmark speaks to it: deploy, send as anybody, warp; raw JSON-RPC."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from eth_abi.abi import encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from fedgpu_lab import toolchain
from fedgpu_lab.chain import Anvil, Chain
from fedgpu_lab.process import Watchdog, end, free_ports
from fedgpu_operator.settlement import MAX_TX_GAS

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Mined:
    """What a transaction did: the gas its sender paid for, and its calldata."""

    gas: int
    data: bytes
    ok: bool
    contract: str | None


BLOCK_GAS: Final = 60_000_000
"""Ethereum's since Fusaka (EIP-7935)."""


class Evm:
    """Sends in anybody's name; every transaction is mined at once in a block of its own."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        chain.rpc("evm_setIntervalMining", 0)
        chain.rpc("evm_setAutomine", False)
        chain.rpc("anvil_autoImpersonateAccount", True)
        chain.rpc("anvil_setBlockGasLimit", hex(BLOCK_GAS))
        self.deployer = chain.accounts[0].address
        self._funded: set[str] = {self.deployer}

    def send(self, sender: str, to: str | None, data: bytes, *, must: bool = True) -> Mined:
        """Mine one transaction; RuntimeError where it must not fail and does."""
        if sender not in self._funded:
            self._chain.rpc("anvil_setBalance", sender, hex(10**20))
            self._funded.add(sender)
        request = {"from": sender, "data": "0x" + data.hex(), "gas": hex(MAX_TX_GAS)} | ({"to": to} if to else {})
        tx_hash = self._chain.rpc("eth_sendTransaction", request)
        self._chain.rpc("evm_mine")
        receipt = cast("Json", self._chain.rpc("eth_getTransactionReceipt", tx_hash))
        mined = Mined(
            int(str(receipt["gasUsed"]), 16),
            data,
            receipt["status"] == "0x1",
            str(receipt["contractAddress"]) if receipt.get("contractAddress") else None,
        )
        if must and not mined.ok:
            reason = self._chain.rpc("debug_traceTransaction", tx_hash, {"tracer": "callTracer"})
            raise RuntimeError(f"reverted: {json.dumps(reason)[:600]}")
        return mined

    def deploy(self, bytecode: str, types: Sequence[str] = (), values: Sequence[object] = ()) -> str:
        """Deploy creation code with constructor arguments; the address."""
        code = bytes.fromhex(bytecode.removeprefix("0x")) + encode(types, values)
        contract = self.send(self.deployer, None, code).contract
        if contract is None:
            raise RuntimeError("nothing was deployed")
        return str(to_checksum_address(contract))

    def read(self, to: str, data: bytes) -> bytes:
        """Call without a transaction."""
        answer = self._chain.rpc("eth_call", {"to": to, "data": "0x" + data.hex()}, "latest")
        return bytes.fromhex(str(answer)[2:])

    def warp(self, seconds: int) -> None:
        """Let time pass."""
        self._chain.jump(seconds)

    def now(self) -> int:
        """The newest block's time."""
        block = cast("Json", self._chain.rpc("eth_getBlockByNumber", "latest", False))
        return int(str(block["timestamp"]), 16)

    def version(self) -> str:
        """The node and the rules it follows."""
        return str(self._chain.rpc("web3_clientVersion"))


def call(signature: str, *values: object) -> bytes:
    """Calldata of `name(types)`; types may hold tuples."""
    types = _split(signature[signature.index("(") + 1 : -1])
    return keccak(text=signature)[:4] + encode(types, values)


def _split(types: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for letter in types:
        if letter == "," and depth == 0:
            parts.append(current)
            current = ""
            continue
        depth += {"(": 1, ")": -1}.get(letter, 0)
        current += letter
    return [*parts, current] if current else parts


@contextmanager
def evm() -> Iterator[Evm]:
    """An anvil of its own on loopback."""
    binary = toolchain.ensure(["anvil"])["anvil"]
    watchdog = Watchdog()
    with tempfile.TemporaryDirectory(prefix="fedgpu-gas-") as folder:
        chain = Anvil(binary, directory=Path(folder) / "chain", port=free_ports(1)[0], watchdog=watchdog)
        try:
            chain.start()
            yield Evm(chain)
        finally:
            end(chain.children)
            chain.close()
            watchdog.close()
