"""An offer: one GPU product of one provider at one price, with what is free of it, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.gpu import GpuModel
from fedgpu_operator.domain.money import NOTHING, MicroUSD


@dataclass(frozen=True, slots=True)
class Probe:
    """Round trips that a provider's agent measured to one vantage: median and 95th percentile (µs), when, how many."""

    p50_us: int
    p95_us: int
    measured_at: datetime
    samples: int


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider sells of one product.

    `price` is µUSD per GPU-hour. `free` is the free-GPU histogram of its nodes: `{free GPUs on a node: number of
    such nodes}`, our own non-terminal leases already subtracted, so it is what can still be sold. `lease_slots`
    bounds how many more leases the provider takes (owner's limit minus outstanding), None where unbounded.
    `carbon_g_per_kwh` and `watts` (per GPU under load) feed the carbon price; None means the owner did not say.
    `location_audited` is whether a platform admin has confirmed `location`; else it is the owner's word.
    `egress_per_gib` is what the owner charges for data that leaves (µUSD per GiB) and `ingress_mbps` how fast data
    comes in (Mbit/s); None where not stated. `interruptions_per_mh` is how often work is cut off there, per million
    hours, as the hub has seen it; None where it has seen nothing. `gas_share` is the gas that settling one run there
    is expected to cost (µUSD). `probes` holds measured round trips by vantage name.
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
    location_audited: bool = False
    egress_per_gib: MicroUSD | None = None
    ingress_mbps: int | None = None
    interruptions_per_mh: int | None = None
    gas_share: MicroUSD = NOTHING
    probes: Mapping[str, Probe] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Provider and product: unique in a snapshot and the last tie-breaker of every order."""
        return f"{self.provider}/{self.gpu.product}"

    @property
    def free_gpus(self) -> int:
        """All free GPUs over all nodes."""
        return sum(gpus * nodes for gpus, nodes in self.free.items())
