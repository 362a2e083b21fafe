"""The settlement loop in a process of its own, with ports that may die; forked from a parent that has its imports."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from tests.chaos.faults import ESCROW, KUBE, LEDGER, Fault, Trap, Wired

from fedgpu_operator.adapters.chain import EscrowClient
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.bootstrap.factory import Factory, PingableLedger
from fedgpu_operator.errors import FedGPUError
from fedgpu_operator.hub.loops.settlement import SettlementLoop
from fedgpu_operator.hub.views.accounts import cumulative_pairs
from fedgpu_operator.ports import Escrow, Kube
from fedgpu_operator.settings import Settings
from fedgpu_operator.settlement import Terms, protocol

log = logging.getLogger(__name__)

NAMESPACE = "fedgpu-chaos"
FEE_CAP = 500 * 10**9


@dataclass(frozen=True)
class Site:
    """Where everything is that a settler talks to; `challenge` is the escrow's window in seconds.

    `rpc_urls` are the endpoints that it is given, `node_url` is the chain itself, whose time moves between passes by
    `stride` seconds (0: by a whole window) and `final_after` blocks, which make final what was mined.
    """

    rpc_urls: tuple[str, ...]
    node_url: str
    escrow: str
    chain_id: int
    settler_key: str
    kubeconfig: str
    ledger: str
    report: str
    challenge: int
    fee_cap: int = FEE_CAP
    timeout: float = 10.0
    stride: int = 0
    final_after: int = 3


class ChainClock:
    """The chain's time, moved with it: an operator's clock and a chain's agree to some seconds."""

    def __init__(self, seconds: int) -> None:
        self.time = datetime.fromtimestamp(seconds, UTC)

    def now(self) -> datetime:
        return self.time

    def forward(self, seconds: int) -> None:
        self.time += timedelta(seconds=seconds)


@dataclass
class Settler:
    """One life of a settler: its loop, and what a harness needs beside it."""

    site: Site
    loop: SettlementLoop
    ledger: SqlLedger
    escrow: EscrowClient
    chain: EscrowClient
    clock: ChainClock

    async def step(self) -> bool:
        """One pass, as hub/loops/loop.py makes it: after an error (then False) the next one looks again."""
        try:
            await self.loop.pass_once()
        except FedGPUError as error:
            log.info("pass: %s: %s", type(error).__name__, error)
            return False
        return True

    async def move(self) -> None:
        """Time and some blocks: what was mined is final, and after a whole window what was final is active."""
        seconds = self.site.stride or self.site.challenge
        await self.node("evm_increaseTime", seconds)
        for _ in range(self.site.final_after):
            await self.node("evm_mine")
        self.clock.forward(seconds)

    async def settle(self, passes: int) -> bool:
        """Pass after pass until everything is settled; False where that many were not enough."""
        for number in range(passes):
            if number:
                await self.move()
            if await self.step() and await settled(self):
                return True
        return False

    async def node(self, method: str, *params: object) -> object:
        """A request of a test node's own, past whatever stands between the settler and the chain."""
        provider = self.chain._rpc.w3.provider
        answer = await provider.make_request(method, list(params))  # type: ignore[arg-type]  # a test node's own
        return answer.get("result")


def run(site: Site, faults: tuple[Fault, ...], passes: int) -> None:
    """Settle everything, or as far as so many passes go; the points that were reached go to the report."""
    trap = Trap(faults)
    try:
        asyncio.run(_run(site, trap, passes))
    finally:
        Path(site.report).write_text(json.dumps(trap.reached))


async def _run(site: Site, trap: Trap, passes: int) -> None:
    async with settler(site, trap) as life:
        await life.settle(passes)


@asynccontextmanager
async def settler(site: Site, trap: Trap) -> AsyncIterator[Settler]:
    """A settler with ports of its own, wired to `trap`."""
    kube = KubeClient(member_client(site.kubeconfig))
    async with (
        await SqlLedger.open(site.ledger) as ledger,
        EscrowClient(site.rpc_urls, site.escrow, site.chain_id, site.settler_key, site.timeout) as escrow,
        EscrowClient(site.node_url, site.escrow, site.chain_id) as chain,
    ):
        clock = ChainClock((await chain.snapshot((), (), "latest")).timestamp)
        hub = cast("Kube", Wired(kube, "kube", KUBE, trap))
        books = cast("PingableLedger", Wired(ledger, "ledger", LEDGER, trap))
        settings = Settings.from_env({"FEDGPU_NAMESPACE": NAMESPACE})
        loop = Factory(settings, hub, books, clock=clock).settlement_loop(
            cast("Escrow", Wired(escrow, "escrow", ESCROW, trap)),
            Terms(every=timedelta(0), at_most=timedelta(days=1)),
            fee_cap=site.fee_cap,
            poll=1,
            auto_claim=True,
            opens=lambda: True,
        )
        try:
            yield Settler(site, loop, ledger, escrow, chain, clock)
        finally:
            await kube.close()


async def settled(life: Settler) -> bool:
    """Whether nothing is on its way, the chain paid every pair all that was ever metered, and books and hub say so."""
    epochs = await life.ledger.epochs(limit=20)
    if any(epoch.number not in life.loop._closed for epoch in epochs):
        # A write that the hub did not take is tried again by the next pass.
        return False
    if any(epoch.stage in protocol.LIVE for epoch in epochs) or await life.ledger.intents(open_only=True):
        return False
    owed = cumulative_pairs((await life.ledger.settlement_snapshot()).pairs)
    if await life.chain.disputes() or any((await life.ledger.balances()).values()):
        return False
    chain = await life.chain.snapshot(sorted({tenant for tenant, _ in owed}), sorted(owed))
    return all(chain.books[pair].paid == total for pair, total in owed.items())
