"""An offer: one GPU product of one provider at one price, with what is free of it, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedgpu_operator.domain.gpu import GpuModel
from fedgpu_operator.domain.location import Location
from fedgpu_operator.domain.money import MicroUSD


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider sells of one product.

    `price` is µUSD per GPU-hour. `free` is the free-GPU histogram of its nodes: `{free GPUs on a node: number of
    such nodes}`, our own non-terminal leases already subtracted, so it is what can still be sold. `lease_slots`
    bounds how many more leases the provider takes (owner's limit minus outstanding), None where unbounded.
    `carbon_g_per_kwh` and `watts` (per GPU under load) feed the carbon price; None means the owner did not say.
    """

    provider: str
    gpu: GpuModel
    price: MicroUSD
    location: Location
    free: Mapping[int, int]
    compliance: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True
    lease_slots: int | None = None
    carbon_g_per_kwh: int | None = None
    watts: int | None = None

    @property
    def name(self) -> str:
        """Provider and product: unique in a snapshot and the last tie-breaker of every order."""
        return f"{self.provider}/{self.gpu.product}"

    @property
    def free_gpus(self) -> int:
        """All free GPUs over all nodes."""
        return sum(gpus * nodes for gpus, nodes in self.free.items())
