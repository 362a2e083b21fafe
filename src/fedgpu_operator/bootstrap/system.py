"""The operator as one thing: built from its settings, checked, started, probed and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from fedgpu_operator.adapters.clock import SystemClock
from fedgpu_operator.adapters.kube.connect import connect
from fedgpu_operator.adapters.kube.holding import Changed, HoldingKube
from fedgpu_operator.adapters.ledger import LIMIT_SECONDS, SqlLedger
from fedgpu_operator.adapters.metrics import PrometheusMetrics
from fedgpu_operator.api.base import Resource
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.backoff import Backoff
from fedgpu_operator.bootstrap.agents import AgentSupervisor
from fedgpu_operator.bootstrap.factory import Factory
from fedgpu_operator.bootstrap.health import HealthCheck
from fedgpu_operator.bootstrap.settlement import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, EscrowAccess, open_escrow
from fedgpu_operator.errors import ConfigurationError, ForbiddenError, NotFoundError, UnreachableError
from fedgpu_operator.hub.loops.loop import Loop
from fedgpu_operator.hub.services.escrow import Published, publish
from fedgpu_operator.hub.services.priorities import PRIORITY_CLASSES
from fedgpu_operator.hub.services.recovery import LedgerCheck
from fedgpu_operator.ports import NAMESPACES, Kube, LeaderCheck, ResourceType, always
from fedgpu_operator.settings import Settings

HUB_PATIENCE_SECONDS: Final = 15.0


@dataclass(slots=True)
class System:
    """Everything that runs, and everything that must be closed."""

    kube: HoldingKube
    ledger: SqlLedger
    access: EscrowAccess | None
    supervisor: AgentSupervisor
    metrics: PrometheusMetrics
    loops: dict[str, Loop]
    health: HealthCheck
    check: LedgerCheck
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    def of(cls, factory: Factory, kube: HoldingKube, ledger: SqlLedger) -> System:
        """What the factory makes over these, not started."""
        return cls(
            kube,
            ledger,
            factory.access,
            factory.supervisor,
            factory.prometheus,
            factory.loops(),
            factory.health,
            factory.check,
        )

    def start(self) -> None:
        """Follow the hub, and start every loop."""
        self.tasks = [asyncio.create_task(self.kube.run(), name="watches")]
        self.tasks += [asyncio.create_task(loop.run(), name=name) for name, loop in self.loops.items()]

    def wake(self, *names: str) -> None:
        """Ask these loops for a pass; one that this operator does not run is left out."""
        for name in names:
            if name in self.loops:
                self.loops[name].wake()

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
        if self.access is not None:
            await self.access.aclose()
        await self.ledger.close()
        await self.kube.close()


async def build(
    settings: Settings,
    changed: Changed,
    *,
    polled: Collection[type[Resource]] = (),
    metrics: PrometheusMetrics | None = None,
    leads: LeaderCheck | None = None,
) -> System:
    """Connect and check everything; raises ConfigurationError or ChainMismatchError if it can never work.

    `changed` is called for each change of what is held of the hub; `polled` are the kinds whose events
    are delivered to `HoldingKube.deliver`. With `leads`, the check of an operator that was elected, the ledger is
    taken from the leader before, and nothing changes anything outside unless it passes.
    """
    may_write = leads or always
    async with AsyncExitStack() as opened:
        kube = await connect(leads=may_write)
        opened.push_async_callback(kube.close)
        hub_uid = await _check_hub(kube)
        access = None
        if settings.chain is not None:
            access = await open_escrow(settings.chain, SystemClock(), may_write)
            opened.push_async_callback(access.aclose)
        ledger = await SqlLedger.open(settings.ledger.get_secret_value(), limit=LIMIT_SECONDS, leads=leads)
        opened.push_async_callback(ledger.close)
        if access is not None:
            escrow = access.escrow
            await ledger.bind(escrow.chain_id, escrow.escrow)
            await _publish(kube, settings.namespace, Published(hub_uid, escrow.chain_id, escrow.escrow))
        held = HoldingKube(kube, KINDS, changed, polled=polled, every=settings.resync_seconds)
        factory = Factory(settings, held, ledger, hub_uid=hub_uid, access=access, metrics=metrics, leads=may_write)
        system = System.of(factory, held, ledger)
        system.metrics.follow(held.silences())
        opened.pop_all()
    return system


async def _publish(kube: Kube, namespace: str, known: Published) -> None:
    try:
        await publish(kube, namespace, known)
    except (ForbiddenError, NotFoundError) as error:
        raise ConfigurationError(f"cannot publish the escrow in the operator's namespace: {error}") from error


async def _check_hub(kube: Kube) -> str:
    """UID of the hub, which is that of its kube-system namespace; waits a while for an API server that is starting.

    Raises UnreachableError for one that stays away: the start is tried again, and `/readyz` says why meanwhile.
    """
    deadline = asyncio.get_running_loop().time() + HUB_PATIENCE_SECONDS
    backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
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
        except UnreachableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(backoff.failed())
