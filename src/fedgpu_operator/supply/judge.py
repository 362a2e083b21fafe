"""Weighs what the sources say of one node against each other and against the kubelet's figures; pure.

Where figures contradict each other the node's devices are left out and not guessed at: a share that is sold as a card,
or a card of another model, costs the tenant more than an idle device costs its owner.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fedgpu_operator.domain.devices import DEVICES, NVIDIA_PRODUCT_LABEL, Form, Labels, Toleration, form_of
from fedgpu_operator.domain.inventory import NO_RULES, InventoryRules
from fedgpu_operator.supply.descriptions import Description, Source
from fedgpu_operator.supply.node import INSTANCE_TYPE_LABELS, NodeFacts, Taint
from fedgpu_operator.supply.sources import amd, coreweave, discovery, eks, gke, instancetype, intel, owner

SOURCES: Final[tuple[Source, ...]] = (
    discovery.descriptions,
    gke.descriptions,
    eks.descriptions,
    coreweave.descriptions,
    amd.descriptions,
    intel.descriptions,
    instancetype.descriptions,
)
"""In the order in which their names for a product go before another's."""
LOOKED_FOR: Final = (
    NVIDIA_PRODUCT_LABEL,
    gke.ACCELERATOR_LABEL,
    *(f"{prefix}name" for prefix in eks.PREFIXES),
    coreweave.CLASS_LABEL,
    amd.PRODUCT_LABEL,
    intel.PRODUCT_LABEL,
    *INSTANCE_TYPE_LABELS[:1],
)
"""The labels of which one would have named the product."""
TOLERATED: Final = (Toleration("nvidia.com/gpu"), Toleration("amd.com/gpu"), Toleration("sku", "gpu"))
"""The taints by which owners commonly keep other work off GPU nodes: GKE and the vendors' own, and the habit on AKS."""

_PRODUCT: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class Why(StrEnum):
    """Why devices of a node are not counted."""

    NO_PRODUCT_LABEL = "NoProductLabel"
    SHARED = "Shared"
    CONTRADICTING_FIGURES = "ContradictingFigures"
    NOT_SELLABLE = "NotSellable"
    NONE_ALLOCATABLE = "NoneAllocatable"
    EXCLUDED = "Excluded"
    NOT_READY = "NotReady"
    CORDONED = "Cordoned"
    TAINTED = "Tainted"
    OTHER_RESOURCE = "OtherResource"


LEAST_SHARE: Final = 0.9
"""With less of the memory that a card of its product has, a device is no whole card."""
PASSING: Final = frozenset({Why.NOT_READY, Why.CORDONED, Why.TAINTED, Why.NONE_ALLOCATABLE})
"""Reasons for which a member's own scheduler puts nothing on these devices either."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Devices of one node that are alike and can be let: `count` of `product` under the resource name `resource`.

    `selector` are the labels that keep a pod to nodes with them.
    """

    product: str
    architecture: str
    memory_mib: int
    form: Form
    resource: str
    selector: Labels
    count: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Devices that are not counted, and why: `message` is a sentence for the owner, without the node's name.

    `selectors` are labels of the node by which a pod that asks for `resource` could be sent to it all the same.
    """

    resource: str
    devices: int
    why: Why
    message: str
    selectors: tuple[Labels, ...]


@dataclass(frozen=True, slots=True)
class NodeReading:
    """What one node supplies now, and what of it does not count; `tolerations` are what work on it must tolerate."""

    name: str
    hostname: str
    tolerations: tuple[Toleration, ...]
    pools: tuple[Pool, ...]
    left_out: tuple[LeftOut, ...]


def read_node(node: NodeFacts, rules: InventoryRules = NO_RULES) -> NodeReading:
    """Judge every GPU resource of a node; of a node without GPUs both parts are empty.

    What an owner's `rules` name goes before what labels name; figures that contradict it speak against it all the same.
    """
    descriptions = _descriptions(node, rules)
    pools, left_out = [], []
    for resource in sorted({*node.devices, *(each.resource for each in descriptions)}):
        about = [each for each in descriptions if each.resource == resource]
        devices = node.devices.get(resource, 0)
        fault = next(_faults(resource, devices, about), None) or (_closed(node, rules) if devices else None)
        if fault is not None:
            selectors = tuple(each.selector for each in about if each.selector)
            left_out.append(LeftOut(resource, devices, *fault, selectors))
        elif devices:
            pools.append(_pool(resource, devices, next(each for each in about if each.product)))
    tolerations = tuple(Toleration(taint.key, taint.value) for taint in node.taints if taint.effect == "NoSchedule")
    return NodeReading(node.name, node.hostname, tolerations, tuple(pools), tuple(left_out))


def _descriptions(node: NodeFacts, rules: InventoryRules) -> list[Description]:
    own = owner.descriptions(node, rules.named)
    return [*own, *(each for source in SOURCES for each in source(node))]


def _pool(resource: str, devices: int, description: Description) -> Pool:
    known = DEVICES.get(description.product)
    return Pool(
        product=description.product,
        architecture=description.architecture[:63] or (known.architecture if known else ""),
        memory_mib=description.memory_mib or (known.memory_mib if known else 0),
        form=form_of(description.product),
        resource=resource,
        selector=description.selector,
        count=devices,
    )


def _faults(resource: str, devices: int, descriptions: Sequence[Description]) -> Iterator[tuple[Why, str]]:
    """What speaks against letting these devices, gravest first."""
    named = [each for each in descriptions if each.product]
    for each in descriptions:
        if each.shared:
            yield Why.SHARED, f"{each.source}: {each.shared}; shares have no memory of their own and are not let"
    for each in descriptions:
        if each.invalid:
            yield Why.NOT_SELLABLE, f"{each.source}: {each.invalid}"
    for contradiction in _contradictions(resource, devices, descriptions):
        yield Why.CONTRADICTING_FIGURES, contradiction
    if devices and not named:
        text = f"no label names the product of {resource}; looked for {', '.join(LOOKED_FOR)} and spec.inventory.rules"
        yield Why.NO_PRODUCT_LABEL, text
    for each in named:
        if not _PRODUCT.fullmatch(each.product):
            yield Why.NOT_SELLABLE, f"{each.source}: the product's name is no legal label value"
    if not devices and any(each.count != 0 for each in named):
        yield Why.NONE_ALLOCATABLE, f"{resource}: none can be allocated; does the device plugin run?"


def _contradictions(resource: str, devices: int, descriptions: Sequence[Description]) -> Iterator[str]:
    for each in descriptions:
        # Fewer than the label says is a part that is broken; more is a share, or another model beside.
        if each.count is not None and devices > each.count:
            text = f"{resource}: {devices} allocatable, but {each.source} counts {each.count}"
            yield f"{text}; shared devices or two models in one node?"
    for each in descriptions:
        # A virtual GPU, or a cloud's part of one, under the name of the card.
        known, memory = DEVICES.get(each.product), each.memory_mib or each.card_mib
        if known is not None and memory and memory < LEAST_SHARE * known.memory_mib:
            yield f"{each.source} says {memory} MiB of memory, a whole {each.product} has {known.memory_mib}"


def _closed(node: NodeFacts, rules: InventoryRules) -> tuple[Why, str] | None:
    """Why the node takes no work of ours at all, None if it does."""
    if rules.excluded and all(each.matches(node.labels) for each in rules.excluded):
        return Why.EXCLUDED, "the owner excludes the node (spec.inventory.excludedNodes)"
    if node.cordoned:
        return Why.CORDONED, "the node is cordoned"
    if not node.ready:
        return Why.NOT_READY, "the node is not Ready"
    for taint in node.taints:
        if not tolerated(taint, rules):
            text = f"the taint {taint.key}={taint.value}:{taint.effect} is not tolerated"
            return Why.TAINTED, f"{text}; if it guards GPU nodes, list it in spec.inventory.tolerations"
    return None


def tolerated(taint: Taint, rules: InventoryRules = NO_RULES) -> bool:
    """Whether a workload of ours may run in spite of it."""
    if taint.effect not in {"NoSchedule", "NoExecute"}:
        return True
    known = (*TOLERATED, *rules.tolerations)
    return taint.effect == "NoSchedule" and any(each.covers(taint.key, taint.value) for each in known)


def names(product: str, resource: str, labels: Mapping[str, str], rules: InventoryRules = NO_RULES) -> bool:
    """Whether all of these labels together, and none beside, say that a node has that product under that resource."""
    described = _descriptions(NodeFacts("", labels, {resource: 1}, (), ready=True, cordoned=False), rules)
    selector = tuple(sorted(labels.items()))
    return any((each.resource, each.product, each.selector) == (resource, product, selector) for each in described)
