"""Builds the running system from its settings, checks that it can work at all, and runs its loops."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.adapters.kube.holding import HoldingKube
from fedgpu_operator.adapters.ledger import LIMIT_SECONDS, SqlLedger
from fedgpu_operator.adapters.metrics import PrometheusMetrics
from fedgpu_operator.api.base import Resource
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.bootstrap.agents import AgentSupervisor
from fedgpu_operator.bootstrap.health import PING_SECONDS, HealthCheck
from fedgpu_operator.bootstrap.plugins import load_plugins
from fedgpu_operator.bootstrap.settling import Settling, epoch_shelf, open_settling, settling_passes, thresholds
from fedgpu_operator.bootstrap.waking import wakes_agent, woken
from fedgpu_operator.errors import (
    ConfigurationError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
)
from fedgpu_operator.hub.loops.jobs import JobLoop
from fedgpu_operator.hub.loops.loop import Loop
from fedgpu_operator.hub.loops.market import MarketLoop
from fedgpu_operator.hub.loops.providers import ProviderLoop
from fedgpu_operator.hub.loops.retention import RetentionLoop
from fedgpu_operator.hub.loops.vantages import VantageLoop
from fedgpu_operator.hub.services.attempts import wants_agent
from fedgpu_operator.hub.services.costs import CostBook
from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES
from fedgpu_operator.hub.services.recovery import LedgerCheck
from fedgpu_operator.hub.services.signatures import SignerBook, UsageVerifier
from fedgpu_operator.hub.services.snapshot import SETTLE
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.views.escrow import Published, publish
from fedgpu_operator.ports import NAMESPACES, Kube, ResourceType
from fedgpu_operator.pulse import Pass
from fedgpu_operator.settings import Settings
from fedgpu_operator.settlement.typeddata import hub_domain

log = logging.getLogger(__name__)

HUB_PATIENCE_SECONDS = 15.0
LEAST_SECONDS = {"providers": 1.0, "market": 1.0, "retention": 1.0, "receipts": 1.0}
"""Between two passes of a loop that shows things to people, tidies up or looks at all pairs, however much happens."""

PASS_SECONDS = dict.fromkeys(("accounts", "settlement", "receipts"), 900.0)
"""Time limit of a pass that asks a chain: a first look at a long log is many requests."""


@dataclass(slots=True)
class System:
    """Everything that runs, and everything that must be closed."""

    kube: HoldingKube
    ledger: SqlLedger
    settling: Settling | None
    supervisor: AgentSupervisor
    metrics: PrometheusMetrics
    loops: dict[str, Loop]
    health: HealthCheck
    check: LedgerCheck
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Follow the hub, and start every loop."""
        self.tasks = [asyncio.create_task(self.kube.run(), name="watches")]
        self.tasks += [asyncio.create_task(loop.run(), name=name) for name, loop in self.loops.items()]

    def changed(self, plural: str, namespace: str, before: Resource | None, after: Resource | None) -> None:
        """An object of that kind changed in that namespace."""
        for name in woken(plural, before, after):
            if name in self.loops:
                self.loops[name].wake()
        if plural in ("computeleases", "providerreports") and wakes_agent(before, after):
            self.supervisor.wake(namespace)
        if _lets_agent_go(before, after) and self.supervisor.winds_down(namespace):
            self.loops["agents"].wake()

    def hung(self) -> dict[str, str]:
        """By name, the loops, watches and agents that have ended or hang, with why; cancelling does not help."""
        found = {task.get_name(): "ended" for task in self.tasks if task.done()}
        pulses = [loop.pulse for loop in self.loops.values()] + self.kube.pulses() + self.supervisor.pulses()
        return found | {pulse.name: why for pulse in pulses if (why := pulse.trouble())}

    def unready(self) -> dict[str, str]:
        """By part ("watches", "hub", "ledger", "books"), why the operator cannot do its work now; empty if it can."""
        lags = self.kube.lags()
        watches = {"watches": "; ".join(f"{kind}: {why}" for kind, why in lags.items())} if lags else {}
        behind = self.check.trouble()
        return watches | self.health.troubles() | ({"books": behind} if behind else {})

    async def close(self) -> None:
        """End the loops, then the agents, then the connections; workloads go on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.supervisor.aclose()
        if self.settling is not None:
            await self.settling.aclose()
        await self.ledger.close()
        await self.kube.close()


def _lets_agent_go(before: Resource | None, after: Resource | None) -> bool:
    """Whether a lease was the agent's business until now."""
    still = isinstance(after, ComputeLease) and wants_agent(after)
    return isinstance(before, ComputeLease) and wants_agent(before) and not still


async def build(settings: Settings) -> System:
    """Connect and check everything; raises ConfigurationError or ChainMismatchError where it can never work."""
    async with AsyncExitStack() as opened:
        kube = await connect()
        opened.push_async_callback(kube.close)
        hub_uid = await _check_hub(kube)
        settling = None
        if settings.chain is not None:
            settling = await open_settling(settings.chain, SystemClock())
            opened.push_async_callback(settling.aclose)
        ledger = await SqlLedger.open(settings.ledger.get_secret_value(), limit=LIMIT_SECONDS)
        opened.push_async_callback(ledger.close)
        if settling is not None:
            escrow = settling.escrow
            await ledger.bind(escrow.chain_id, escrow.escrow)
            await _publish(kube, settings.namespace, Published(hub_uid, escrow.chain_id, escrow.escrow))
        system = _assemble(settings, kube, hub_uid, ledger, settling)
        opened.pop_all()
    return system


def _assemble(settings: Settings, kube: Kube, hub_uid: str, ledger: SqlLedger, settling: Settling | None) -> System:
    clock, metrics = SystemClock(), PrometheusMetrics()
    plugins = load_plugins(settings.plugins)
    changes = Changes()
    kube = HoldingKube(kube, KINDS, changes.told)
    metrics.follow(kube.silences())
    escrow = settling.escrow if settling is not None else None
    proofs = ProofBook(escrow, clock, hub=hub_uid) if escrow is not None else None
    verifier = UsageVerifier(hub_domain(escrow.chain_id, escrow.escrow) if escrow is not None else None)
    reserved = settling.own_addresses if settling is not None else []
    supervisor = AgentSupervisor(kube, clock, settings, hub_uid, reserved=reserved)
    providers = ProviderLoop(
        kube,
        ledger,
        clock,
        proofs=proofs,
        acceptance=settings.acceptance,
        enforced=settings.acceptance_enforced,
        audits=settings.location_audit,
        heartbeat_timeout=settings.heartbeat_timeout_seconds,
        refusals=supervisor.refusals,
        verifier=verifier,
        signers=SignerBook(escrow, ledger, clock) if escrow is not None else None,
    )
    costs = CostBook(ledger, clock, escrow, settings.chain.native_usd if settings.chain is not None else None)
    jobs = JobLoop(
        kube,
        ledger,
        clock,
        metrics,
        proofs=proofs,
        default_deny=settings.default_deny,
        cooldown=settings.cooldown_seconds,
        plugins=plugins,
        vantages=settings.vantages,
        verifier=verifier,
        thresholds=thresholds(settings, settling),
        rebalance=settings.rebalance,
        costs=costs,
        keep=settings.workload_retention_seconds,
    )
    check = LedgerCheck(kube, ledger, clock, metrics, namespace=settings.namespace, escrow=escrow)
    passes: dict[str, Pass] = {
        "agents": supervisor.pass_once,
        "providers": providers.pass_once,
        "jobs": check.jobs_held_back(_then_frozen(jobs.pass_once)),
        "vantages": VantageLoop(kube, settings.vantages).pass_once,
        "market": MarketLoop(
            kube,
            ledger,
            clock,
            metrics,
            namespace=settings.namespace,
            proofs=proofs,
            default_deny=settings.default_deny,
            vantages=settings.vantages,
            plugins=plugins,
            costs=costs,
            settle=SETTLE,
        ).pass_once,
        # What it would delete is what a ledger that is behind is reconciled from.
        "retention": check.held_back(
            RetentionLoop(
                kube,
                ledger,
                clock,
                settlement=settling is not None,
                keep=settings.workload_retention_seconds,
                shelf=epoch_shelf(settings, settling, kube, ledger, clock) if settling is not None else None,
            ).pass_once
        ),
    }
    if settling is not None and proofs is not None:
        passes |= settling_passes(settings, settling, kube, ledger, clock, metrics, proofs=proofs, check=check)
    health = HealthCheck(kube, ledger)
    passes["health"] = health.pass_once
    system = System(kube, ledger, settling, supervisor, metrics, _loops(passes, settings, metrics), health, check)
    changes.system = system
    return system


def _then_frozen(pass_once: Pass) -> Pass:
    """That pass; once the first one is done, all that is held then is left out of the collector's rounds.

    It is every object of the hub, which stays or is freed by its count of references; a round over those of 2,000
    running and 2,000 waiting jobs takes 0.5 s, during which nothing else runs.
    """
    frozen = False

    async def passed() -> float | None:
        nonlocal frozen
        delay = await pass_once()
        if not frozen:
            frozen = True
            gc.collect()
            gc.freeze()
        return delay

    return passed


def _loops(passes: dict[str, Pass], settings: Settings, metrics: PrometheusMetrics) -> dict[str, Loop]:
    resync = {"market": settings.market_seconds, "health": PING_SECONDS}
    return {
        name: Loop(
            name,
            pass_once,
            resync=resync.get(name, settings.resync_seconds),
            metrics=metrics,
            least=LEAST_SECONDS.get(name, 0.0),
            limit=PASS_SECONDS.get(name),
        )
        for name, pass_once in passes.items()
    }


@dataclass(slots=True)
class Changes:
    """Carries what the watches saw to a system that is made after them."""

    system: System | None = None

    def told(self, plural: str, namespace: str, before: Resource | None, after: Resource | None) -> None:
        if self.system is not None:
            self.system.changed(plural, namespace, before, after)


async def _publish(kube: Kube, namespace: str, known: Published) -> None:
    try:
        await publish(kube, namespace, known)
    except (ForbiddenError, NotFoundError) as error:
        raise ConfigurationError(f"the operator cannot say in its namespace where it settles: {error}") from error


async def _check_hub(kube: Kube) -> str:
    """UID of the hub, which is that of its kube-system namespace; waits a while for an API server that is starting."""
    deadline = asyncio.get_running_loop().time() + HUB_PATIENCE_SECONDS
    while True:
        try:
            # Without the classes, jobs that name one would wait and all others be ordered as if there were no default.
            for kind in [*(ResourceType.of(each.info) for each in KINDS), PRIORITY_CLASSES]:
                await kube.list(kind, fields="metadata.name=fedgpu-probe")
            return str((await kube.get(NAMESPACES, "kube-system"))["metadata"]["uid"])
        except NotFoundError as error:
            raise ConfigurationError(
                "the hub does not know our kinds yet: run `fedgpu crds | kubectl apply --server-side -f -`"
            ) from error
        except ForbiddenError as error:
            raise ConfigurationError(
                f"the operator's identity may not do its work on the hub: {error}; "
                "give it the rights of the chart's ClusterRole"
            ) from error
        except UnreachableError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(f"the hub's API server does not answer: {error}") from error
            await asyncio.sleep(0.5)
