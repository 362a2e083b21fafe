"""Karpenter on AWS and EKS Auto Mode, which say the same of a node's GPUs with different keys.

Source: Karpenter's page "Instance types" (karpenter.sh, v1.x) and EKS's "Create a node pool for EKS Auto Mode", as of
2026-12. ``…/instance-gpu-name`` is e.g. ``a10g``, ``-manufacturer`` ``nvidia``, ``-count`` GPUs of the instance,
``-memory`` MiB of one as EC2 lists it, which is a little more than the card shows. Managed node groups have none of
these; there the instance type says it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedgpu_operator.domain.devices import NVIDIA_RESOURCE, named
from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import NodeFacts, whole

PREFIXES: Final = {"karpenter.k8s.aws/instance-gpu-": "Karpenter", "eks.amazonaws.com/instance-gpu-": "EKS Auto Mode"}


def descriptions(node: NodeFacts) -> Iterator[Description]:
    """One per set of keys that the node has."""
    for prefix, source in PREFIXES.items():
        name, memory = node.labels.get(f"{prefix}name", ""), node.labels.get(f"{prefix}memory", "")
        if not name or node.labels.get(f"{prefix}manufacturer", "nvidia") != "nvidia":
            continue
        product, labels = named("karpenter", name), [(f"{prefix}name", name)]
        if not product:
            product = named("karpenter", f"{name}-{memory}")
            labels.insert(0, (f"{prefix}memory", memory))
        count = node.labels.get(f"{prefix}count")
        yield Description(
            source=source,
            resource=NVIDIA_RESOURCE,
            product=product,
            selector=tuple(labels) if product else (),
            card_mib=whole(memory),
            count=None if count is None else whole(count),
        )
