"""The hub's receipt loop and the agent's desk over one API server in memory; neither remembers anything."""

from __future__ import annotations

from tests.unit.hub.signing import METER, PAYOUT, SIGNER, sign
from tests.unit.hub.world import REPORTS, World

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.agent.report import Reporter
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.agent.signing import ReceiptDesk, Signing
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.domain.ledger import CountersignedReceipt
from fedgpu_operator.hub.services.workloads import provider_namespace
from fedgpu_operator.settlement.typeddata import escrow_domain

INTERVAL = 600.0
NAMESPACE = provider_namespace("berlin")


class Office:
    """Both sides of the table; each pass is by a process that remembers nothing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.domain = escrow_domain(world.wallets.chain_id, world.wallets.escrow)

    async def hub(self) -> None:
        world = self.world
        await world.factory().receipt_loop(world.wallets, world.proofs, METER, interval=INTERVAL).pass_once()

    async def agent(self, key: LocalSigner = SIGNER, payout: str = PAYOUT) -> None:
        await self.desk(key, payout).serve(self.world.leases)

    def desk(self, key: LocalSigner = SIGNER, payout: str = PAYOUT) -> ReceiptDesk:
        world = self.world
        reporter = Reporter("berlin", world.kube, AgentSettings(NAMESPACE, "hub"), world.clock)
        signing = Signing(key, payout, world.wallets.chain_id, world.wallets.escrow)
        return ReceiptDesk("berlin", reporter, signing, world.clock)

    @property
    def report(self) -> ProviderReport:
        return ProviderReport.parse(self.world.kube.objects[REPORTS.plural, NAMESPACE, "berlin"])

    async def kept(self) -> tuple[CountersignedReceipt, ...]:
        return await self.world.ledger.receipts(newest_only=False)


async def uses(world: World, seconds: int, gpu_seconds: int, *, final: bool = False) -> None:
    """More time passes, the agent reports and signs, the hub bills."""
    world.clock.forward(seconds)
    await (world.ends(world.lease, gpu_seconds=gpu_seconds) if final else world.runs(world.lease, gpu_seconds))
    await sign(world)
    await world.pass_once()
