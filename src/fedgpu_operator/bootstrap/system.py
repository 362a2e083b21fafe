"""Builds the running system from its settings, checks that it can work at all, and runs its loops."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from fedgpu_operator.adapters.chain import EscrowClient
from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.adapters.metrics import PrometheusMetrics
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.bootstrap.agents import AgentSupervisor
from fedgpu_operator.errors import (
    ChainMismatchError,
    ChainUnreachableError,
    ConfigurationError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)
from fedgpu_operator.hub.accounts import AccountLoop
from fedgpu_operator.hub.jobs import JobLoop
from fedgpu_operator.hub.loop import Loop
from fedgpu_operator.hub.providers import ProviderLoop
from fedgpu_operator.hub.settlement import SettlementLoop
from fedgpu_operator.ports import NAMESPACES, Kube, ResourceType
from fedgpu_operator.settings import ChainSettings, Settings

log = logging.getLogger(__name__)

HUB_PATIENCE_SECONDS = 15.0
WAKES: dict[str, tuple[str, ...]] = {
    "computejobs": ("jobs",),
    "computeleases": ("jobs", "providers"),
    "gpuproviders": ("agents", "providers", "jobs"),
    "providerreports": ("providers", "jobs"),
    "computeaccounts": ("accounts", "jobs"),
    "placementpolicies": ("jobs",),
    "settlementepochs": ("jobs",),
}
"""Which loops an event of a kind wakes."""


@dataclass(slots=True)
class System:
    """Everything that runs, and everything that must be closed."""

    kube: Kube
    ledger: SqlLedger
    escrow: EscrowClient | None
    supervisor: AgentSupervisor
    metrics: PrometheusMetrics
    loops: dict[str, Loop]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Start every loop."""
        self.tasks = [asyncio.create_task(loop.run(), name=name) for name, loop in self.loops.items()]

    def wake(self, plural: str, namespace: str) -> None:
        """An object of that kind changed in that namespace."""
        for name in WAKES.get(plural, ()):
            if name in self.loops:
                self.loops[name].wake()
        if plural == "computeleases":
            self.supervisor.wake(namespace)

    async def close(self) -> None:
        """End the loops, then the agents, then the connections; workloads go on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.supervisor.aclose()
        if self.escrow is not None:
            await self.escrow.aclose()
        await self.ledger.close()
        await self.kube.close()


async def build(settings: Settings) -> System:
    """Connect and check everything; raises ConfigurationError or ChainMismatchError where it can never work."""
    async with AsyncExitStack() as opened:
        kube = await connect()
        opened.push_async_callback(kube.close)
        hub_uid = await _check_hub(kube)
        escrow = None
        if settings.chain is not None:
            escrow = await _escrow(settings.chain)
            opened.push_async_callback(escrow.aclose)
        ledger = await SqlLedger.open(settings.ledger)
        system = _assemble(settings, kube, hub_uid, ledger, escrow)
        opened.pop_all()
    return system


def _assemble(settings: Settings, kube: Kube, hub_uid: str, ledger: SqlLedger, escrow: EscrowClient | None) -> System:
    clock, metrics = SystemClock(), PrometheusMetrics()
    supervisor = AgentSupervisor(kube, clock, settings, hub_uid)
    providers = ProviderLoop(
        kube,
        ledger,
        clock,
        settlement=escrow is not None,
        acceptance=settings.acceptance,
        heartbeat_timeout=settings.heartbeat_timeout_seconds,
        refusals=supervisor.refusals,
    )
    jobs = JobLoop(
        kube,
        ledger,
        clock,
        metrics,
        settlement=escrow is not None,
        default_deny=settings.default_deny,
        cooldown=settings.cooldown_seconds,
    )
    passes = {"agents": supervisor.pass_once, "providers": providers.pass_once, "jobs": jobs.pass_once}
    if escrow is not None and settings.chain is not None:
        poll = min(10.0, settings.chain.epoch_seconds)
        passes["accounts"] = AccountLoop(kube, ledger, escrow, clock, poll=poll).pass_once
        passes["settlement"] = SettlementLoop(
            kube,
            ledger,
            escrow,
            clock,
            metrics,
            epoch_seconds=settings.chain.epoch_seconds,
            poll=poll,
            auto_claim=settings.chain.auto_claim,
        ).pass_once
    loops = {
        name: Loop(name, pass_once, resync=settings.resync_seconds, metrics=metrics)
        for name, pass_once in passes.items()
    }
    return System(kube, ledger, escrow, supervisor, metrics, loops)


async def _check_hub(kube: Kube) -> str:
    """UID of the hub, which is that of its kube-system namespace; waits a while for an API server that is starting."""
    deadline = asyncio.get_running_loop().time() + HUB_PATIENCE_SECONDS
    while True:
        try:
            for kind in KINDS:
                await kube.list(ResourceType.of(kind.info), fields="metadata.name=fedgpu-probe")
            return str((await kube.get(NAMESPACES, "kube-system"))["metadata"]["uid"])
        except NotFoundError as error:
            raise ConfigurationError(
                "the hub does not know our kinds yet: run `fedgpu crds | kubectl apply --server-side -f -`"
            ) from error
        except ForbiddenError as error:
            raise ConfigurationError(f"the operator's identity may not do its work on the hub: {error}") from error
        except UnreachableError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(f"the hub's API server does not answer: {error}") from error
            await asyncio.sleep(0.5)


async def _escrow(chain: ChainSettings) -> EscrowClient:
    try:
        key = chain.settler_key_file.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"FEDGPU_SETTLER_KEY_FILE: cannot be read: {error.strerror}") from error
    escrow = EscrowClient(chain.rpc_url, chain.escrow, chain.chain_id, key)
    try:
        await escrow.verify()
    except ChainMismatchError:
        await escrow.aclose()
        raise
    except ChainUnreachableError as error:
        log.warning("the chain does not answer at start; computing goes on, settlement waits: %s", error)
    return escrow
