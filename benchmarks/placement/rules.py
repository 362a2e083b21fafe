"""What is lawful in these worlds and what it costs, in plain Python that imports nothing of placement.

Only what worlds.py uses is here: hardware, residency, claims, price caps, policies, latency by estimate, carbon. The
peers decide with it, and every answer, ours too, is judged and priced by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedgpu_operator.domain.geo import Location, great_circle_km, point_of, round_trip_floor_ms
from fedgpu_operator.domain.job import Job, PlacementRules, Policy
from fedgpu_operator.domain.offer import Offer

ASSUMED_G_PER_KWH, ASSUMED_WATTS = 820, 1400
Policies = Mapping[str, tuple[Policy, ...]]


@dataclass(slots=True)
class Distances:
    """Round trips in µs between places, each computed once."""

    known: dict[tuple[Location, Location], int]

    def microseconds(self, origin: Location, place: Location) -> int:
        """The light-in-fibre floor, rounded down."""
        key = (origin, place)
        if key not in self.known:
            a, b = point_of(origin), point_of(place)
            if a is None or b is None:
                raise ValueError(f"no coordinates for {origin} or {place}")
            self.known[key] = int(round_trip_floor_ms(great_circle_km(*a, *b)) * 1000)
        return self.known[key]


DISTANCES = Distances({})


def allowed(job: Job, offer: Offer, policies: Policies) -> bool:
    """Whether the job may be at the offer, whatever is free."""
    need, card = job.gpu, offer.gpu
    if need.products and card.product not in need.products:
        return False
    if card.memory_mib < need.min_memory_mib:
        return False
    if not _lawful(job.rules, offer) or (job.max_price is not None and offer.price > job.max_price):
        return False
    return all(
        _lawful(each.rules, offer) and (each.max_price is None or offer.price <= each.max_price)
        for each in policies[job.namespace]
    )


def _lawful(rules: PlacementRules, offer: Offer) -> bool:
    country = offer.location.country
    if rules.countries is not None and country not in rules.countries:
        return False
    return country not in rules.excluded_countries and rules.compliance <= offer.compliance


def effective_price(job: Job, offer: Offer) -> int:
    """µUSD per GPU-hour: price, latency and carbon at the job's rates."""
    price: int = offer.price
    if job.rates.per_ms and job.latency is not None:
        price += (job.rates.per_ms * DISTANCES.microseconds(job.latency.origin, offer.location) + 500) // 1000
    if job.rates.per_kg_co2e:
        grams = ASSUMED_G_PER_KWH if offer.carbon_g_per_kwh is None else offer.carbon_g_per_kwh
        watts = ASSUMED_WATTS if offer.watts is None else offer.watts
        price += (job.rates.per_kg_co2e * watts * grams + 500_000) // 1_000_000
    return price


def cost(job: Job, offer: Offer) -> int:
    """Effective price × GPUs × run limit (µUSD · s per hour)."""
    return effective_price(job, offer) * job.gpus * job.run_limit


@dataclass(slots=True)
class Stock:
    """What is left while a peer sells: free GPUs by node size and lease slots by provider."""

    free: list[dict[int, int]]
    slots: dict[str, int]

    @classmethod
    def of(cls, offers: Sequence[Offer]) -> Stock:
        """Everything that the offers have."""
        slots = {offer.provider: offer.lease_slots for offer in offers}
        return cls(
            [dict(offer.free) for offer in offers], {name: left for name, left in slots.items() if left is not None}
        )

    def fits(self, job: Job, offer: Offer, index: int) -> bool:
        """Whether all replicas find room, each on one node."""
        if not self.slots.get(offer.provider, 1):
            return False
        count = job.gpu.count
        return sum(size // count * nodes for size, nodes in self.free[index].items()) >= job.replicas

    def take(self, job: Job, offer: Offer, index: int, times: int = 1) -> bool:
        """Sell it so often, each replica from the fullest node that still holds it; False where that does not fit."""
        free, count = self.free[index], job.gpu.count
        left = job.replicas * times
        while left:
            size = min((each for each, nodes in free.items() if nodes and each >= count), default=0)
            if not size:
                return False
            # Whole nodes at once; the last one may be used in part.
            nodes = max(1, min(free[size], left // (size // count)))
            used = min(left, size // count)
            free[size] -= nodes
            free[size - used * count] = free.get(size - used * count, 0) + nodes
            left -= used * nodes
        if offer.provider in self.slots:
            self.slots[offer.provider] -= times
        return self.slots.get(offer.provider, 0) >= 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a placement is worth: jobs and GPU-hours placed, and their total effective cost in USD."""

    jobs: int
    gpu_hours: float
    usd: float


def judged(jobs: Sequence[Job], offers: Sequence[Offer], policies: Policies, placed: Iterable[tuple[int, int]]) -> Bill:
    """The bill of `placed`, pairs (index of job, index of offer); ValueError where it is unlawful or sells twice.

    Replicas are packed anew, largest first. With sizes that divide each other this finds room wherever there is room.
    """
    pairs = list(placed)
    if len({job for job, _ in pairs}) < len(pairs):
        raise ValueError("a job is placed twice")
    # Jobs made of the very same values are one case.
    cases: dict[tuple[object, ...], int] = {}
    counts = Counter((cases.setdefault(_identity(jobs[job]), job), offer) for job, offer in pairs)
    stock = Stock.of(offers)
    total = seconds = 0
    for (job_index, offer_index), times in sorted(counts.items(), key=lambda item: -jobs[item[0][0]].gpu.count):
        job, offer = jobs[job_index], offers[offer_index]
        if not allowed(job, offer, policies):
            raise ValueError(f"{job.name} may not be at {offer.name}")
        if not stock.take(job, offer, offer_index, times):
            raise ValueError(f"{offer.name} is sold twice")
        total += cost(job, offer) * times
        seconds += job.gpus * job.run_limit * times
    return Bill(len(pairs), round(seconds / 3600, 1), round(total / 3600 / 1_000_000, 2))


def _identity(job: Job) -> tuple[object, ...]:
    shared = (id(job.gpu), id(job.rules), id(job.rates), id(job.latency))
    return (*shared, job.namespace, job.replicas, job.run_limit, job.max_price)
