"""What the owner itself says of its nodes, in `spec.inventory.rules` of its GPUProvider."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fedgpu_operator.domain.inventory import NamedNodes
from fedgpu_operator.supply.descriptions import Description
from fedgpu_operator.supply.node import NodeFacts

NAME: Final = "spec.inventory.rules"


def descriptions(node: NodeFacts, named: Iterable[NamedNodes]) -> Iterator[Description]:
    """One for each rule that the node meets and that speaks of a resource which it has."""
    for rule in named:
        if rule.resource in node.devices and all(node.labels.get(key) == value for key, value in rule.labels):
            yield Description(NAME, rule.resource, rule.product, rule.labels, memory_mib=rule.memory_mib)
