"""Worlds for the tests: raw resources as users write them, made by chance from a seed, and their domain values.

A world is a plain dict: `now`, `namespaces` (labels), `providers`, `jobs`, `policies`, `funds`, `defaultDeny`. What
the hub would know from reports stands under a provider's `status`. Only `snapshot_of` knows the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from random import Random
from typing import Any

from fedgpu_operator.domain.geo import locate, resolve_countries
from fedgpu_operator.domain.gpu import GpuModel, GpuNeed
from fedgpu_operator.domain.job import (
    ExchangeRates,
    Job,
    LatencyRule,
    PlacementRules,
    Policy,
    Requirement,
    SelectorOperator,
)
from fedgpu_operator.domain.location import Location
from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.offer import Offer
from fedgpu_operator.placement import Snapshot

Raw = dict[str, Any]

CARDS = {"H100": ("hopper", 81559), "A100": ("ampere", 40960), "L4": ("ada-lovelace", 23034)}
PLACES = [
    ("DE", "eu-central-1"),
    ("FR", "paris"),
    ("US", "us-east-1"),
    ("SG", ""),
    ("", ""),
    ("de", "x"),
    ("NO", "oslo"),
]
CLAIMS = ["HIPAA", "ISO27001", "hipaa"]
PRICES = ["0.50", "1.25", "1.25", "2.49", "6.04", "0.333333"]


def snapshot_of(world: Raw) -> Snapshot:
    """Raw resources as one Snapshot: the tests' stand-in for the api's `to_domain()` and the hub's loading."""
    policies: dict[str, tuple[Policy, ...]] = {}
    for namespace, labels in world["namespaces"].items():
        policies[namespace] = tuple(
            _policy(raw) for raw in world["policies"] if _selects(raw["spec"].get("namespaceSelector", {}), labels)
        )
    return Snapshot(
        now=datetime.fromisoformat(world["now"]),
        jobs=tuple(_job(raw) for raw in world["jobs"]),
        offers=tuple(offer for raw in world["providers"] for offer in _offers(raw)),
        policies=policies,
        funds={name: None if amount is None else parse_usd(amount) for name, amount in world["funds"].items()},
        default_deny=world["defaultDeny"],
    )


def _offers(raw: Raw) -> list[Offer]:
    spec, status, place = raw["spec"], raw["status"], raw["spec"]["location"]
    limit = spec.get("limits", {}).get("maxLeases")
    return [
        Offer(
            provider=raw["metadata"]["name"],
            gpu=GpuModel(each["product"], stock["memoryMiB"], stock["architecture"]),
            price=parse_usd(each["pricePerGPUHour"]),
            location=Location(
                place.get("country", ""), place.get("region", ""), place.get("latitude"), place.get("longitude")
            ),
            free={bucket["free"]: bucket["nodes"] for bucket in stock["histogram"]},
            compliance=frozenset(spec.get("compliance", [])),
            labels=raw["metadata"].get("labels", {}),
            ready=status["ready"],
            lease_slots=None if limit is None else limit - status["leases"],
            carbon_g_per_kwh=spec.get("energy", {}).get("carbonIntensity"),
            watts=each.get("watts"),
        )
        for each in spec["offers"]
        for stock in [status["inventory"][each["product"]]]
    ]


def _job(raw: Raw) -> Job:
    spec = raw["spec"]
    gpu, rates = spec.get("gpu", {}), spec.get("strategy", {}).get("rates", {})
    latency = spec.get("latency")
    return Job(
        uid=raw["metadata"]["uid"],
        namespace=raw["metadata"]["namespace"],
        name=raw["metadata"]["name"],
        gpu=GpuNeed(
            gpu.get("count", 1),
            frozenset(gpu.get("products", [])),
            gpu.get("minMemoryMiB", 0),
            frozenset(gpu.get("architectures", [])),
        ),
        replicas=spec.get("replicas", 1),
        run_limit=spec["runLimitSeconds"],
        priority=spec.get("priority", 0),
        rules=_rules(spec.get("placement", {})),
        latency=None
        if latency is None
        else LatencyRule(
            locate(country=latency["from"].get("country", ""), region=latency["from"].get("region", "")),
            latency.get("maxMs"),
            latency.get("allowEstimate", False),
        ),
        max_price=_amount(spec.get("maxPricePerGPUHour")),
        budget_left=_amount(spec.get("budget")),
        deadline=datetime.fromisoformat(spec["deadline"]) if "deadline" in spec else None,
        rates=ExchangeRates(
            parse_usd(rates.get("usdPerMs", "0")),
            parse_usd(rates.get("usdPerKgCO2e", "0")),
        ),
        avoid=spec.get("avoid", {}),
    )


def _policy(raw: Raw) -> Policy:
    spec = raw["spec"]
    return Policy(
        raw["metadata"]["name"],
        raw["metadata"].get("generation", 1),
        _rules(spec.get("placement", {})),
        _amount(spec.get("maxPricePerGPUHour")),
    )


def _rules(raw: Raw) -> PlacementRules:
    countries, groups, regions = raw.get("countries", []), raw.get("groups", []), raw.get("regions", [])
    return PlacementRules(
        countries=resolve_countries(countries, groups) if countries or groups else None,
        excluded_countries=resolve_countries(raw.get("excludedCountries", [])),
        regions=frozenset(regions) if regions else None,
        compliance=frozenset(raw.get("compliance", [])),
        selector=_requirements(raw.get("providerSelector", {})),
    )


def _requirements(raw: Raw) -> tuple[Requirement, ...]:
    exact = [
        Requirement(key, SelectorOperator.IN, frozenset({value})) for key, value in raw.get("matchLabels", {}).items()
    ]
    return tuple(exact) + tuple(
        Requirement(each["key"], SelectorOperator(each["operator"]), frozenset(each.get("values", [])))
        for each in raw.get("matchExpressions", [])
    )


def _selects(selector: Raw, labels: Mapping[str, str]) -> bool:
    return all(each.matches(labels) for each in _requirements(selector))


def _amount(text: str | None) -> MicroUSD | None:
    return None if text is None else parse_usd(text)


def random_world(rng: Random, *, jobs: int = 6, providers: int = 4, gangs: bool = True) -> Raw:
    """A small world in which rules bite, capacity is short and prices tie."""
    return {
        "now": "2026-01-01T00:00:00+00:00",
        "namespaces": {"lab": {"tier": "gold"}, "web": {}},
        "providers": [_random_provider(rng, f"p{i}") for i in range(rng.randint(1, providers))],
        "jobs": [_random_job(rng, i, gangs=gangs) for i in range(rng.randint(1, jobs))],
        "policies": [_random_policy(rng, f"policy-{i}") for i in range(rng.choice([0, 0, 1, 2]))],
        "funds": {"lab": None, "web": rng.choice([None, None, "3", "10"])},
        "defaultDeny": rng.random() < 0.1,
    }


def _random_provider(rng: Random, name: str) -> Raw:
    country, region = rng.choice(PLACES)
    products = rng.sample(sorted(CARDS), rng.choice([1, 1, 2]))
    spec: Raw = {
        "location": {"country": country, "region": region},
        "compliance": rng.sample(CLAIMS, rng.randint(0, 2)),
        "offers": [
            {"product": product, "pricePerGPUHour": rng.choice(PRICES)} | _maybe(rng, "watts", [300, 700])
            for product in products
        ],
        "limits": _maybe(rng, "maxLeases", [1, 2, 5]),
        "energy": _maybe(rng, "carbonIntensity", [20, 400, 900]),
    }
    stock = {
        product: {
            "architecture": CARDS[product][0],
            "memoryMiB": CARDS[product][1],
            "histogram": [
                {"free": free, "nodes": rng.randint(1, 2)} for free in rng.sample([0, 1, 2, 4], rng.randint(0, 2))
            ],
        }
        for product in products
    }
    return {
        "metadata": {"name": name, "labels": rng.choice([{}, {"net": "fast"}, {"net": "slow"}])},
        "spec": spec,
        "status": {"ready": rng.random() < 0.9, "leases": rng.choice([0, 0, 1]), "inventory": stock},
    }


def _random_job(rng: Random, number: int, *, gangs: bool) -> Raw:
    spec: Raw = {
        "runLimitSeconds": rng.choice([600, 3600, 3600, 5000]),
        "priority": rng.choice([0, 0, 1]),
        "placement": random_placement(rng),
        "gpu": _maybe(rng, "products", [["H100"], ["H100", "A100"]], 0.2)
        | _maybe(rng, "minMemoryMiB", [24000, 40960], 0.2)
        | _maybe(rng, "architectures", [["hopper", "ampere"]], 0.1),
        "strategy": {"rates": _maybe(rng, "usdPerKgCO2e", ["0.5", "10"], 0.4)},
    }
    if gangs and rng.random() < 0.5:
        spec["gpu"]["count"] = rng.choice([1, 2, 3, 4])
        spec["replicas"] = rng.choice([1, 1, 2, 3])
    spec |= _maybe(rng, "maxPricePerGPUHour", ["1.25", "2.49"], 0.2) | _maybe(rng, "budget", ["0.5", "1.25", "4"], 0.2)
    spec |= _maybe(rng, "deadline", ["2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"], 0.1)
    spec |= _maybe(rng, "avoid", [{"p0": "rejected a minute ago"}], 0.1)
    namespace = rng.choice(["lab", "web"])
    return {"metadata": {"uid": f"u{number}", "name": f"job-{number}", "namespace": namespace}, "spec": spec}


def _random_policy(rng: Random, name: str) -> Raw:
    selector = rng.choice([{}, {"matchLabels": {"tier": "gold"}}])
    spec: Raw = {"namespaceSelector": selector, "placement": random_placement(rng)}
    return {"metadata": {"name": name}, "spec": spec | _maybe(rng, "maxPricePerGPUHour", ["2.49", "1.25"], 0.3)}


def random_placement(rng: Random) -> Raw:
    """Placement rules, most of the time few of them."""
    selectors = [
        {"matchLabels": {"net": "fast"}},
        {"matchExpressions": [{"key": "net", "operator": "NotIn", "values": ["slow"]}]},
        {"matchExpressions": [{"key": "net", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "net", "operator": "DoesNotExist"}]},
    ]
    return (
        _maybe(rng, "countries", [["DE"], ["DE", "US"], ["SG"]], 0.2)
        | _maybe(rng, "groups", [["EU"], ["EEA"]], 0.2)
        | _maybe(rng, "excludedCountries", [["US"], ["DE", "FR"]], 0.2)
        | _maybe(rng, "regions", [["eu-central-1", "paris"], ["us-east-1"]], 0.1)
        | _maybe(rng, "compliance", [["HIPAA"], ["HIPAA", "ISO27001"]], 0.1)
        | _maybe(rng, "providerSelector", selectors, 0.15)
    )


def _maybe(rng: Random, key: str, values: list[Any], chance: float = 0.6) -> Raw:
    return {key: rng.choice(values)} if rng.random() < chance else {}
