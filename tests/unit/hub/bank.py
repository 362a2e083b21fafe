"""The settlement loop with all that it touches, played by the test; every pass is made by a new loop."""

from __future__ import annotations

from datetime import timedelta

from eth_utils.address import to_checksum_address
from tests.ledgers import open_attempt
from tests.unit.hub.chain import WINDOW, FakeEscrow
from tests.unit.hub.world import TEAM, World

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.base import find
from fedgpu_operator.api.settlementepoch import SettlementEpoch
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.transactions import Call, Fees
from fedgpu_operator.hub.loops.settlement import SettlementLoop
from fedgpu_operator.settlement import Terms

TENANT = str(to_checksum_address("0x" + "aa" * 20))
OWNER = str(to_checksum_address("0x" + "bb" * 20))
PAIR = (TENANT, OWNER)
USED = 3600
"""GPU-seconds of the first lease: 1.25 USD."""


class Bank:
    """The settlement loop with all that it touches; every pass is made by a new loop, as after a restart."""

    def __init__(self, world: World) -> None:
        self.world, self.escrow = world, FakeEscrow()
        self.ledger: SqlLedger = world.ledger
        self.auto_claim = True
        self.terms = Terms(every=timedelta(seconds=60), at_most=timedelta(days=7))

    def loop(self) -> SettlementLoop:
        """A loop that begins now."""
        return self.world.factory(ledger=self.ledger).settlement_loop(
            self.escrow, self.terms, fee_cap=1_000, poll=1, auto_claim=self.auto_claim, opens=lambda: True
        )

    async def step(self, *, mine: bool = True, final: bool = True, loop: SettlementLoop | None = None) -> None:
        """One pass of a loop, which begins now unless it is given, then a block, then finality."""
        await (loop or self.loop()).pass_once()
        self.world.clock.forward(1)
        if mine:
            self.escrow.mine()
        if final:
            self.escrow.finalize()

    async def run(self, call: Call) -> None:
        """A call that somebody sends is in a block, and final."""
        view, nonce = await self.escrow.suggest_fees(), self.escrow.latest.nonce
        await self.escrow.broadcast(await self.escrow.sign(call, nonce, Fees(2 * view.base_fee, view.tip)))
        self.escrow.mine()
        self.escrow.finalize()

    async def used(
        self,
        gpu_seconds: int,
        job: str = "job",
        price: int = 1_250_000,
        *,
        tenant: str = TEAM,
        wallets: tuple[str, str] = PAIR,
    ) -> None:
        """One ended attempt that is billed."""
        now = self.world.clock.now()
        request = AttemptRequest(job, "after-0", tenant, job, "berlin", "H100", MicroUSD(price), 1, 86_400, *wallets)
        attempt = await open_attempt(self.ledger, request, now)
        await self.ledger.record_usage(attempt.lease_name, 1, gpu_seconds, now)
        await self.ledger.end_attempt(attempt.lease_name, "Succeeded", now)

    async def stages(self) -> list[str]:
        return [epoch.stage.value for epoch in reversed(await self.ledger.epochs())]

    def object(self, number: int = 1) -> SettlementEpoch:
        return SettlementEpoch.parse(self.world.kube.objects["settlementepochs", "", f"epoch-{number}"])

    def says(self, kind: str, number: int = 1) -> tuple[str, str]:
        found = find(self.object(number).status.conditions, kind)
        return (found.status, found.reason) if found else ("", "")

    def message(self, kind: str, number: int = 1) -> str:
        found = find(self.object(number).status.conditions, kind)
        return found.message if found else ""

    @property
    def paid(self) -> int:
        return self.escrow.latest.paid.get(PAIR, 0)

    def posts(self) -> set[bytes]:
        """The different posts that were ever sent."""
        return {raw for raw in self.escrow.sent if raw.startswith(b"post")}

    async def to_the_end(self, steps: int = 8) -> None:
        for _ in range(steps):
            await self.step()
        self.escrow.jump(WINDOW)
        for _ in range(3):
            await self.step()
