"""AMD's device plugin and node labeller.

Source: github.com/ROCm/k8s-device-plugin, its user guide on configuration and cmd/k8s-node-labeller, as of 2026-12.
``amd.com/gpu.product-name`` names the card (``AMD_Instinct_MI300X_OAM``), ``.vram`` its memory (``192G``, GiB). Cards
of the MI300 series can be partitioned: ``amd.com/compute-memory-partition`` (``spx_nps1`` is whole, ``cpx_nps4`` one
of 8 parts) is there if the labeller was told to write it and all cards are cut alike. The plugin then counts
partitions as ``amd.com/gpu`` (strategy `single`) or as a resource of their own, e.g. ``amd.com/cpx_nps4`` (`mixed`).
The labeller of old writes the value into the key, with ``beta.amd.com/gpu.product-name.AMD_Instinct_MI210=8``
counting the cards. In the modes for virtual machines a device is no GPU that a container can use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import NodeFacts, whole

NAME: Final = "AMD's node labeller"
RESOURCE: Final = "amd.com/gpu"
PRODUCT_LABEL: Final = f"{RESOURCE}.product-name"
PARTITION_LABEL: Final = "amd.com/compute-memory-partition"
MODE_LABEL: Final = f"{RESOURCE}.mode"
OLD_PREFIX: Final = "beta.amd.com/gpu.product-name."
MOST_CARDS: Final = 8
"""Cards of the MI300 series in one machine."""

_WHOLE: Final = "spx_nps1"
_PARTITIONED: Final = re.compile(r"amd\.com/((?:spx|dpx|tpx|qpx|cpx)_nps\d)")
_VRAM: Final = re.compile(r"(\d{1,5})G", re.ASCII)


def descriptions(node: NodeFacts) -> Iterator[Description]:
    """One for each of AMD's resources that the node has."""
    name, label, count = _named(node)
    if not name:
        return
    for resource in sorted(node.devices):
        mixed = _PARTITIONED.fullmatch(resource)
        if resource != RESOURCE and mixed is None:
            continue
        partition = mixed[1] if mixed else node.labels.get(PARTITION_LABEL, "")
        cut = partition not in {"", _WHOLE}
        product = name.replace("_", "-") + (f"-{partition.upper().replace('_', '-')}" if cut else "")
        labels = [label, *([(PARTITION_LABEL, partition)] if partition and not mixed else [])]
        vram = _VRAM.fullmatch(node.labels.get(f"{RESOURCE}.vram", ""))
        yield Description(
            source=NAME,
            resource=resource,
            product=product,
            selector=tuple(sorted(labels)),
            architecture="",
            memory_mib=int(vram[1]) * 1024 if vram and not cut else 0,
            count=None if cut else count,
            invalid=_invalid(node, resource, partition),
        )


def _named(node: NodeFacts) -> tuple[str, tuple[str, str], int | None]:
    """The card's name, the label that says it, and how many cards that label counts, None if it does not."""
    if name := node.labels.get(PRODUCT_LABEL, ""):
        return name, (PRODUCT_LABEL, name), None
    old = sorted(key for key in node.labels if key.startswith(OLD_PREFIX))
    if len(old) != 1:
        return "", ("", ""), None
    count = node.labels[old[0]]
    return old[0].removeprefix(OLD_PREFIX), (old[0], count), whole(count)


def _invalid(node: NodeFacts, resource: str, partition: str) -> str:
    mode = node.labels.get(MODE_LABEL, "container")
    if mode != "container":
        return f"its devices are for virtual machines ({mode})"
    if not partition and node.devices[resource] > MOST_CARDS:
        return f"{node.devices[resource]} devices and no {PARTITION_LABEL}: cards, or parts of them?"
    return ""
