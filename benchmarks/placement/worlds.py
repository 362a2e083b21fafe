"""Worlds to place: jobs and offers as domain values, made from a seed; nothing here knows how they will be placed.

What they are made of is stated in docs/benchmarks.md. Sub-values that are equal by meaning (a class's rules, its needs)
are shared objects, as a cache of parsed objects shares them; every job is an object of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Final

from fedgpu_operator.domain.geo import locate, resolve_countries
from fedgpu_operator.domain.job import ExchangeRates, Job, LatencyRule, PlacementRules, Policy
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement import Snapshot

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
CARDS: Final = (
    # product, MiB, architecture, watts, a typical price of a small provider in µUSD per GPU-hour; made up
    ("NVIDIA-H100-80GB-HBM3", 81559, "hopper", 700, 2_490_000),
    ("NVIDIA-H200", 143771, "hopper", 700, 3_400_000),
    ("NVIDIA-A100-SXM4-80GB", 81920, "ampere", 400, 1_590_000),
    ("NVIDIA-A100-SXM4-40GB", 40960, "ampere", 400, 1_100_000),
    ("NVIDIA-L40S", 46068, "ada-lovelace", 350, 890_000),
    ("NVIDIA-GeForce-RTX-4090", 24564, "ada-lovelace", 450, 440_000),
)
PLACES: Final = (
    *("eu-central-1", "eu-west-1", "eu-west-3", "eu-north-1", "eu-south-2", "us-east-1", "us-west-2", "ca-central-1"),
    *("ap-southeast-1", "ap-northeast-1", "ap-south-1", "sa-east-1", "me-central-1", "eu-central-2"),
)
ZONES: Final = (["EU"], ["EEA"], ["US"], ["US", "CA"], ["SG", "JP"], ["EU", "CH"])
CLAIMS: Final = ("ISO27001", "SOC2", "HIPAA")
SHAPES: Final = ((1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (4, 2), (8, 1), (16, 1), (2, 4))
"""(replicas, GPUs of each) of jobs of more than one GPU; powers of two, so that packing can be checked exactly."""
LIMITED: Final = 0.1
"""The share of providers that take fewer leases than they have GPUs free."""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a world is and how short its GPUs are.

    `load` is GPUs asked for per GPU free. `multi` is the share of classes whose jobs need more than one GPU.
    `policies` and `groups` make it heavy with guardrails: that many PlacementPolicies over that many sets of countries.
    `distinct` makes every job a class of its own. `open` leaves out all rules, so that every pair is an arc.
    """

    jobs: int
    offers: int
    classes: int
    load: float
    multi: float = 0.0
    policies: int = 0
    groups: int = 0
    namespaces: int = 50
    distinct: bool = False
    open: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Template:
    """A class in the making: one job that all its jobs equal but for uid and name."""

    job: Job
    weight: float


def make(size: Size) -> Snapshot:
    """The whole world; the same for the same size."""
    rng = Random(size.seed)
    zones = _zones(rng, size.groups) if size.groups else [resolve_countries(_codes(z), _groups(z)) for z in ZONES]
    templates = [_template(rng, number, zones, size) for number in range(size.classes)]
    jobs = _jobs(rng, templates, size)
    offers = _offers(rng, size.offers, sum(job.gpus for job in jobs) / size.load)
    names = [f"team-{i}" for i in range(size.namespaces)]
    return Snapshot(NOW, jobs, offers, _policies(rng, names, zones, size), dict.fromkeys(names))


def _jobs(rng: Random, templates: Sequence[Template], size: Size) -> tuple[Job, ...]:
    chosen = rng.choices(templates, [each.weight for each in templates], k=size.jobs)
    result = []
    for number, each in enumerate(chosen):
        job = replace(each.job, uid=_uid(rng), name=f"train-{number}")
        if size.distinct:
            job = replace(job, run_limit=job.run_limit + number)
        result.append(job)
    return tuple(result)


def _uid(rng: Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _template(rng: Random, number: int, zones: Sequence[frozenset[str]], size: Size) -> Template:
    replicas, gpus = rng.choice(SHAPES) if rng.random() < size.multi else (1, 1)
    shown = rng.random()
    if shown < 0.4:
        need = GpuNeed(gpus, frozenset(rng.sample([card[0] for card in CARDS], rng.randint(1, 3))))
    else:
        need = GpuNeed(gpus, min_memory_mib=rng.choice([0, 24_000, 40_000, 80_000]))
    rates = ExchangeRates(
        per_ms=rng.choice([0, 1, 1]) * rng.randint(100, 2_000),
        per_kg_co2e=rng.choice([0, 1]) * rng.randint(10_000, 999_999),
    )
    origin = locate(region=rng.choice(PLACES))
    job = Job(
        uid="",
        namespace=f"team-{rng.randrange(size.namespaces)}",
        name="",
        gpu=need,
        replicas=replicas,
        run_limit=rng.choice([1_800, 3_600, 7_200, 14_400, 43_200, 86_400]) + number % 7 * 60,
        priority=100 if rng.random() < 0.1 else 0,
        rules=PlacementRules(
            countries=rng.choice(zones) if rng.random() < 0.6 else None,
            excluded_countries=frozenset({"US"}) if rng.random() < 0.1 else frozenset(),
            compliance=frozenset({rng.choice(CLAIMS)}) if rng.random() < 0.15 else frozenset(),
        ),
        latency=LatencyRule(origin) if rates.per_ms else None,
        max_price=MicroUSD(rng.choice([3_000_000, 4_500_000])) if rng.random() < 0.3 else None,
        rates=rates,
    )
    if size.open:
        job = replace(job, gpu=GpuNeed(gpus), rules=PlacementRules(), max_price=None)
    return Template(job, rng.lognormvariate(0.0, 1.0))


def _offers(rng: Random, count: int, gpus: float) -> tuple[Offer, ...]:
    """Offers of two products a provider, with about so many free GPUs in all, on nodes of eight, partly used."""
    weights = [rng.lognormvariate(0.0, 0.7) for _ in range(count)]
    share = gpus / sum(weights)
    offers: list[Offer] = []
    while len(offers) < count:
        frees = [max(1, round(each * share)) for each in weights[len(offers) : len(offers) + 2]]
        slots = round(sum(frees) * rng.uniform(0.3, 0.9)) if rng.random() < LIMITED else None
        base = replace(_provider(rng, len(offers)), lease_slots=slots)
        offers += [_offer(rng, base, card, free) for card, free in zip(rng.sample(CARDS, 2), frees, strict=False)]
    return tuple(offers)


def _provider(rng: Random, number: int) -> Offer:
    return Offer(
        provider=f"provider-{number:05d}",
        gpu=GpuModel("", 0, ""),
        price=MicroUSD(0),
        location=locate(region=rng.choice(PLACES)),
        free={},
        compliance=frozenset(rng.sample(CLAIMS, rng.randint(0, 3))),
        carbon_g_per_kwh=rng.choice([None, 20, 60, 250, 400, 700]),
    )


def _offer(rng: Random, base: Offer, card: tuple[str, int, str, int, int], free: int) -> Offer:
    product, memory, architecture, watts, price = card
    return replace(
        base,
        gpu=GpuModel(product, memory, architecture),
        price=MicroUSD(price * rng.randint(70, 180) // 100 // 10_000 * 10_000),
        free=_histogram(rng, free),
        watts=watts,
    )


def _histogram(rng: Random, gpus: int) -> dict[int, int]:
    """Nodes of eight: 60 % of the GPUs on nodes that are wholly free, the others on nodes partly used."""
    result: dict[int, int] = {}
    whole = int(gpus * 0.6) // 8
    if whole:
        result[8], gpus = whole, gpus - whole * 8
    while gpus > 0:
        piece = min(gpus, rng.choice([1, 2, 3, 4, 5, 6, 7, 8]))
        result[piece], gpus = result.get(piece, 0) + 1, gpus - piece
    return result


def _zones(rng: Random, count: int) -> list[frozenset[str]]:
    codes = sorted({locate(region=place).country for place in PLACES})
    return [frozenset(rng.sample(codes, rng.randint(3, len(codes) - 1))) for _ in range(count)]


def _policies(
    rng: Random, names: Sequence[str], zones: Sequence[frozenset[str]], size: Size
) -> Mapping[str, tuple[Policy, ...]]:
    policies = [
        Policy(
            f"policy-{i:03d}",
            1,
            PlacementRules(countries=rng.choice(zones) | rng.choice(zones)),
            MicroUSD(rng.choice([4_000_000, 6_000_000, 9_000_000])) if rng.random() < 0.3 else None,
        )
        for i in range(size.policies)
    ]
    each = min(4, len(policies))
    return {name: tuple(rng.sample(policies, each)) for name in names}


def _codes(zone: Sequence[str]) -> list[str]:
    return [each for each in zone if each not in ("EU", "EEA")]


def _groups(zone: Sequence[str]) -> list[str]:
    return [each for each in zone if each in ("EU", "EEA")]
