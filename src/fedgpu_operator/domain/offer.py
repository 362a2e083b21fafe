"""GPUs, what a job needs of them, and offers: one product of one provider at one price, free node by node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fedgpu_operator.domain.devices import Form, form_of
from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.money import NOTHING, MicroUSD

Histogram = Mapping[int, int]
"""Free GPUs node by node: `{free GPUs on a node: number of such nodes}`."""
Load = tuple[int, int]
"""What a job takes of an offer: (GPUs of one replica, all on one node; replicas)."""


@dataclass(frozen=True, slots=True)
class GpuModel:
    """One GPU product as its nodes label it.

    `product` is its one name (`domain.devices`), e.g. ``NVIDIA-H100-80GB-HBM3``, `memory_mib` the memory of one card or
    slice in MiB, 0 if unknown, and `architecture` e.g. ``hopper``.
    """

    product: str
    memory_mib: int
    architecture: str

    @property
    def form(self) -> Form:
        """A whole card, or a slice of one."""
        return form_of(self.product)


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """What one replica asks for; an empty set or a zero means "any"."""

    count: int = 1
    products: frozenset[str] = frozenset()
    min_memory_mib: int = 0
    architectures: frozenset[str] = frozenset()


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

    `price` is µUSD per GPU-hour. `free` is the free-GPU histogram of its nodes, our own non-terminal leases already
    subtracted, so it is what can still be sold. `lease_slots`
    bounds how many more leases the provider takes (owner's limit minus outstanding), None if unbounded.
    `carbon_g_per_kwh` and `watts` (per GPU under load) feed the carbon price; None means the owner did not say.
    `location_audited` is whether a platform admin has confirmed `location`; else it is the owner's word.
    `egress_per_gib` is what the owner charges for data that leaves (µUSD per GiB) and `ingress_mbps` how fast data
    comes in (Mbit/s); None if not stated. `interruptions_per_mh` is how often work is cut off there, per million
    hours, as the hub has seen it; None if it has seen nothing. `gas_share` is the gas that settling one run there
    is expected to cost (µUSD). `probes` holds measured round trips by vantage name.
    """

    provider: str
    gpu: GpuModel
    price: MicroUSD
    location: Location
    free: Histogram
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


def room(free: Histogram, count: int) -> int:
    """How many times `count` GPUs on one node there are."""
    return sum((gpus // count) * nodes for gpus, nodes in free.items())


def pack(free: Histogram, loads: Iterable[Load]) -> dict[int, int] | None:
    """What is left after these loads in this order; None if they do not fit.

    Each replica goes to the fullest node that still holds it; as many nodes as possible are filled in one step.
    """
    left = {gpus: nodes for gpus, nodes in free.items() if nodes > 0}
    for gpus, count in loads:
        while count:
            node = 0
            for each in left:
                if each >= gpus and (each < node or not node):
                    node = each
            if not node:
                return None
            per_node = node // gpus
            nodes, used = (min(left[node], count // per_node), per_node) if count >= per_node else (1, count)
            left[node] -= nodes
            if not left[node]:
                del left[node]
            if node > used * gpus:
                rest = node - used * gpus
                left[rest] = left.get(rest, 0) + nodes
            count -= nodes * used
    return left


def take(free: Histogram, gpus: int, times: int) -> dict[int, int] | None:
    """What is left after `times` × `gpus`, as `pack` lays them out; None if they do not fit."""
    return pack(free, ((gpus, times),))
