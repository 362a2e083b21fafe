"""Google Kubernetes Engine's own labels of GPU nodes.

Source: GKE's pages "Run GPUs in Standard node pools", "Multi-instance GPUs" and "GPU sharing strategies", of 2026-12.
``cloud.google.com/gke-accelerator`` names the accelerator, ``gke-accelerator-count`` how many there are,
``gke-gpu-partition-size`` the MIG profile into which each is cut, ``gke-gpu-sharing-strategy`` (``time-sharing``,
``mps``) and ``gke-max-shared-clients-per-gpu`` that several pods share each. The resource is ``nvidia.com/gpu`` in all
cases; where GPU feature discovery was installed beside, it knows nothing of GKE's sharing and says ``none``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedgpu_operator.domain.devices import NVIDIA_RESOURCE, named
from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import NodeFacts, whole

NAME: Final = "GKE"
ACCELERATOR_LABEL: Final = "cloud.google.com/gke-accelerator"
COUNT_LABEL: Final = "cloud.google.com/gke-accelerator-count"
PARTITION_LABEL: Final = "cloud.google.com/gke-gpu-partition-size"
SHARING_LABEL: Final = "cloud.google.com/gke-gpu-sharing-strategy"
CLIENTS_LABEL: Final = "cloud.google.com/gke-max-shared-clients-per-gpu"


def descriptions(node: NodeFacts) -> Iterator[Description]:
    """One for the node's accelerator."""
    accelerator = node.labels.get(ACCELERATOR_LABEL, "")
    if not accelerator:
        return
    partition, strategy = node.labels.get(PARTITION_LABEL, ""), node.labels.get(SHARING_LABEL, "")
    product = named("gke", accelerator)
    labels = [(ACCELERATOR_LABEL, accelerator)]
    if partition and product:
        product = f"{product}-MIG-{partition}"
        labels.append((PARTITION_LABEL, partition))
    count = node.labels.get(COUNT_LABEL)
    yield Description(
        source=NAME,
        resource=NVIDIA_RESOURCE,
        product=product,
        selector=tuple(labels) if product else (),
        # The label counts cards, and of a card there are several slices.
        count=whole(count) if count is not None and not partition else None,
        shared=f"{strategy}, {node.labels.get(CLIENTS_LABEL, 'several')} clients per device" if strategy else "",
    )
