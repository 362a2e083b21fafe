"""CoreWeave's clusters before CKS; nodes of CKS have GPU feature discovery's labels and an instance type.

Source: CoreWeave's documentation of node labels as quoted in published manifests, as of 2026-12.
``gpu.nvidia.com/class`` names the GPU, ``gpu.nvidia.com/count`` how many there are. Others use the first key for names
of their own: what is not in the table is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedgpu_operator.domain.devices import NVIDIA_RESOURCE, named
from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import NodeFacts, whole

NAME: Final = "CoreWeave"
CLASS_LABEL: Final = "gpu.nvidia.com/class"
COUNT_LABEL: Final = "gpu.nvidia.com/count"


def descriptions(node: NodeFacts) -> Iterator[Description]:
    """One for the node's class of GPUs."""
    name, count = node.labels.get(CLASS_LABEL, ""), node.labels.get(COUNT_LABEL)
    if name:
        product = named("coreweave", name)
        yield Description(
            source=NAME,
            resource=NVIDIA_RESOURCE,
            product=product,
            selector=((CLASS_LABEL, name),) if product else (),
            count=None if count is None else whole(count),
        )
