"""The instance type, which every cloud's nodes have: on AKS and EKS managed node groups nothing else names the GPUs.

Source: the clouds' own lists of instance types, in domain/data/instancetypes.csv with their date. What a type carries
is also a check on other labels: a node never has more GPUs than its machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedgpu_operator.domain.devices import INSTANCES, NVIDIA_RESOURCE
from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import INSTANCE_TYPE_LABELS, NodeFacts

NAME: Final = "the instance type"


def descriptions(node: NodeFacts) -> Iterator[Description]:
    """One for the node's type, if it is one with GPUs that is known."""
    for key in INSTANCE_TYPE_LABELS:
        value = node.labels.get(key, "")
        known = INSTANCES.get(value.lower())
        if known is not None:
            # Somebody may have cut the cards: of a machine of 8 cards there may be 56 slices then.
            cut = "MIG" in node.labels.get(f"{NVIDIA_RESOURCE}.product", "")
            count = None if cut else known.gpus
            yield Description(NAME, NVIDIA_RESOURCE, known.product, ((key, value),), count=count)
            return
