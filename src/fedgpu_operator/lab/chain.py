"""The lab's chain: a real EVM node (anvil) on loopback whose clock may be moved forward."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from eth_utils.address import to_checksum_address

from fedgpu_operator.adapters.chain import Roles
from fedgpu_operator.errors import ChainError, ChainUnreachableError
from fedgpu_operator.lab.process import Child, Rank, Watchdog, end

CHAIN_ID = 31337
START_TIMEOUT_S = 30.0
ACCOUNTS = 24


@dataclass(frozen=True)
class Account:
    """A funded account of the lab's chain. Its key is known to the whole world: for the lab only."""

    address: str
    private_key: str


class Chain:
    """anvil with a block each second, so that time passes without transactions.

    With `slots_in_an_epoch` 1, `safe` is latest - 1 and `finalized` is latest - 2.
    """

    def __init__(
        self,
        binary: Path,
        *,
        directory: Path,
        port: int,
        watchdog: Watchdog,
        block_time: int = 1,
        slots_in_an_epoch: int = 1,
    ) -> None:
        directory.mkdir(mode=0o700)
        self.rpc_url, self.chain_id = f"http://127.0.0.1:{port}", CHAIN_ID
        argv: Sequence[str | Path] = [
            binary,
            "--host=127.0.0.1",
            f"--port={port}",
            f"--chain-id={CHAIN_ID}",
            f"--block-time={block_time}",
            f"--slots-in-an-epoch={slots_in_an_epoch}",
            f"--accounts={ACCOUNTS}",
            # EIP-7825, 2^24 gas per transaction: anvil knows it and does not enforce it by itself.
            "--enable-tx-gas-limit",
            f"--config-out={directory / 'accounts.json'}",
            # What a restart needs to go on where it was.
            f"--state={directory / 'state.json'}",
        ]
        self._accounts_file = directory / "accounts.json"
        self._child = Child("anvil", argv, log=directory / "anvil.log", rank=Rank.CLIENT, watchdog=watchdog)
        self._client = httpx.Client(base_url=self.rpc_url, timeout=15.0, trust_env=False)
        self.accounts: tuple[Account, ...] = ()

    @property
    def roles(self) -> Roles:
        """A holder for each role of an escrow: the first accounts own it and settle, the last hold the other roles."""
        owner, settler, *_, reserve, guardian, arbiter, meter = (account.address for account in self.accounts)
        return Roles(settler, meter, arbiter, guardian, reserve, owners=(owner,))

    @property
    def children(self) -> list[Child]:
        """The one process of the chain."""
        return [self._child]

    @property
    def running(self) -> bool:
        """Whether the process lives (it may be paused)."""
        return self._child.running

    def start(self) -> None:
        """Start, or go on after stop() with the same port and state; returns when it answers."""
        self._child.start()
        self._child.wait_until(self._answers, timeout=START_TIMEOUT_S, what="an answer to eth_chainId")
        self.accounts = self._read_accounts()

    def stop(self) -> None:
        """End the process; it writes its state first."""
        end([self._child])

    def pause(self) -> None:
        """Freeze the process: connections are taken, nothing answers."""
        self._child.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo pause()."""
        self._child.signal(signal.SIGCONT)

    def close(self) -> None:
        """Let go of the connection to a chain that has ended."""
        self._client.close()

    def jump(self, seconds: int) -> None:
        """Move the chain's clock `seconds` forward and mine a block there."""
        self.rpc("evm_increaseTime", seconds)
        self.rpc("evm_mine")

    def mine(self, blocks: int = 1) -> None:
        """Mine blocks at once, for instance to let a transaction become final."""
        self.rpc("anvil_mine", hex(blocks))

    def rpc(self, method: str, *params: object) -> object:
        """One JSON-RPC call; its result. ChainUnreachableError without an answer, ChainError when refused."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        try:
            answer = self._client.post("/", json=request)
        except httpx.TransportError as error:
            raise ChainUnreachableError(f"{method}: {error}") from error
        document = answer.json()
        if not isinstance(document, dict) or "result" not in document:
            raise ChainError(f"{method}: {answer.text}")
        result: object = document["result"]
        return result

    def _answers(self) -> bool:
        try:
            return self.rpc("eth_chainId") == hex(CHAIN_ID)
        except ChainUnreachableError:
            return False

    def _read_accounts(self) -> tuple[Account, ...]:
        document = json.loads(self._accounts_file.read_text())
        pairs = zip(document["available_accounts"], document["private_keys"], strict=True)
        return tuple(Account(to_checksum_address(address), key) for address, key in pairs)
