"""What an owner says of its nodes, where their labels do not say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedgpu_operator.domain.devices import Labels, Toleration
from fedgpu_operator.domain.job import Requirement


@dataclass(frozen=True, slots=True)
class NamedNodes:
    """An owner's word on nodes with all of these labels: what the devices of one resource are.

    `memory_mib` is that of one device in MiB, 0 if it is not said.
    """

    labels: Labels
    product: str
    resource: str
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class InventoryRules:
    """What an owner says of its nodes, where their labels do not.

    Nodes that meet all of `excluded` are left out, unless it is empty. `tolerations` are taints that keep other work
    off GPU nodes and not ours; `runtime_class` is what pods with GPUs must name, empty for nothing.
    """

    named: tuple[NamedNodes, ...] = ()
    excluded: tuple[Requirement, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: str = ""

    @property
    def keys(self) -> frozenset[str]:
        """The label keys that it goes by."""
        keys = {key for each in self.named for key, _ in each.labels}
        return frozenset(keys.union(each.key for each in self.excluded))


NO_RULES: Final = InventoryRules()
