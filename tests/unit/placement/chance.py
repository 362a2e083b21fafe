"""Worlds made by chance from a seed, as raw resources: rules bite, capacity is short, prices tie; no domain value."""

from __future__ import annotations

from random import Random
from typing import Any

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
POINTS = {"SG": (1.35, 103.8), "NO": (59.9, 10.7)}
"""Coordinates that some owners state."""
CLAIMS = ["HIPAA", "ISO27001", "hipaa"]
PRICES = ["0.50", "1.25", "1.25", "2.49", "6.04", "0.333333"]


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


def singles_world(seed: int) -> Raw:
    """A world of single-GPU jobs in which nobody's funds are short, so that the optimum is defined by capacity."""
    world = random_world(Random(seed), jobs=8 if seed % 2 else 5, gangs=False)
    world["funds"] = dict.fromkeys(world["funds"])
    if seed % 2:  # every other world without guardrails, so that jobs really compete
        world["policies"], world["defaultDeny"] = [], False
    return world


def _random_provider(rng: Random, name: str) -> Raw:
    country, region = rng.choice(PLACES)
    products = rng.sample(sorted(CARDS), rng.choice([1, 1, 2]))
    north, east = POINTS.get(country, (None, None))
    spec: Raw = {
        "location": {"country": country, "region": region, "latitude": north, "longitude": east},
        "compliance": rng.sample(CLAIMS, rng.randint(0, 2)),
        "offers": [
            {"product": product, "pricePerGPUHour": rng.choice(PRICES)} | _maybe(rng, "watts", [300, 700])
            for product in products
        ],
        "limits": _maybe(rng, "maxLeases", [1, 2, 5]),
        "energy": _maybe(rng, "carbonIntensity", [20, 400, 900]),
        "network": _maybe(rng, "egressPricePerGiB", ["0", "0.05", "0.09"]) | _maybe(rng, "ingressMbps", [10, 1000]),
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
        "status": {"ready": rng.random() < 0.9, "leases": rng.choice([0, 0, 1]), "inventory": stock}
        | _random_record(rng),
    }


def _random_record(rng: Random) -> Raw:
    """What the hub has seen of a provider: an audit, interruptions, the gas of settling with it, measurements."""
    instants = ["2026-01-01T00:00:30+00:00", "2025-12-31T23:00:00+00:00", "2025-12-29T00:00:00+00:00"]
    p50us = rng.choice([0, 2_000, 40_000, 110_000, 110_000])
    probe = {"p50us": p50us, "p95us": p50us + rng.choice([0, 30_000]), "at": rng.choice(instants)}
    probe["samples"] = rng.choice([4, 5, 60, 60])
    other = {"p50us": 90_000, "p95us": 95_000, "at": rng.choice(instants), "samples": 5}
    return (
        {"locationAudited": rng.random() < 0.7}
        | _maybe(rng, "interruptionsPerMh", [0, 200, 90_000])
        | _maybe(rng, "gasShare", ["0.002", "0.3"])
        | _maybe(rng, "probes", [{"fra": probe}, {"fra": probe, "iad": other}, {"fra": other, "iad": probe}])
    )


def _random_job(rng: Random, number: int, *, gangs: bool) -> Raw:
    spec: Raw = {
        "runLimitSeconds": rng.choice([600, 3600, 3600, 5000]),
        "priority": rng.choice([0, 0, 1, 1000]),
        "placement": random_placement(rng),
        "gpu": _maybe(rng, "products", [["H100"], ["H100", "A100"]], 0.2)
        | _maybe(rng, "minMemoryMiB", [24000, 40960], 0.2)
        | _maybe(rng, "architectures", [["hopper", "ampere"]], 0.1),
        "strategy": {
            "rates": _maybe(rng, "usdPerKgCO2e", ["0.5", "10"], 0.4) | _maybe(rng, "usdPerMs", ["0.0035", "0.02"], 0.4)
        },
        "data": _random_data(rng) if rng.random() < 0.3 else {},
    }
    if rng.random() < 0.4:
        spec["latency"] = _random_latency(rng)
    spec |= _maybe(rng, "checkpoint", [{"intervalSeconds": 600}, {"intervalSeconds": 90_000}], 0.3)
    if gangs and rng.random() < 0.5:
        spec["gpu"]["count"] = rng.choice([1, 2, 3, 4])
        spec["replicas"] = rng.choice([1, 1, 2, 3])
    spec |= _maybe(rng, "maxPricePerGPUHour", ["1.25", "2.49"], 0.2) | _maybe(rng, "budget", ["0.5", "1.25", "4"], 0.2)
    spec |= _maybe(rng, "deadline", ["2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"], 0.1)
    spec |= _maybe(rng, "avoid", [{f"p0/{product}": "rejected a minute ago" for product in CARDS}], 0.1)
    namespace = rng.choice(["lab", "web"])
    return {"metadata": {"uid": f"u{number}", "name": f"job-{number}", "namespace": namespace}, "spec": spec}


def _random_data(rng: Random) -> Raw:
    sets = [
        {"name": f"set-{i}"}
        | _maybe(rng, "sizeGiB", [1, 200, 5000])
        | _maybe(rng, "provider", ["p0", "p1", "elsewhere"])
        | _maybe(rng, "egressPricePerGiB", ["0.09", "0.000001"])
        | _maybe(
            rng, "residency", [{"groups": ["EU"]}, {"countries": ["DE", "US"]}, {"excludedCountries": ["US"]}], 0.3
        )
        for i in range(rng.choice([0, 1, 2]))
    ]
    return {"sets": sets, "outputGiB": rng.choice([0, 0, 7, 300])}


def _random_latency(rng: Random) -> Raw:
    region, vantage = rng.choice([("eu-central-1", "fra"), ("us-east-1", "iad")])
    country = {"fra": "DE", "iad": "US"}[vantage]
    return (
        {
            "from": {"region": region, "country": country},
            "vantages": rng.choice([[], [vantage], ["fra", "iad"], ["fra", "iad"]]),
        }
        | _maybe(rng, "maxMs", [5, 60, 120], 0.4)
        | _maybe(rng, "maxAgeSeconds", [600, 7200, 10**7])
        | _maybe(rng, "allowEstimate", [True], 0.7)
    )


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
        _maybe(rng, "auditedLocation", [True], 0.1)
        | _maybe(rng, "countries", [["DE"], ["DE", "US"], ["SG"]], 0.2)
        | _maybe(rng, "groups", [["EU"], ["EEA"]], 0.2)
        | _maybe(rng, "excludedCountries", [["US"], ["DE", "FR"]], 0.2)
        | _maybe(rng, "regions", [["eu-central-1", "paris"], ["us-east-1"]], 0.1)
        | _maybe(rng, "compliance", [["HIPAA"], ["HIPAA", "ISO27001"]], 0.1)
        | _maybe(rng, "providerSelector", selectors, 0.15)
    )


def _maybe(rng: Random, key: str, values: list[Any], chance: float = 0.6) -> Raw:
    return {key: rng.choice(values)} if rng.random() < chance else {}
