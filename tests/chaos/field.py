"""A shooting range: a hub, a chain with one funded escrow, a ledger with usage to settle, and processes to shoot at."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from eth_account import Account as Key
from eth_utils.crypto import keccak
from tests.chaos.child import NAMESPACE, Site
from tests.chaos.faults import Fault
from tests.chaos.zygote import Zygote
from tests.ledgers import open_attempt

from fedgpu_lab.audit import Audit, audit
from fedgpu_lab.chain import FINALITY, Account, Chain
from fedgpu_lab.chains import make_chain
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.faultychain import FrontDoor
from fedgpu_lab.gateway import Gateway
from fedgpu_lab.process import Watchdog, end
from fedgpu_operator.adapters.chain import Periods, TenantWallet, deploy
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.api.crd import all_crds
from fedgpu_operator.domain.attempts import AttemptRequest
from fedgpu_operator.domain.money import SECONDS_PER_HOUR, MicroUSD
from fedgpu_operator.domain.settlement import Deployment, EpochStage, Pair

CHALLENGE = 600
PERIODS = Periods(challenge=CHALLENGE, ruling=CHALLENGE, exit_after=CHALLENGE, longest_epoch=CHALLENGE)
DEPOSIT = 50_000_000
PATIENCE_S = 90.0
BUSY_EVERY = 41
"""Of so many requests a gateway turns one away. A pass is some dozens of them, and one that fails ends it."""
EPOCHS = "/apis/fedgpu.dev/v1alpha1/settlementepochs"
FIRST_USAGE = ((0, "p"), (0, "q"), (1, "p"), (2, "q"), (0, "p"))
"""Whose attempts are billed at first: (tenant, provider)."""
SHOWN_AS = {EpochStage.ABANDONED: "Cancelled", EpochStage.SUPERSEDED: "Cancelled"}
EPOCH_OF_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def provider_key(name: str) -> str:
    """The private key of a provider's wallet."""
    return "0x" + keccak(text=f"provider {name}").hex()


def provider_wallet(name: str) -> str:
    return str(Key.from_key(provider_key(name)).address)


@dataclass
class Bill:
    """What was metered so far, kept apart from the ledger that is under test: price times seconds, per pair."""

    tenants: Sequence[str]
    numerators: dict[Pair, int] = field(default_factory=dict)
    attempts: int = 0

    async def add(self, location: str, usage: Sequence[tuple[int, str]]) -> None:
        """One ended attempt of a tenant at a provider for each entry, each with a price and a length of its own."""
        async with await SqlLedger.open(location) as ledger:
            for tenant, name in usage:
                index, self.attempts = self.attempts, self.attempts + 1
                pair = (self.tenants[tenant], provider_wallet(name))
                price, used = MicroUSD(1_250_001 + index), 1_801 + 7 * index
                request = AttemptRequest(
                    f"job-{index}", "after-0", f"team-{tenant}", f"job-{index}", name, "H100", price, 1, 86_400, *pair
                )
                attempt = await open_attempt(ledger, request, EPOCH_OF_TIME)
                await ledger.record_usage(attempt.lease_name, 1, used, EPOCH_OF_TIME)
                await ledger.end_attempt(attempt.lease_name, "Succeeded", EPOCH_OF_TIME)
                self.numerators[pair] = self.numerators.get(pair, 0) + price * used

    @property
    def owed(self) -> Mapping[Pair, int]:
        """µUSD per pair, rounded down once."""
        return {pair: total // SECONDS_PER_HOUR for pair, total in self.numerators.items()}


@dataclass
class Range:
    """One escrow and one ledger that are put back to where they were before each shot."""

    chain: Chain
    hub: Cluster
    deployment: Deployment
    site: Site
    tenants: tuple[Account, ...]
    bill: Bill
    zygote: Zygote
    mark: object = None

    @property
    def _kept(self) -> Path:
        return Path(self.site.ledger).with_name("kept.db")

    def keep(self) -> None:
        """Make of what there is now the point that restore() goes back to."""
        shutil.copy(self.site.ledger, self._kept)
        self.mark = self.chain.snapshot()

    def restore(self) -> None:
        """Chain and ledger as they were at keep(), and a hub without a trace of settlement."""
        self.chain.revert(self.mark)
        self.mark = self.chain.snapshot()
        for leftover in Path(self.site.ledger).parent.glob("ledger.db*"):
            leftover.unlink()
        shutil.copy(self._kept, self.site.ledger)
        self.hub.api.delete(EPOCHS)
        self.hub.api.delete(f"/api/v1/namespaces/{NAMESPACE}/configmaps")

    def reorg(self, depth: int) -> None:
        """Replace the newest blocks by empty ones."""
        self.chain.reorg(depth)

    def shoot(self, *faults: Fault, passes: int = 40) -> tuple[bool, dict[str, int]]:
        """Run a child; whether it was killed, and which points it reached."""
        report = Path(self.site.report)
        report.unlink(missing_ok=True)
        ended = self.zygote.wait(self.zygote.start(self.site, faults, passes), PATIENCE_S)
        assert ended in (0, -signal.SIGKILL), f"the child ended with {ended}"
        return not report.exists(), json.loads(report.read_text()) if report.exists() else {}

    def judge(self, *, epochs: int | None = 1) -> Audit:
        """Everybody has exactly what the books say, by code that imports nothing of the operator; nothing is left."""
        self.chain.mine(self.site.final_after)
        found = audit(self.chain.rpc_url, self.deployment.token, self.deployment.escrow)
        assert found.conserved, found.problems
        due: dict[str, int] = {}
        for (_, provider), amount in self.bill.owed.items():
            due[provider.lower()] = due.get(provider.lower(), 0) + amount
        assert dict(found.paid_to) == due, "lost or paid twice"
        assert found.balances == DEPOSIT * len(self.tenants) - sum(self.bill.owed.values()), "tenants lost or kept some"
        left = (found.allocated, found.pending, found.disputed, found.reserved, found.bonds)
        assert not any(left), f"allocated, pending, disputed, reserved, bonds: {left}"
        asyncio.run(self._judge_books(epochs))
        return found

    async def _judge_books(self, epochs_paid: int | None) -> None:
        async with await SqlLedger.open(self.site.ledger) as ledger:
            verdict = await ledger.verify()
            assert verdict.sound, verdict.faults
            assert verdict.trial_balance.balanced
            balances = await ledger.balances()
            assert not any(balances.values()), f"all is paid, and the books say {balances}"
            epochs = await ledger.epochs()
            if epochs_paid is not None:
                assert [epoch.stage.value for epoch in epochs].count("Paid") == epochs_paid, "epochs paid"
            assert not await ledger.intents(open_only=True), "a transaction is still on its way"
            shown = self.hub.api.get(EPOCHS)["items"]
            states = {item["metadata"]["name"]: item["status"]["state"] for item in shown}
            wanted = {f"epoch-{epoch.number}": SHOWN_AS.get(epoch.stage, epoch.stage.value) for epoch in epochs}
            assert states == wanted, f"the hub shows {states}, the books say {wanted}"


@contextmanager
def open_range(
    hub: Cluster,
    folder: Path,
    *,
    tenants: int = 3,
    usage: Sequence[tuple[int, str]] = FIRST_USAGE,
    kind: str = "anvil",
    finality: int = FINALITY,
) -> Iterator[Range]:
    """A range with a chain of its own on a hub that nobody else settles on; blocks are mined only by transactions."""
    folder.mkdir(exist_ok=True)
    watchdog = Watchdog()
    zygote = Zygote(folder / "children.log")
    chain = make_chain(kind, directory=folder / "chain", watchdog=watchdog, finality=finality)
    try:
        chain.start()
        chain.stop_clock()
        chain.automine(True)
        yield asyncio.run(_prepare(chain, hub, folder, zygote, tenants, usage))
    finally:
        zygote.close()
        end(chain.children)
        chain.close()
        watchdog.close()


@contextmanager
def behind_a_gateway(field: Range) -> Iterator[Gateway]:
    """Let the settler reach its chain through a public gateway's habits alone; everybody else is at the node."""
    gateway = Gateway(field.chain.rpc_url)
    gateway.as_public_ones()
    gateway.busy_every = BUSY_EVERY
    door = FrontDoor(gateway)
    door.open()
    field.site = replace(field.site, rpc_urls=(door.url,))
    try:
        yield gateway
    finally:
        door.close()


def prepare_hub(hub: Cluster) -> None:
    """The project's kinds and the namespace that the settler writes to."""
    hub.apply(all_crds())
    hub.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    hub.create_namespace(NAMESPACE)


async def _prepare(
    chain: Chain,
    hub: Cluster,
    folder: Path,
    zygote: Zygote,
    tenants: int,
    usage: Sequence[tuple[int, str]],
) -> Range:
    owner, settler, *others = chain.accounts
    funded = tuple(others[:tenants])
    deployment = await deploy(chain.rpc_url, owner.private_key, chain.roles, PERIODS)
    for account in funded:
        async with TenantWallet(chain.rpc_url, account.private_key) as wallet:
            # Twice, so that there is something to put up as a bond.
            await wallet.mint(deployment.token, 2 * DEPOSIT)
            await wallet.approve(deployment.token, deployment.escrow, 2 * DEPOSIT)
            await wallet.deposit(deployment.escrow, DEPOSIT)
            await wallet.set_spend_limit(deployment.escrow, DEPOSIT)
    chain.mine(chain.finality + 1)
    site = Site(
        rpc_urls=(chain.rpc_url,),
        node_url=chain.rpc_url,
        escrow=deployment.escrow,
        chain_id=chain.chain_id,
        settler_key=settler.private_key,
        kubeconfig=hub.kubeconfig_text(),
        ledger=str(folder / "ledger.db"),
        report=str(folder / "report.json"),
        challenge=CHALLENGE,
        final_after=chain.finality + 1,
    )
    bill = Bill([account.address for account in funded])
    await bill.add(site.ledger, usage)
    made = Range(chain, hub, deployment, site, funded, bill, zygote)
    made.keep()
    return made
