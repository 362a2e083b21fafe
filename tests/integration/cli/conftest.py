"""A chain of its own that never stands still, one escrow on it, and the command run in this process."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from aiohttp import web

from fedgpu_lab import toolchain
from fedgpu_lab.chain import Account, Anvil, Chain
from fedgpu_lab.faultychain import FaultyEndpoint
from fedgpu_lab.process import Watchdog, end, free_ports
from fedgpu_operator.adapters.chain import EscrowClient, Periods, TenantWallet, deploy, endpoint
from fedgpu_operator.cli import main, wallets
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Deployment, EpochPlan
from fedgpu_operator.settlement import build_epoch

T = TypeVar("T")
HOUR = 3600
PERIODS = Periods(challenge=HOUR, ruling=HOUR, exit_after=HOUR, longest_epoch=HOUR)
TICK_S = 0.05
USD = 10**6


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What `-o json` printed."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """The command against one escrow; no private key may ever stand in what it prints."""

    chain: Chain
    deployment: Deployment
    folder: Path

    def __call__(self, *arguments: str, escrow: bool = True, rpc: bool | str = True) -> Done:
        options = ["--rpc", rpc if isinstance(rpc, str) else self.chain.rpc_url] if rpc else []
        options += ["--escrow", self.deployment.escrow] if escrow else []
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*arguments, *options])
        said = out.getvalue() + err.getvalue()
        assert not [each for each in self.chain.accounts if each.private_key.removeprefix("0x") in said]
        return Done(code, out.getvalue(), err.getvalue())

    @property
    def target(self) -> tuple[str, ...]:
        """The options by which the escrow is found."""
        return "--rpc", self.chain.rpc_url, "--escrow", self.deployment.escrow

    def key(self, account: Account) -> tuple[str, str]:
        """The options by which that account signs."""
        path = self.folder / account.address
        path.write_text(account.private_key)
        return "--key-file", str(path)

    def wallet(self, account: Account, work: Callable[[TenantWallet], Awaitable[str]]) -> None:
        """Something done by another program than the command, in a block."""

        async def done() -> None:
            async with TenantWallet(self.chain.rpc_url, account.private_key) as wallet:
                await wallet.wait(await work(wallet), confirmations=1, poll=0.02)

        asyncio.run(done())

    def mint(self, account: Account, usd: int) -> None:
        self.wallet(account, lambda wallet: wallet.mint(self.deployment.token, usd * USD))

    def fund(self, account: Account, usd: int, limit: int) -> None:
        """An account at the escrow with that balance and limit."""
        token, escrow = self.deployment.token, self.deployment.escrow
        self.mint(account, usd)
        self.wallet(account, lambda wallet: wallet.approve(token, escrow, usd * USD))
        self.wallet(account, lambda wallet: wallet.deposit(escrow, usd * USD))
        self.wallet(account, lambda wallet: wallet.set_spend_limit(escrow, limit * USD))

    def post(self, pairs: dict[tuple[str, str], int], debits: dict[str, int], ledger_head: str = "") -> EpochPlan:
        """Post an epoch of these dollars as the settler; returns when it is final."""
        settler = self.chain.accounts[1]

        async def posted() -> EpochPlan:
            rpc, escrow = self.chain.rpc_url, self.deployment.escrow
            async with EscrowClient(rpc, escrow, self.chain.chain_id, settler.private_key) as client:
                at = await client.snapshot([], [], "latest")
                plan = build_epoch(
                    chain_id=at.chain_id,
                    escrow=at.escrow,
                    seq=at.seq,
                    prev_root=at.head_root,
                    period_end=at.timestamp,
                    pairs={pair: MicroUSD(total * USD) for pair, total in pairs.items()},
                    debits={tenant: MicroUSD(amount * USD) for tenant, amount in debits.items()},
                    ledger_head=ledger_head,
                )
                sent = await client.send(client.call_post(plan))
            async with TenantWallet(rpc, settler.private_key) as wallet:
                await wallet.wait(sent, poll=TICK_S)
            return plan

        return asyncio.run(posted())


class LossyEndpoint(FaultyEndpoint):
    """Forwards every request, and cuts the connection instead of replying when `loses` says so of its method."""

    def __init__(self, rpc_url: str) -> None:
        super().__init__(rpc_url)
        self.loses: Callable[[str], bool] = lambda _: False

    def every_second(self) -> None:
        """Lose every second reply, whatever was asked."""
        turn = itertools.cycle((False, True))
        self.loses = lambda _: next(turn)

    async def _handle(self, request: web.Request) -> web.Response:
        answer, method = await super()._handle(request), (await request.json())["method"]
        if self.loses(method) and request.transport is not None:
            request.transport.abort()
        return answer


@pytest.fixture
def gateway(moving_chain: Chain) -> Iterator[LossyEndpoint]:
    """An endpoint before the chain; it serves in a thread, because a command has a loop of its own."""
    made, ready, over = LossyEndpoint(moving_chain.rpc_url), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with made:
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield made
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="session")
def awake() -> threading.Event:
    """Whether the chain makes blocks: only while a test of this folder runs, since others have the machine then."""
    return threading.Event()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, awake: threading.Event, tmp_path: Path) -> Iterator[None]:
    """Blocks come, and they are asked for as often as they come; what was sent is kept in a folder of the test."""
    monkeypatch.setattr(wallets, "POLL_S", TICK_S)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_S", TICK_S)
    monkeypatch.setattr(endpoint, "LONGEST_PAUSE_S", TICK_S)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    awake.set()
    yield
    awake.clear()


@pytest.fixture(scope="session")
def moving_chain(tmp_path_factory: pytest.TempPathFactory, awake: threading.Event) -> Iterator[Chain]:
    """A block per transaction and one every TICK_S, so that what is sent is soon final."""
    directory: Path = tmp_path_factory.mktemp("cli") / "chain"
    watchdog, over = Watchdog(), threading.Event()
    chain = Anvil(toolchain.ensure(["anvil"])["anvil"], directory=directory, port=free_ports(1)[0], watchdog=watchdog)

    def tick() -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": "anvil_mine", "params": ["0x1"]}
        with httpx.Client(trust_env=False) as client:
            while not over.wait(TICK_S):
                if awake.wait(1):
                    client.post(chain.rpc_url, json=request)

    ticking = threading.Thread(target=tick)
    try:
        chain.start()
        chain.rpc("evm_setIntervalMining", 0)
        chain.rpc("evm_setAutomine", True)
        ticking.start()
        yield chain
    finally:
        over.set()
        if ticking.is_alive():
            ticking.join()
        end(chain.children)
        chain.close()
        watchdog.close()


@pytest.fixture(scope="session")
def shared_escrow(moving_chain: Chain) -> Deployment:
    """One escrow for the tests that post no epoch; each takes a tenant of its own."""
    return asyncio.run(_deployed(moving_chain))


@pytest.fixture
def cli(moving_chain: Chain, shared_escrow: Deployment, tmp_path: Path) -> Cli:
    return Cli(moving_chain, shared_escrow, tmp_path)


@pytest.fixture
def own_cli(moving_chain: Chain, tmp_path: Path) -> Cli:
    """An escrow of its own: epochs are one after another, so tests that post them must not share one."""
    return Cli(moving_chain, asyncio.run(_deployed(moving_chain)), tmp_path)


async def _deployed(chain: Chain) -> Deployment:
    return await deploy(chain.rpc_url, chain.accounts[0].private_key, chain.roles, PERIODS)
