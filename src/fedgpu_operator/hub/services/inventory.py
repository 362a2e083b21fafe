"""What can still be sold: a member's report less the hub's own leases, as offers and as inventory; no IO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fedgpu_operator.api.base import MAX_NODES
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUOffer, GPUProvider, Inventory, Network
from fedgpu_operator.api.providerreport import ProviderReport, ReportedProduct
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.domain.offer import GpuModel, Offer, Probe, take
from fedgpu_operator.hub.services.costs import UNKNOWN, RunCosts

UNKNOWN_PRODUCT: Final = ReportedProduct(product="none", total=0, gpus_in_use_by_others=0)


def free_histogram(product: ReportedProduct, leases: Iterable[ComputeLease], max_gpus: int | None) -> dict[int, int]:
    """Free GPUs by node, `{free GPUs: nodes}`, after our own leases and the owner's limit.

    The member's scheduler may have laid our pods elsewhere than `take` assumes: a histogram is advice, and a miss
    comes back as a rejection by the member.
    """
    free = {bucket.free: bucket.nodes for bucket in product.free_gpu_histogram if bucket.free > 0}
    let = 0
    for lease in leases:
        if lease.spec.product != product.product:
            continue
        let += lease.spec.gpus
        left = take(free, lease.spec.gpus_per_replica, lease.spec.replicas)
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
    egress = network.egress_price_per_gi_b
    return [
        Offer(
            provider=provider.metadata.name,
            gpu=_model(offer, reported.get(offer.product)),
            price=parse_usd(offer.price_per_gpu_hour),
            location=spec.location.to_domain(),
            free=free_histogram(reported.get(offer.product, UNKNOWN_PRODUCT), leases, offer.max_gpus),
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
            free=sum(g * n for g, n in free_histogram(product, leases, limits[product.product]).items()),
        )
        for product in sorted(report.status.products, key=lambda each: each.product)
        if product.product in limits
    ]
