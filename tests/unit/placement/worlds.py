"""Worlds for the tests: raw resources as users write them, and their domain values; chance.py makes them up.

A world is a plain dict: `now`, `namespaces` (labels), `providers`, `jobs`, `policies`, `funds`, `defaultDeny`. What
the hub would know from reports stands under a provider's `status`. Only `snapshot_of` knows the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fedgpu_operator.domain.geo import Location, locate, resolve_countries
from fedgpu_operator.domain.job import (
    DataSet,
    ExchangeRates,
    Job,
    LatencyRule,
    PlacementRules,
    Policy,
    Requirement,
    SelectorOperator,
)
from fedgpu_operator.domain.money import MicroUSD, parse_usd
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer, Probe
from fedgpu_operator.placement import Snapshot, decide

Raw = dict[str, Any]


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


def placed_by(world: Raw) -> dict[str, tuple[str, str]]:
    """`{job uid: (provider, product)}` as placement decides it."""
    return {
        each.job_uid: (each.chosen.provider, each.chosen.product)
        for each in decide(snapshot_of(world))
        if each.chosen is not None
    }


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
            location_audited=status.get("locationAudited", False),
            egress_per_gib=_amount(spec.get("network", {}).get("egressPricePerGiB")),
            ingress_mbps=spec.get("network", {}).get("ingressMbps"),
            interruptions_per_mh=status.get("interruptionsPerMh"),
            gas_share=parse_usd(status.get("gasShare", "0")),
            probes={
                name: Probe(probe["p50us"], probe["p95us"], datetime.fromisoformat(probe["at"]), probe["samples"])
                for name, probe in status.get("probes", {}).items()
            },
        )
        for each in spec["offers"]
        for stock in [status["inventory"][each["product"]]]
    ]


def _job(raw: Raw) -> Job:
    spec = raw["spec"]
    gpu, rates = spec.get("gpu", {}), spec.get("strategy", {}).get("rates", {})
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
        latency=_latency(spec.get("latency")),
        max_price=_amount(spec.get("maxPricePerGPUHour")),
        budget_left=_amount(spec.get("budget")),
        deadline=datetime.fromisoformat(spec["deadline"]) if "deadline" in spec else None,
        rates=ExchangeRates(
            parse_usd(rates.get("usdPerMs", "0")),
            parse_usd(rates.get("usdPerKgCO2e", "0")),
        ),
        avoid=spec.get("avoid", {}),
        data=tuple(_data_set(each) for each in spec.get("data", {}).get("sets", [])),
        output_mib=spec.get("data", {}).get("outputGiB", 0) * 1024,
        checkpoint_seconds=spec.get("checkpoint", {}).get("intervalSeconds"),
    )


def _latency(raw: Raw | None) -> LatencyRule | None:
    if raw is None:
        return None
    return LatencyRule(
        locate(country=raw["from"].get("country", ""), region=raw["from"].get("region", "")),
        raw.get("maxMs"),
        raw.get("allowEstimate", False),
        frozenset(raw.get("vantages", [])),
        raw.get("maxAgeSeconds", 86_400),
    )


def _data_set(raw: Raw) -> DataSet:
    rules = _rules(raw.get("residency", {}))
    return DataSet(
        name=raw["name"],
        mib=raw.get("sizeGiB", 0) * 1024,
        provider=raw.get("provider", ""),
        egress_per_gib=parse_usd(raw.get("egressPricePerGiB", "0")),
        countries=rules.countries,
        excluded_countries=rules.excluded_countries,
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
        audited_location=raw.get("auditedLocation", False),
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
