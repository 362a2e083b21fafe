"""Hardhat's node as a chain of the lab: it enforces the gas limit of a transaction and the step of a replacement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from fedgpu_lab.chain import (
    CHAIN_ID,
    FINALITY,
    FUNDS_WEI,
    Account,
    Chain,
    lab_accounts,
)
from fedgpu_lab.faultychain import FaultyEndpoint, FrontDoor
from fedgpu_lab.process import Child, Rank, Watchdog

BLOCK_GAS: Final = 60_000_000
"""Mainnet's block gas limit since November 2025."""


class Hardhat(Chain):
    """A Hardhat node of the Osaka fork, with mainnet's limits: 2^24 gas a transaction, 24 KiB a contract.

    Hardhat calls its newest block final; so that finality has a distance here too, `rpc_url` is a front door at which
    `safe` and `finalized` are `finality` blocks behind. Nothing is kept over a stop. There is no reorg.
    """

    dialect = "hardhat"
    keeps_state = False
    reorgs = False

    def __init__(
        self,
        node: Path,
        program: Path,
        *,
        directory: Path,
        port: int,
        watchdog: Watchdog,
        block_time: int = 1,
        finality: int = FINALITY,
    ) -> None:
        directory.mkdir(mode=0o700)
        # Hardhat runs from a project that has it installed.
        (directory / "node_modules").symlink_to(next(p for p in program.parents if p.name == "node_modules"))
        (directory / "hardhat.config.js").write_text(f"module.exports = {json.dumps(_settings(block_time))};\n")
        child = Child(
            "hardhat",
            [node, program, "node", "--hostname", "127.0.0.1", "--port", str(port)],
            log=directory / "hardhat.log",
            rank=Rank.CLIENT,
            watchdog=watchdog,
            env={
                "HARDHAT_DISABLE_TELEMETRY_PROMPT": "true",
                **{f"XDG_{kind}_HOME": str(directory) for kind in ("DATA", "CONFIG", "CACHE", "STATE")},
            },
        )
        super().__init__(child, f"http://127.0.0.1:{port}", finality=finality)
        endpoint = FaultyEndpoint(self.rpc_url)
        endpoint.finality = finality
        self._door = FrontDoor(endpoint)

    def start(self) -> None:
        super().start()
        self._door.open()
        self.rpc_url = self._door.url

    def close(self) -> None:
        self._door.close()
        super().close()

    def mine(self, blocks: int = 1) -> None:
        # hardhat_mine sets long rows aside without executing them, and knows no state of what is in between.
        for _ in range(blocks):
            self.rpc("evm_mine")

    def drop_all(self) -> None:
        waiting = self.rpc("eth_pendingTransactions")
        for each in waiting if isinstance(waiting, list) else ():
            self.drop(each["hash"])

    def _read_accounts(self) -> tuple[Account, ...]:
        return lab_accounts()


def _settings(block_time: int) -> dict[str, object]:
    network = {
        "chainId": CHAIN_ID,
        "hardfork": "osaka",
        "allowUnlimitedContractSize": False,
        "blockGasLimit": BLOCK_GAS,
        "accounts": [{"privateKey": each.private_key, "balance": str(FUNDS_WEI)} for each in lab_accounts()],
        # A node gives the hash of what it took, whatever becomes of it.
        "throwOnTransactionFailures": False,
        "mining": {"auto": True, "interval": block_time * 1000, "mempool": {"order": "priority"}},
    }
    # Nothing is compiled; Hardhat insists on a version.
    return {"solidity": "0.8.30", "networks": {"hardhat": network}}
