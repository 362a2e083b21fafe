"""What an owner says of its nodes, in its GPUProvider."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from fedgpu_operator.api.base import Model, Word, hint
from fedgpu_operator.api.placementpolicy import LabelKey, LabelSelector, LabelValue
from fedgpu_operator.domain.devices import NVIDIA_RESOURCE, Toleration
from fedgpu_operator.domain.inventory import InventoryRules, NamedNodes

RuntimeClassName: TypeAlias = Annotated[
    str,
    Field(
        max_length=63,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
        json_schema_extra=hint("must be the name of a RuntimeClass, e.g. nvidia"),
    ),
]
ResourceName: TypeAlias = Annotated[
    str,
    Field(
        min_length=3,
        max_length=127,
        pattern=r"^(nvidia|amd)[.]com/[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$|^gpu[.]intel[.]com/(i915|xe)$",
        json_schema_extra=hint("must be an extended resource of GPUs, e.g. nvidia.com/gpu or amd.com/gpu"),
    ),
]


class TolerationSpec(Model):
    """A taint of effect NoSchedule that our pods run in spite of."""

    key: LabelKey = Field(description="Key of the taint.")
    value: LabelValue = Field(default="", description="Value of the taint; empty for any.")

    def to_domain(self) -> Toleration:
        """The same as a domain value."""
        return Toleration(self.key, self.value)


class InventoryRule(Model):
    """What the GPUs of some nodes are, where no label of theirs says it."""

    match_labels: dict[LabelKey, LabelValue] = Field(
        min_length=1, max_length=4, description="Labels of these nodes, all of them; pods are sent there by them."
    )
    product: Word = Field(description="GPU product, as offers and jobs name it, e.g. NVIDIA-L40S.")
    resource: ResourceName = Field(default=NVIDIA_RESOURCE, description="Extended resource that these GPUs are.")
    memory_mi_b: int | None = Field(
        default=None, alias="memoryMiB", ge=1, le=10_000_000, description="Memory of one GPU in MiB, if known."
    )

    def to_domain(self) -> NamedNodes:
        """The same as a domain value."""
        labels = tuple(sorted(self.match_labels.items()))
        return NamedNodes(labels, self.product, self.resource, self.memory_mi_b or 0)


class InventorySpec(Model):
    """How the member's nodes are counted, and what pods with GPUs must say there."""

    rules: list[InventoryRule] = Field(
        default_factory=list,
        max_length=16,
        description="What the GPUs of nodes are whose labels do not say it; these go before labels that do.",
    )
    excluded_nodes: LabelSelector | None = Field(
        default=None, description="Nodes whose GPUs are not offered; every entry must hold."
    )
    tolerations: list[TolerationSpec] = Field(
        default_factory=list,
        max_length=16,
        description="Taints (NoSchedule) by which GPU nodes are kept free of other work, beside the usual ones.",
    )
    runtime_class_name: RuntimeClassName = Field(
        default="", description="RuntimeClass that pods with GPUs must name, e.g. nvidia on k3s and RKE2."
    )

    def to_domain(self) -> InventoryRules:
        """The same as a domain value."""
        return InventoryRules(
            named=tuple(each.to_domain() for each in self.rules),
            excluded=self.excluded_nodes.to_domain() if self.excluded_nodes is not None else (),
            tolerations=tuple(each.to_domain() for each in self.tolerations),
            runtime_class=self.runtime_class_name,
        )
