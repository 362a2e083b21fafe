"""A chain whose finality is sixteen blocks behind, an escrow on it, and endpoints before it that fail on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from fedgpu_lab.chain import Account, Chain
from fedgpu_lab.chains import make_chain
from fedgpu_lab.faultychain import FaultyEndpoint
from fedgpu_lab.process import Watchdog, end
from fedgpu_operator.adapters.chain import EscrowClient, Periods, TenantWallet, deploy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.settlement import Deployment, EpochPlan, Pair, TxReceipt
from fedgpu_operator.settlement import build_epoch

CHALLENGE = 3600
TENANT, PROVIDER, OTHER = 5, 6, 7
"""Places of accounts that hold no role."""
FUNDS = 100_000_000
FINALITY = 16
"""Blocks from the newest to the finalized one."""


@pytest.fixture(scope="session")
def chain(chain_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One of the lab's chains; each test of this room runs on each that it may (tests/conftest.py)."""
    watchdog = Watchdog()
    made = make_chain(
        chain_kind, directory=tmp_path_factory.mktemp("chain") / "chain", watchdog=watchdog, finality=FINALITY
    )
    try:
        made.start()
        # A block when a test says so: nothing here waits for the next second.
        made.stop_clock()
        yield made
    finally:
        end(made.children)
        made.close()
        watchdog.close()


@pytest.fixture(scope="session")
def deployment(chain: Chain) -> Deployment:
    periods = Periods(CHALLENGE, CHALLENGE, CHALLENGE, CHALLENGE)
    chain.automine(True)
    made = asyncio.run(deploy(chain.rpc_url, chain.accounts[0].private_key, chain.roles, periods))
    asyncio.run(_fund(chain, made))
    chain.mine(FINALITY + 1)
    return made


async def _fund(chain: Chain, deployment: Deployment) -> None:
    """The tenant has as much in its wallet as in the escrow, and approved all of it."""
    async with TenantWallet(chain.rpc_url, chain.accounts[TENANT].private_key) as tenant:
        await tenant.mint(deployment.token, 2 * FUNDS)
        await tenant.approve(deployment.token, deployment.escrow, 2 * FUNDS)
        await tenant.deposit(deployment.escrow, FUNDS)
        await tenant.set_spend_limit(deployment.escrow, FUNDS)


@dataclass
class World:
    """One escrow on one chain; transactions are mined when `mined` or `chain.mine` is called."""

    chain: Chain
    deployment: Deployment
    stack: AsyncExitStack = field(repr=False)

    @property
    def escrow(self) -> str:
        return self.deployment.escrow

    async def endpoints(self, count: int) -> list[FaultyEndpoint]:
        made = [FaultyEndpoint(self.chain.rpc_url) for _ in range(count)]
        return [await self.stack.enter_async_context(each) for each in made]

    async def client(
        self, *urls: str, account: Account | None = None, quorum: int | None = None, patience: float = 2.0
    ) -> EscrowClient:
        key = account.private_key if account is not None else None
        rpc = list(urls) or [self.chain.rpc_url]
        made = EscrowClient(rpc, self.escrow, self.chain.chain_id, key, patience, quorum=quorum)
        return await self.stack.enter_async_context(made)

    async def settler(self, *urls: str, patience: float = 2.0) -> EscrowClient:
        return await self.client(*urls, account=self.chain.accounts[1], patience=patience)

    async def tenant(self, index: int = TENANT) -> TenantWallet:
        wallet = TenantWallet(self.chain.rpc_url, self.chain.accounts[index].private_key)
        return await self.stack.enter_async_context(wallet)

    def address(self, index: int) -> str:
        return self.chain.accounts[index].address

    def finalize(self) -> None:
        self.chain.mine(FINALITY + 1)

    async def mined(self, tx_hash: str, client: EscrowClient | None = None) -> TxReceipt:
        """The receipt of a transaction that succeeded."""
        self.chain.mine()
        receipt = await (client or await self.client()).receipt(tx_hash)
        assert receipt is not None
        assert receipt.succeeded
        return receipt

    async def plan(self, client: EscrowClient, pairs: dict[Pair, int], debits: dict[str, int]) -> EpochPlan:
        """An epoch on the newest state."""
        now = await client.snapshot([], [], "latest")
        return build_epoch(
            chain_id=now.chain_id,
            escrow=now.escrow,
            seq=now.seq,
            prev_root=now.head_root,
            period_end=now.timestamp,
            pairs={pair: MicroUSD(total) for pair, total in pairs.items()},
            debits={tenant: MicroUSD(amount) for tenant, amount in debits.items()},
        )


@pytest.fixture
async def world(chain: Chain, deployment: Deployment) -> AsyncIterator[World]:
    """The chain as it was deployed to: what a test does there is undone after it."""
    chain.automine(False)
    before = chain.snapshot()
    async with AsyncExitStack() as stack:
        yield World(chain, deployment, stack)
    chain.revert(before)
