"""The hub as one reading: every object of our kinds, parsed, with those that cannot be read set aside."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.api.providerreport import AGENT_LEASE, ProviderReport
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.services.costs import UNKNOWN, CostBook, RunCosts
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.views.wallets import Wallets
from fedgpu_operator.ports import COORDINATION_LEASES, NAMESPACES, Holding, Kube, R, Reading, ResourceType

log = logging.getLogger(__name__)


@dataclass
class HubState:
    """One reading of the hub, with the leases that this process has written since (`took`); all else stays as read."""

    jobs: tuple[ComputeJob, ...]
    leases: dict[str, ComputeLease]
    providers: Mapping[str, GPUProvider]
    reports: Mapping[str, ProviderReport]
    accounts: Mapping[str, ComputeAccount]
    policies: tuple[PlacementPolicy, ...]
    unreadable_policies: tuple[str, ...]
    """Leaving them out would loosen the law without a trace: nothing is placed until they can be read."""
    namespaces: Mapping[str, Mapping[str, str]]
    wallets: Wallets | None = None
    """Who pays and who is paid; None where nothing is settled on chain."""
    costs: RunCosts = UNKNOWN
    """What running somewhere costs beyond its price."""

    def leases_of(self, provider: str) -> list[ComputeLease]:
        """Leases of one provider that have not ended."""
        return self.running.get(provider, [])

    def took(self, lease: ComputeLease) -> None:
        """That lease was made or changed by us since this was read."""
        self.leases[lease.metadata.name] = lease
        self.__dict__.pop("running", None)
        self.__dict__.pop("placed_at", None)
        self.__dict__.pop("_by_job", None)

    def leases_for(self, job_uid: str) -> list[ComputeLease]:
        """Leases of one job."""
        return self._by_job.get(job_uid, [])

    @cached_property
    def _by_job(self) -> Mapping[str, list[ComputeLease]]:
        found: defaultdict[str, list[ComputeLease]] = defaultdict(list)
        for lease in self.leases.values():
            found[lease.spec.job.uid].append(lease)
        return found

    @cached_property
    def placed_at(self) -> Mapping[str, list[ComputeLease]]:
        """All leases by provider, those that have ended among them."""
        found: defaultdict[str, list[ComputeLease]] = defaultdict(list)
        for lease in self.leases.values():
            found[lease.spec.provider].append(lease)
        return found

    @cached_property
    def running(self) -> Mapping[str, list[ComputeLease]]:
        """Leases that have not ended, by provider."""
        found: defaultdict[str, list[ComputeLease]] = defaultdict(list)
        for lease in self.leases.values():
            if not lease.status.ended:
                found[lease.spec.provider].append(lease)
        return found


async def load_all(kube: Kube, kind: type[R]) -> list[R]:
    """Every readable object of that kind; an unreadable one is logged and left as it is."""
    return list((await load_reading(kube, kind)).objects)


async def load_reading(kube: Kube, kind: type[R], namespace: str = "") -> Reading[R]:
    """The objects of that kind, from memory where they are followed by a watch."""
    if isinstance(kube, Holding):
        return await kube.reading(kind, namespace)
    items, _ = await kube.list(ResourceType.of(kind.info), namespace)
    parsed, unreadable = [], []
    for item in items:
        try:
            parsed.append(kind.parse(item))
        except InvalidResourceError as error:
            meta = item.get("metadata", {})
            log.warning("%s %s/%s: %s", kind.info.kind, meta.get("namespace", ""), meta.get("name"), error)
            unreadable.append(str(meta.get("name")))
    return Reading(tuple(parsed), tuple(unreadable))


async def load_namespaces(kube: Kube) -> dict[str, dict[str, str]]:
    """Labels by namespace."""
    if isinstance(kube, Holding):
        return await kube.labels()
    items, _ = await kube.list(NAMESPACES)
    return {item["metadata"]["name"]: dict(item["metadata"].get("labels") or {}) for item in items}


async def load_heartbeats(kube: Kube) -> dict[str, datetime]:
    """When an agent last renewed its coordination Lease, by the namespace that it lies in.

    Anybody may make a Lease of that name in a namespace of theirs: what cannot be read is nobody's heartbeat.
    """
    items, _ = await kube.list(COORDINATION_LEASES, fields=f"metadata.name={AGENT_LEASE}")
    beats = {}
    for item in items:
        try:
            beats[item["metadata"]["namespace"]] = datetime.fromisoformat(str(item["spec"]["renewTime"]))
        except (KeyError, TypeError, ValueError):
            log.debug("a Lease %s in %s holds no time", AGENT_LEASE, item["metadata"].get("namespace"))
    return beats


async def load(kube: Kube, proofs: ProofBook | None = None, costs: CostBook | None = None) -> HubState:
    """Everything that placement and the job loop decide on; `proofs` says which wallets count."""
    jobs, leases, providers, reports = await asyncio.gather(
        load_all(kube, ComputeJob),
        load_all(kube, ComputeLease),
        load_all(kube, GPUProvider),
        load_all(kube, ProviderReport),
    )
    accounts, policies, namespaces = await asyncio.gather(
        load_all(kube, ComputeAccount), load_reading(kube, PlacementPolicy), load_namespaces(kube)
    )
    return HubState(
        jobs=tuple(jobs),
        leases={lease.metadata.name: lease for lease in leases},
        providers={provider.metadata.name: provider for provider in providers},
        reports={report.spec.provider: report for report in reports},
        accounts={account.metadata.namespace: account for account in accounts},
        policies=policies.objects,
        unreadable_policies=policies.unreadable,
        namespaces=namespaces,
        wallets=await proofs.wallets(accounts, providers) if proofs is not None else None,
        costs=await costs.look() if costs is not None else UNKNOWN,
    )
