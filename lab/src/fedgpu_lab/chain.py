"""The lab's chains: real EVM nodes on loopback whose clock may be moved forward; here what they share, and anvil."""

from __future__ import annotations

import json
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import httpx
from eth_account import Account as Key
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from fedgpu_lab.process import Child, Rank, Watchdog, end
from fedgpu_operator.adapters.chain import Roles
from fedgpu_operator.errors import ChainError, ChainUnreachableError

CHAIN_ID: Final = 31337
START_TIMEOUT_S: Final = 30.0
ACCOUNTS: Final = 24
FUNDS_WEI: Final = 10_000 * 10**18
"""What each account of a new chain holds."""
FINALITY: Final = 2
"""Blocks from the newest to the finalized one, unless a chain is made with another number."""


@dataclass(frozen=True)
class Account:
    """A funded account of the lab's chain. Its key is known to the whole world: for the lab only."""

    address: str
    private_key: str


def lab_accounts() -> tuple[Account, ...]:
    """The accounts of the chains that take theirs from us."""
    keys = ("0x" + keccak(text=f"fedgpu lab account {number}").hex() for number in range(ACCOUNTS))
    return tuple(Account(str(Key.from_key(key).address), key) for key in keys)


class Chain(ABC):
    """One EVM node on loopback, with funded accounts and a clock that tests move.

    `rpc_url` is where clients are sent; `rpc` asks the node itself, past whatever stands in front of it. The newest
    block is `finality` blocks ahead of the finalized one. A new chain has automining on, and a block each
    `block_time` seconds (0: only those that somebody asks for).
    """

    dialect: ClassVar[str] = ""
    """What the node's own methods begin with: `anvil` for `anvil_setBalance`."""
    keeps_state: ClassVar[bool] = True
    """Whether a start after a stop goes on where the chain was."""
    reorgs: ClassVar[bool] = True
    """Whether reorg() is possible."""

    def __init__(self, child: Child, node_url: str, *, finality: int) -> None:
        self.rpc_url, self.chain_id, self.finality = node_url, CHAIN_ID, finality
        self.accounts: tuple[Account, ...] = ()
        self._child = child
        self._client = httpx.Client(base_url=node_url, timeout=30.0, trust_env=False)

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
        """Start, or go on after stop() with the same port; returns when it answers."""
        self._child.start()
        self._child.wait_until(self._answers, timeout=START_TIMEOUT_S, what="an answer to eth_chainId")
        self.accounts = self._read_accounts()

    def stop(self) -> None:
        """End the process; it writes its state first, if it keeps any."""
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
        self.own("mine", hex(blocks))

    def automine(self, on: bool) -> None:
        """Whether each transaction gets a block of its own as it comes in."""
        self.rpc("evm_setAutomine", on)

    def stop_clock(self) -> None:
        """No more blocks by time alone."""
        self.rpc("evm_setIntervalMining", 0)

    def snapshot(self) -> object:
        """A mark to which revert() goes back, once."""
        return self.rpc("evm_snapshot")

    def revert(self, mark: object) -> None:
        """The chain as it was at `mark`, with nothing in the pool."""
        self.drop_all()
        if self.rpc("evm_revert", mark) is not True:
            raise ChainError(f"no snapshot {mark}")

    @abstractmethod
    def drop_all(self) -> None:
        """Forget all transactions that are in no block."""

    def reorg(self, depth: int) -> None:
        """Replace the newest blocks by empty ones; what was in them is in no pool either."""
        self.own("reorg", depth, [])

    def drop(self, tx_hash: str) -> None:
        """Forget one transaction that is in no block; ChainError when it is not in the pool."""
        if not self.own("dropTransaction", tx_hash):
            raise ChainError(f"no transaction {tx_hash} in the pool")

    def set_base_fee(self, wei: int) -> None:
        """The base fee of the next block."""
        self.own("setNextBlockBaseFeePerGas", hex(wei))

    def set_balance(self, address: str, wei: int) -> None:
        self.own("setBalance", address, hex(wei))

    def set_code(self, address: str, code: str) -> None:
        self.own("setCode", address, code)

    def own(self, method: str, *params: object) -> object:
        """A call of a method that anvil and Hardhat have under their own names, such as `setBalance`."""
        return self.rpc(f"{self.dialect}_{method}", *params)

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

    @abstractmethod
    def _read_accounts(self) -> tuple[Account, ...]:
        """The funded accounts, once the node answers."""


class Anvil(Chain):
    """anvil: quick to start and able to reorganize, and laxer than mainnet: a replacement may be 1 wei dearer.

    anvil calls final what is two of its epochs old, so `finality` is even.
    """

    dialect = "anvil"

    def __init__(
        self,
        binary: Path,
        *,
        directory: Path,
        port: int,
        watchdog: Watchdog,
        block_time: int = 1,
        finality: int = FINALITY,
    ) -> None:
        directory.mkdir(mode=0o700)
        argv: Sequence[str | Path] = [
            binary,
            "--host=127.0.0.1",
            f"--port={port}",
            f"--chain-id={CHAIN_ID}",
            f"--block-time={block_time}",
            f"--slots-in-an-epoch={finality // 2}",
            f"--accounts={ACCOUNTS}",
            # EIP-7825, 2^24 gas per transaction: anvil knows it and does not enforce it by itself.
            "--enable-tx-gas-limit",
            f"--config-out={directory / 'accounts.json'}",
            # What a restart needs to go on where it was.
            f"--state={directory / 'state.json'}",
        ]
        self._accounts_file = directory / "accounts.json"
        child = Child("anvil", argv, log=directory / "anvil.log", rank=Rank.CLIENT, watchdog=watchdog)
        super().__init__(child, f"http://127.0.0.1:{port}", finality=finality)

    def drop_all(self) -> None:
        self.own("dropAllTransactions")

    def _read_accounts(self) -> tuple[Account, ...]:
        document = json.loads(self._accounts_file.read_text())
        pairs = zip(document["available_accounts"], document["private_keys"], strict=True)
        return tuple(Account(to_checksum_address(address), key) for address, key in pairs)
