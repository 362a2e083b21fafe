"""The hub as one reading: every object of our kinds, parsed, and what can still be sold of what members report."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Final

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUOffer, GPUProvider, Inventory, Network
from fedgpu_operator.api.placementpolicy import PlacementPolicy
from fedgpu_operator.api.providerreport import AGENT_LEASE, ProviderReport, ReportedProduct
from fedgpu_operator.domain.devices import MAX_NODES, DeviceRequest
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.domain.offer import GpuModel, Offer, Probe, take
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.services.costs import UNKNOWN, CostBook, RunCosts
from fedgpu_operator.hub.services.wallets import ProofBook
from fedgpu_operator.hub.views.accounts import Wallets
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

    def request_of(self, provider: str, product: str) -> DeviceRequest:
        """How the provider's member is asked for a product: as its agent reported it."""
        report = self.reports.get(provider)
        found = (each.request for each in report.status.products if each.product == product) if report else iter(())
        return next(found, DeviceRequest.by_discovery(product))

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


NONE_ASIDE: Final[Mapping[str, int]] = MappingProxyType({})
UNKNOWN_PRODUCT: Final = ReportedProduct(product="none", total=0, gpus_in_use_by_others=0)


def free_histogram(
    product: ReportedProduct,
    leases: Iterable[ComputeLease],
    max_gpus: int | None,
    aside: Mapping[str, int] = NONE_ASIDE,
) -> dict[int, int]:
    """Free GPUs by node, `{free GPUs: nodes}`, after our own leases and the owner's limit.

    `aside` counts, by lease, the pods on nodes that do not count: they take none of these GPUs.
    The member's scheduler may have laid our pods elsewhere than `take` assumes: a histogram is advice, and a miss
    comes back as a rejection by the member.
    """
    free = {bucket.free: bucket.nodes for bucket in product.free_gpu_histogram if bucket.free > 0}
    let = 0
    for lease in leases:
        if lease.spec.product != product.product:
            continue
        let += lease.spec.gpus
        counted = max(0, lease.spec.replicas - aside.get(lease.metadata.name, 0))
        left = take(free, lease.spec.gpus_per_replica, counted)
        free = {} if left is None else left
    return free if max_gpus is None else cut(free, max(0, max_gpus - let))


def cut(free: Mapping[int, int], limit: int) -> dict[int, int]:
    """The histogram cut to `limit` GPUs, whole nodes first, fullest nodes first."""
    kept: dict[int, int] = {}
    for gpus, nodes in sorted(free.items(), reverse=True):
        whole = min(nodes, limit // gpus)
        if whole:
            kept[gpus] = kept.get(gpus, 0) + whole
            limit -= whole * gpus
        if whole < nodes and 0 < limit < gpus:
            kept[limit] = kept.get(limit, 0) + 1
            limit = 0
    return kept


def offers(
    provider: GPUProvider,
    report: ProviderReport | None,
    leases: list[ComputeLease],
    *,
    ready: bool,
    costs: RunCosts = UNKNOWN,
) -> list[Offer]:
    """The provider's offers with what is free of each; products that no node has are offered with nothing free."""
    reported = {product.product: product for product in report.status.products} if report else {}
    spec = provider.spec
    network, probes = spec.network or Network(), _probes(report)
    aside = report.aside if report is not None else NONE_ASIDE
    egress = network.egress_price_per_gi_b
    return [
        Offer(
            provider=provider.metadata.name,
            gpu=_model(offer, reported.get(offer.product)),
            price=parse_usd(offer.price_per_gpu_hour),
            location=spec.location.to_domain(),
            free=free_histogram(reported.get(offer.product, UNKNOWN_PRODUCT), leases, offer.max_gpus, aside),
            compliance=frozenset(spec.compliance),
            labels=provider.metadata.labels,
            ready=ready,
            lease_slots=max(0, spec.limits.max_leases - len(leases)),
            carbon_g_per_kwh=spec.energy.carbon_intensity if spec.energy else None,
            watts=offer.watts,
            # The hub said so, and it still is the location that it said so of.
            location_audited=provider.status.location_audited and provider.location_audited,
            egress_per_gib=None if egress is None else parse_usd(egress),
            ingress_mbps=network.ingress_mbps,
            interruptions_per_mh=costs.interruptions_per_mh.get(provider.metadata.name),
            gas_share=costs.gas_share,
            probes=probes,
        )
        for offer in spec.offers
    ]


def _probes(report: ProviderReport | None) -> dict[str, Probe]:
    """Measured round trips by vantage, in whole µs; nobody's 95th percentile lies below the median."""
    measured = report.status.probes if report is not None else []
    return {
        each.vantage: Probe(
            round(1000 * each.p50_ms), round(1000 * max(each.p50_ms, each.p95_ms)), each.measured_at, each.samples
        )
        for each in measured
    }


def _model(offer: GPUOffer, reported: ReportedProduct | None) -> GpuModel:
    if reported is None:
        return GpuModel(offer.product, 0, "")
    return GpuModel(offer.product, reported.memory_mi_b, reported.architecture)


def inventory(provider: GPUProvider, report: ProviderReport, leases: list[ComputeLease]) -> list[Inventory]:
    """What the member has of each product it offers, for status."""
    limits = {offer.product: offer.max_gpus for offer in provider.spec.offers}
    return [
        Inventory(
            product=product.product,
            architecture=product.architecture,
            memory_mi_b=product.memory_mi_b,
            # A member that claims more shows as many as a status can.
            nodes=min(MAX_NODES, sum(bucket.nodes for bucket in product.free_gpu_histogram)),
            total=product.total,
            free=sum(g * n for g, n in free_histogram(product, leases, limits[product.product], report.aside).items()),
        )
        for product in sorted(report.status.products, key=lambda each: each.product)
        if product.product in limits
    ]
