"""geth as a chain of the lab, with the lab in the place of its consensus client: time, finality and reorgs are ours."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Final

import httpx

from fedgpu_lab.chain import CHAIN_ID, FINALITY, FUNDS_WEI, START_TIMEOUT_S, Account, Chain, lab_accounts
from fedgpu_lab.faultychain import FaultyEndpoint, FrontDoor
from fedgpu_lab.process import Child, Rank, Watchdog, free_ports
from fedgpu_operator.errors import ChainError, LabError

BLOCK_GAS: Final = 60_000_000
ZERO: Final = "0x" + "00" * 32
BUILDING_S: Final = (0.05, 0.2, 0.8)
"""What geth gets, try after try, to fill a block when its pool is not empty: the first it offers is an empty one."""
LATER_FORKS: Final = frozenset({"amsterdamTime", "bogotaTime"})
MOST_DRAINED: Final = 5
"""Blocks in which a pool is emptied; what is too cheap for them stays in it."""
NODES_OWN: Final = (
    "evm_increaseTime",
    "evm_mine",
    "evm_setAutomine",
    "evm_setIntervalMining",
    "evm_snapshot",
    "evm_revert",
)
"""Methods of test nodes that the door answers in geth's place."""


class Geth(Chain):
    """A geth of the Osaka fork as it runs on a real network, but that its consensus client is this object.

    Blocks are made by the Engine API when somebody asks for one, or for each transaction; there are none by time
    alone. `rpc_url` is a door that has the `evm_` methods for time, blocks and snapshots too. Nothing of anvil's and
    Hardhat's other methods is there: no balance, code or base fee can be set.
    """

    dialect = "geth"

    def __init__(
        self,
        binary: Path,
        *,
        directory: Path,
        port: int,
        watchdog: Watchdog,
        block_time: int = 0,
        finality: int = FINALITY,
    ) -> None:
        del block_time
        directory.mkdir(mode=0o700)
        self._engine_port = free_ports(1)[0]
        self._secret = secrets.token_bytes(32)
        (directory / "jwt").write_text(self._secret.hex())
        (directory / "genesis.json").write_text(json.dumps(_genesis(binary, int(time.time()))))
        argv: list[str | Path] = [
            binary,
            f"--datadir={directory / 'data'}",
            f"--override.genesis={directory / 'genesis.json'}",
            f"--networkid={CHAIN_ID}",
            "--syncmode=full",
            # revert() goes back to states of any age.
            "--state.scheme=hash",
            "--gcmode=archive",
            "--nodiscover",
            "--port=0",
            "--maxpeers=0",
            "--ipcdisable",
            "--http",
            "--http.addr=127.0.0.1",
            f"--http.port={port}",
            "--http.api=eth,net,web3,txpool,debug",
            "--authrpc.addr=127.0.0.1",
            f"--authrpc.port={self._engine_port}",
            f"--authrpc.jwtsecret={directory / 'jwt'}",
        ]
        child = Child("geth", argv, log=directory / "geth.log", rank=Rank.CLIENT, watchdog=watchdog)
        super().__init__(child, f"http://127.0.0.1:{port}", finality=finality)
        self._engine = httpx.Client(base_url=f"http://127.0.0.1:{self._engine_port}", timeout=30.0, trust_env=False)
        self._door = FrontDoor(_Door(self))
        self._lock = threading.RLock()
        self._ahead = self._leap = 0
        self.mines = True

    def start(self) -> None:
        super().start()
        # Its index of transactions begins with the first block; until it stands, no receipt can be read.
        self.mine()
        self._child.wait_until(self._indexed, timeout=START_TIMEOUT_S, what="its index of transactions")
        self._door.open()
        self.rpc_url = self._door.url

    def _indexed(self) -> bool:
        try:
            return self.rpc("eth_getTransactionReceipt", "0x" + "00" * 32) is None
        except ChainError:
            return False

    def close(self) -> None:
        self._door.close()
        self._engine.close()
        super().close()

    def jump(self, seconds: int) -> None:
        self.forward(seconds)
        self.mine()

    def forward(self, seconds: int) -> None:
        """The next block comes so much later."""
        self._leap += seconds

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            with self._lock:
                self._mine(self._block("latest"), fill=True)

    def automine(self, on: bool) -> None:
        self.mines = on
        if on and self._waiting():
            self.mine()

    def stop_clock(self) -> None:
        """There are no blocks by time alone."""

    def snapshot(self) -> object:
        return self._block("latest")["number"]

    def revert(self, mark: object) -> None:
        with self._lock:
            self.drop_all()
            if self.snapshot() != mark:
                self.rpc("debug_setHead", mark)
                # geth forgets which block was final when its head goes below it.
                self._choose(self._block("latest"), None)
            self._ahead = self._leap = 0

    def reorg(self, depth: int) -> None:
        """Replace the newest blocks; geth puts what was in them into its pool again, and into the next block."""
        with self._lock:
            head = int(self._block("latest")["number"], 16)
            parent = self._block(hex(head - depth))
            for _ in range(depth):
                parent = self._mine(parent, fill=False)

    def drop_all(self) -> None:
        """Into a block with what can be mined: geth forgets nothing on demand. What has a gap before it stays."""
        for _ in range(MOST_DRAINED):
            if not self._waiting():
                return
            self.mine()

    def _mine(self, parent: dict[str, Any], *, fill: bool) -> dict[str, Any]:
        """One block on top of `parent`, which becomes the head."""
        stamp = max(int(time.time()) + self._ahead, int(parent["timestamp"], 16) + 1) + self._leap
        self._ahead, self._leap = stamp - int(time.time()), 0
        made = self._built(parent, stamp, 0.0)
        if fill:
            for seconds in BUILDING_S:
                if made["executionPayload"]["transactions"] or not self._waiting():
                    break
                made = self._built(parent, stamp, seconds)
        block = made["executionPayload"]
        said = self._ask("engine_newPayloadV4", block, [], ZERO, made["executionRequests"])
        if said["status"] != "VALID":
            raise LabError(f"geth refuses its own block: {said}")
        self._choose({"hash": block["blockHash"], "number": block["blockNumber"]}, None)
        return {"hash": block["blockHash"], "number": block["blockNumber"], "timestamp": block["timestamp"]}

    def _built(self, parent: dict[str, Any], stamp: int, seconds: float) -> dict[str, Any]:
        """A block that geth had so long to fill, not yet part of the chain."""
        wanted = {
            "timestamp": hex(stamp),
            # Another one each time, or geth would answer with the block that it built before.
            "prevRandao": "0x" + secrets.token_hex(32),
            "suggestedFeeRecipient": "0x" + "00" * 20,
            "withdrawals": [],
            "parentBeaconBlockRoot": ZERO,
        }
        begun = self._choose(parent, wanted)["payloadId"]
        if begun is None:
            raise LabError("geth begins no block")
        time.sleep(seconds)
        made: dict[str, Any] = self._ask("engine_getPayloadV5", begun)
        return made

    def _choose(self, head: dict[str, Any], wanted: dict[str, Any] | None) -> dict[str, Any]:
        final = max(0, int(head["number"], 16) - self.finality)
        behind = head["hash"] if final == int(head["number"], 16) else self._block(hex(final))["hash"]
        state = {"headBlockHash": head["hash"], "safeBlockHash": behind, "finalizedBlockHash": behind}
        answer: dict[str, Any] = self._ask("engine_forkchoiceUpdatedV3", state, wanted)
        return answer

    def _block(self, which: str) -> dict[str, Any]:
        block = self.rpc("eth_getBlockByNumber", which, False)
        if not isinstance(block, dict):
            raise ChainError(f"no block {which}")
        return block

    def _waiting(self) -> int:
        status = self.rpc("txpool_status")
        return int(status["pending"], 16) if isinstance(status, dict) else 0

    def _ask(self, method: str, *params: object) -> Any:
        """A call of the Engine API."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = self._engine.post("/", json=request, headers={"Authorization": f"Bearer {_token(self._secret)}"})
        document = answer.json()
        if "result" not in document:
            raise LabError(f"{method}: {answer.text}")
        return document["result"]

    def _read_accounts(self) -> tuple[Account, ...]:
        return lab_accounts()


class _Door(FaultyEndpoint):
    """geth, and the few methods of test nodes that the lab answers for it."""

    def __init__(self, chain: Geth) -> None:
        super().__init__(chain.rpc_url)
        self._chain = chain

    async def _answer(self, method: str, params: list[Any]) -> dict[str, Any]:
        if method in NODES_OWN:
            return {"result": await asyncio.to_thread(self._own, method, params)}
        answer = await super()._answer(method, params)
        if method == "eth_sendRawTransaction" and self._chain.mines and "result" in answer:
            await asyncio.to_thread(self._chain.mine)
        return answer

    def _own(self, method: str, params: list[Any]) -> object:
        match method:
            case "evm_increaseTime":
                self._chain.forward(int(params[0]))
            case "evm_mine":
                self._chain.mine()
            case "evm_setAutomine":
                self._chain.automine(bool(params[0]))
            case "evm_snapshot":
                return self._chain.snapshot()
            case "evm_revert":
                self._chain.revert(params[0])
        return True


def _genesis(binary: Path, timestamp: int) -> dict[str, object]:
    """Geth's own genesis for developers, with the contracts that its forks call, and our accounts and chain id."""
    done = subprocess.run([binary, "--dev", "dumpgenesis"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise LabError(f"geth shows no genesis:\n{done.stderr[-500:]}")
    genesis = json.loads(done.stdout)
    config = {name: value for name, value in genesis["config"].items() if name not in LATER_FORKS}
    alloc = genesis["alloc"] | {each.address[2:].lower(): {"balance": hex(FUNDS_WEI)} for each in lab_accounts()}
    changed = {"config": config | {"chainId": CHAIN_ID}, "alloc": alloc, "timestamp": hex(timestamp)}
    return {**genesis, **changed, "gasLimit": hex(BLOCK_GAS)}


def _token(secret: bytes) -> str:
    """A JWT by HS256 with the time in it, as the Engine API wants it."""
    head, claims = ({"alg": "HS256", "typ": "JWT"}, {"iat": int(time.time())})
    signed = ".".join(_plain(json.dumps(part).encode()) for part in (head, claims))
    return f"{signed}.{_plain(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def _plain(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
