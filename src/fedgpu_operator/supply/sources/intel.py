"""Intel's GPU device plugin with the rules of node feature discovery that come with it.

Source: github.com/intel/intel-device-plugins-for-kubernetes, cmd/gpu_plugin/labels.md, as of 2026-12.
``gpu.intel.com/product`` names the card (``Max_1550``) and ``gpu.intel.com/device.count`` counts them; the resource is
``gpu.intel.com/i915`` or ``gpu.intel.com/xe``, by the driver. With `shared-dev-num` the plugin counts each card several
times and no label says so: without the count of cards nothing is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedgpu_operator.domain.devices import named
from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import NodeFacts, whole

NAME: Final = "Intel's labels"
PRODUCT_LABEL: Final = "gpu.intel.com/product"
COUNT_LABEL: Final = "gpu.intel.com/device.count"
RESOURCES: Final = ("gpu.intel.com/i915", "gpu.intel.com/xe")


def descriptions(node: NodeFacts) -> Iterator[Description]:
    """One for each of Intel's resources that the node has."""
    name, count = node.labels.get(PRODUCT_LABEL, ""), node.labels.get(COUNT_LABEL)
    product = named("intel", name)
    for resource in RESOURCES:
        if product and resource in node.devices:
            yield Description(
                source=NAME,
                resource=resource,
                product=product,
                selector=((PRODUCT_LABEL, name),),
                count=None if count is None else whole(count),
                invalid="" if count is not None else f"no {COUNT_LABEL} says how many cards there are",
            )
