"""An independent judge of placements: reads raw resources only and imports nothing of the project.

Written from the issue and docs/placement.md in the plainest way, with Fractions and exhaustive search. What things
cost stands in prices.py, the best that can be reached in optimum.py; both keep to the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from functools import cache
from math import ceil, floor
from typing import Any

from tests.unit.placement.distance import probe_that_counts, round_trip_us

Raw = dict[str, Any]
Pair = tuple[str, str]

EU = {
    *("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT"),
    *("LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"),
}
GROUPS = {"EU": EU, "EEA": EU | {"IS", "LI", "NO"}}
KNOWN = EU | {"US", "SG", "NO"}
"""The countries that the test worlds use; "" and "de" are none."""


def forbidden(world: Raw, job: Raw, provider: Raw, product: str) -> str:
    """Why this job must not be at this offer, whatever else is placed; empty where it may."""
    spec = job["spec"]
    labels = world["namespaces"][job["metadata"]["namespace"]]
    binding = [each for each in world["policies"] if _selected(each["spec"].get("namespaceSelector", {}), labels)]
    if world["defaultDeny"] and not binding:
        return "no policy matches"
    offer = next(each for each in provider["spec"]["offers"] if each["product"] == product)
    price = Fraction(offer["pricePerGPUHour"])
    for rules in [spec, *(each["spec"] for each in binding)]:
        if why := _unlawful(rules.get("placement", {}), provider):
            return why
        if "maxPricePerGPUHour" in rules and price > Fraction(rules["maxPricePerGPUHour"]):
            return "too dear"
    for each in spec.get("data", {}).get("sets", []):
        if why := _unlawful(each.get("residency", {}), provider):
            return f"data set {each['name']}: {why}"
    if why := _too_far(world, job, provider):
        return why
    return _unfit(world, job, provider, product) or ("over budget" if _over_budget(spec, price) else "")


def _unlawful(rules: Raw, provider: Raw) -> str:
    country, region = provider["spec"]["location"]["country"], provider["spec"]["location"]["region"]
    if rules.get("auditedLocation") and not provider["status"].get("locationAudited"):
        return "the location is the owner's word"
    allowed = set(rules.get("countries", [])).union(*(GROUPS[each] for each in rules.get("groups", [])))
    if allowed and country not in allowed:
        return f"country {country!r}"
    if rules.get("excludedCountries") and (country not in KNOWN or country in rules["excludedCountries"]):
        return f"excluded country {country!r}"
    if rules.get("regions") and region not in rules["regions"]:
        return f"region {region!r}"
    if set(rules.get("compliance", [])) - set(provider["spec"]["compliance"]):
        return "compliance"
    if not _selected(rules.get("providerSelector", {}), provider["metadata"]["labels"]):
        return "labels"
    return ""


def _selected(selector: Raw, labels: Mapping[str, str]) -> bool:
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for each in selector.get("matchExpressions", []):
        has, value = each["key"] in labels, labels.get(each["key"])
        holds = {
            "In": has and value in each.get("values", []),
            "NotIn": not has or value not in each.get("values", []),
            "Exists": has,
            "DoesNotExist": not has,
        }[each["operator"]]
        if not holds:
            return False
    return True


def _unfit(world: Raw, job: Raw, provider: Raw, product: str) -> str:
    need, stock = job["spec"].get("gpu", {}), provider["status"]["inventory"][product]
    if need.get("products") and product not in need["products"]:
        return "product"
    if need.get("architectures") and stock["architecture"] not in need["architectures"]:
        return "architecture"
    if stock["memoryMiB"] < need.get("minMemoryMiB", 0):
        return "memory"
    if not provider["status"]["ready"]:
        return "not ready"
    if f"{provider['metadata']['name']}/{product}" in job["spec"].get("avoid", {}):
        return "avoided"
    deadline = job["spec"].get("deadline")
    if deadline and _arrival(world, job, provider) >= datetime.fromisoformat(deadline):
        return "deadline"
    return ""


def _arrival(world: Raw, job: Raw, provider: Raw) -> datetime:
    """When all data is there, in whole seconds, rounded up; at 100 Mbit/s unless the owner says otherwise."""
    mbps = provider["spec"].get("network", {}).get("ingressMbps", 100)
    gib = sum(each.get("sizeGiB", 0) for each in moved_sets(job, provider))
    return datetime.fromisoformat(world["now"]) + timedelta(seconds=ceil(Fraction(gib * 2**30 * 8, mbps * 10**6)))


def moved_sets(job: Raw, provider: Raw) -> list[Raw]:
    """The data sets that do not lie at this provider already."""
    sets: list[Raw] = job["spec"].get("data", {}).get("sets", [])
    return [each for each in sets if each.get("provider") != provider["metadata"]["name"]]


def _too_far(world: Raw, job: Raw, provider: Raw) -> str:
    rule = job["spec"].get("latency")
    if rule is None or "maxMs" not in rule:
        return ""
    probe = probe_that_counts(world, job, provider)
    if probe is not None:
        return "measured beyond the bound" if probe["p95us"] > rule["maxMs"] * 1000 else ""
    floor_us = round_trip_us(rule["from"], provider["spec"]["location"])
    if floor_us is None or not rule.get("allowEstimate"):
        return "no measurement"
    return "farther than light" if floor_us > rule["maxMs"] * 1000 else ""


def gpus_of(job: Raw) -> tuple[int, int]:
    """GPUs per replica, and replicas."""
    return job["spec"].get("gpu", {}).get("count", 1), job["spec"].get("replicas", 1)


def run_cost(spec: Raw, price: Fraction) -> int:
    """µUSD for the whole run limit, rounded down once."""
    gpus, replicas = gpus_of({"spec": spec})
    return floor(price * 1_000_000 * gpus * replicas * int(spec["runLimitSeconds"]) / 3600)


def _over_budget(spec: Raw, price: Fraction) -> bool:
    return "budget" in spec and run_cost(spec, price) > Fraction(spec["budget"]) * 1_000_000


def breaches(world: Raw, placed: Mapping[str, Pair]) -> list[str]:
    """Everything wrong with a whole placement, `{job uid: (provider, product)}`; an empty list is lawful."""
    providers = {each["metadata"]["name"]: each for each in world["providers"]}
    jobs = {each["metadata"]["uid"]: each for each in world["jobs"]}
    wrong = []
    for uid, (name, product) in placed.items():
        if why := forbidden(world, jobs[uid], providers[name], product):
            wrong.append(f"{uid} at {name}/{product}: {why}")
    for name, provider in providers.items():
        here = [uid for uid, (owner, _) in placed.items() if owner == name]
        if len(here) > slots_of(provider):
            wrong.append(f"{name}: {len(here)} leases for {slots_of(provider)} slots")
        for product in provider["status"]["inventory"]:
            loads = [gpus_of(jobs[uid]) for uid in here if placed[uid][1] == product]
            if not packs(nodes_of(provider, product), loads):
                wrong.append(f"{name}/{product}: sold twice: {loads}")
    return wrong + _overdrawn(world, placed, jobs, providers)


def _overdrawn(
    world: Raw, placed: Mapping[str, Pair], jobs: Mapping[str, Raw], providers: Mapping[str, Raw]
) -> list[str]:
    wrong = []
    for namespace, funds in world["funds"].items():
        total = sum(
            run_cost(jobs[uid]["spec"], price_of(providers[name], product))
            for uid, (name, product) in placed.items()
            if jobs[uid]["metadata"]["namespace"] == namespace
        )
        if funds is not None and total > Fraction(funds) * 1_000_000:
            wrong.append(f"{namespace}: committed {total} of {funds} USD")
    return wrong


def price_of(provider: Raw, product: str) -> Fraction:
    """USD per GPU-hour."""
    return Fraction(next(each for each in provider["spec"]["offers"] if each["product"] == product)["pricePerGPUHour"])


def nodes_of(provider: Raw, product: str) -> tuple[int, ...]:
    """Free GPUs of each node."""
    histogram = provider["status"]["inventory"][product]["histogram"]
    return tuple(bucket["free"] for bucket in histogram for _ in range(bucket["nodes"]) if bucket["free"])


def packs(nodes: tuple[int, ...], loads: list[tuple[int, int]]) -> bool:
    """Whether all replicas can lie on the nodes at once, by exhaustive search."""
    return _packs(
        tuple(sorted(nodes)), tuple(sorted((gpus for gpus, times in loads for _ in range(times)), reverse=True))
    )


@cache
def _packs(nodes: tuple[int, ...], pieces: tuple[int, ...]) -> bool:
    if not pieces:
        return True
    for i, free in enumerate(nodes):
        after = tuple(sorted((*nodes[:i], free - pieces[0], *nodes[i + 1 :])))
        if free >= pieces[0] and _packs(after, pieces[1:]):
            return True
    return False


def slots_of(provider: Raw) -> int:
    """How many more leases the provider takes."""
    limit = provider["spec"].get("limits", {}).get("maxLeases")
    return 10**6 if limit is None else max(0, limit - provider["status"]["leases"])
