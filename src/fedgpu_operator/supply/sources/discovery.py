"""NVIDIA's GPU feature discovery, and the device plugin that it comes with.

Source: github.com/NVIDIA/k8s-device-plugin, internal/lm and docs of v0.18.0, whose labeller was run over NVIDIA's
device mocks. Labels of a resource ``nvidia.com/X`` begin with its name: ``nvidia.com/X.product``, ``.count``,
``.replicas``, ``.memory`` (MiB), ``.sharing-strategy``. What to know of them:

- ``sharing-strategy`` came with 0.15. Before it only ``replicas`` above 1, or a product that ends in ``-SHARED``, says
  that the allocatable devices are shares of fewer cards.
- With the MIG strategy `single` the resource stays ``nvidia.com/gpu``: product, memory and count are those of the
  slices. With `mixed` each profile is a resource of its own, ``nvidia.com/mig-1g.10gb``; the labels of the whole cards
  stay beside, with ``replicas`` 0 once every card is cut.
- A node of which one card is not cut as the others are, under `single`, has a product that ends in ``-MIG-INVALID``.
- Of two models in one node one is named, at random in each pass, with the count of that model alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fedgpu_operator.domain.devices import NVIDIA_PRODUCT_LABEL, NVIDIA_RESOURCE
from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import NodeFacts, whole

NAME: Final = "GPU feature discovery"
FAMILY_LABEL: Final = f"{NVIDIA_RESOURCE}.family"
_SHARED: Final = "-SHARED"


def descriptions(node: NodeFacts) -> Iterator[Description]:
    """A description for each resource of the node, and for whole cards that a label speaks of and no resource shows."""
    resources = {each for each in node.devices if each.startswith("nvidia.com/")}
    if NVIDIA_PRODUCT_LABEL in node.labels:
        resources.add(NVIDIA_RESOURCE)
    for resource in sorted(resources):
        yield from _claim(node, resource)


def _claim(node: NodeFacts, resource: str) -> Iterator[Description]:
    # The labels of shares that were renamed are those of the resource that they are shares of.
    base = resource.removesuffix(".shared")
    product = node.labels.get(f"{base}.product", "")
    if not product and resource == base:
        return
    replicas = whole(node.labels.get(f"{base}.replicas", "1"))
    # 0: every card is cut, and counted by the resources of its slices.
    count = node.labels.get(f"{base}.count") if replicas else "0"
    strategy = node.labels.get(f"{base}.sharing-strategy", "none")
    yield Description(
        source=NAME,
        resource=resource,
        product=product,
        selector=((f"{base}.product", product),),
        architecture=node.labels.get(FAMILY_LABEL, ""),
        memory_mib=whole(node.labels.get(f"{base}.memory", "0")),
        count=None if count is None else whole(count),
        shared=_shared(product, strategy, replicas, renamed=resource != base),
        invalid=f"the card is not cut as the node's MIG strategy says ({product})" if "MIG-INVALID" in product else "",
    )


def _shared(product: str, strategy: str, replicas: int, *, renamed: bool) -> str:
    how = strategy if strategy not in {"none", ""} else "shared"
    if replicas > 1:
        return f"{how}, {replicas} clients per device"
    return how if renamed or how != "shared" or product.endswith(_SHARED) else ""
