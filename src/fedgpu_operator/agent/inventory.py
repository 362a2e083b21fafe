"""What a member supplies, as its report says it: cut to what one object holds, the rest never let."""

from __future__ import annotations

from fedgpu_operator.api.inventory import TolerationSpec
from fedgpu_operator.api.providerreport import (
    MAX_SELECTORS,
    AsideLease,
    NodeBucket,
    NodeSelector,
    ReportedProduct,
    UncountedNodes,
)
from fedgpu_operator.domain.devices import MAX_AVOIDED
from fedgpu_operator.supply import ProductSupply, Supply

MAX_PRODUCTS = 64
MAX_BUCKETS = 64
MAX_REASONS = 32
MAX_ASIDE = 256
MAX_REPLICAS = 1024
MAX_TOLERATIONS = 16


def products(supply: Supply) -> list[ReportedProduct]:
    """The products, by name. What is beyond a bound of the report is not let: fewer is safe, and more is not."""
    return [_product(each) for each in supply.products if _speakable(each)][:MAX_PRODUCTS]


def uncounted(supply: Supply) -> list[UncountedNodes]:
    """Why nodes do not count; of more reasons than fit those that cost the most devices."""
    gravest = sorted(supply.left_out, key=lambda each: (-each.devices, -each.nodes, each.why, each.message))
    return [
        UncountedNodes(
            reason=each.why.value,
            message=each.message[:512],
            nodes=each.nodes,
            gpus=each.devices,
            examples=[name[:253] for name in each.examples],
        )
        for each in gravest[:MAX_REASONS]
    ]


def aside(supply: Supply) -> list[AsideLease]:
    """Our pods on nodes that do not count. One that is left out here takes from what is free: too little is let."""
    found = sorted(supply.aside.items())[:MAX_ASIDE]
    return [AsideLease(lease=lease, pods=min(pods, MAX_REPLICAS)) for lease, pods in found]


def _speakable(product: ProductSupply) -> bool:
    request = product.request
    return (
        len(request.selectors) <= MAX_SELECTORS
        and len(request.avoid) <= MAX_AVOIDED
        and len(request.tolerations) <= MAX_TOLERATIONS
    )


def _product(supply: ProductSupply) -> ReportedProduct:
    return ReportedProduct(
        product=supply.product,
        form=supply.form.value,
        architecture=supply.architecture,
        memory_mi_b=supply.memory_mib,
        resource=supply.request.resource,
        node_selectors=[NodeSelector(match_labels=dict(labels)) for labels in supply.request.selectors],
        excluded_hostnames=list(supply.request.avoid),
        tolerations=[TolerationSpec(key=each.key, value=each.value) for each in supply.request.tolerations],
        runtime_class_name=supply.request.runtime_class,
        total=supply.total,
        gpus_in_use_by_others=supply.others,
        free_gpu_histogram=[
            NodeBucket(free=gpus, nodes=supply.free[gpus]) for gpus in sorted(supply.free, reverse=True)[:MAX_BUCKETS]
        ],
    )
