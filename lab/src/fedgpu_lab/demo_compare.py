"""What the same jobs would have cost at the central clouds alone, and whether each landed where its YAML allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fedgpu_lab.demo_scenario import TIER, Scenario, nodes_of
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.domain.money import MicroUSD, charge, parse_usd
from fedgpu_operator.domain.offer import GpuModel, Offer
from fedgpu_operator.placement import Snapshot, decide

EU: Final = frozenset(
    {"AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU"}
    | {"IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"}
)
"""The 27 members since 2020."""
GROUPS: Final[Mapping[str, frozenset[str]]] = {"EU": EU, "EEA": EU | {"IS", "LI", "NO"}}
"""A list of our own, so that an error in the operator's table is not repeated here."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One job at the clouds of one tier: `cost` in µUSD for the GPU-seconds it really used, or why it cannot go."""

    tier: str
    provider: str | None
    cost: MicroUSD | None
    reason: str


def alternatives(scenario: Scenario, used: Mapping[str, int], tier: str, now: datetime) -> Mapping[str, Alternative]:
    """A second solve of the jobs in `used` (name → billed GPU-seconds) with that tier's providers only, all empty."""
    offers = tuple(offer for each in scenario.providers if _tier(each) == tier for offer in offers_of(each))
    jobs = [job for job in scenario.jobs if job.metadata.name in used]
    namespaces = {job.metadata.namespace for job in jobs}
    snapshot = Snapshot(
        now=now,
        # Examples carry no uid before they are applied; names are unique among them.
        jobs=tuple(_with_uid(job).to_domain(spent=MicroUSD(0), avoid={}) for job in jobs),
        offers=offers,
        policies={name: tuple(p.to_domain() for p in scenario.policies_of(name)) for name in namespaces},
        funds=dict.fromkeys(namespaces),
    )
    result = {}
    for decision in decide(snapshot):
        chosen, seconds = decision.chosen, used[decision.job_uid]
        result[decision.job_uid] = Alternative(
            tier=tier,
            provider=chosen.provider if chosen else None,
            cost=charge(chosen.price, seconds) if chosen else None,
            reason=decision.reason or "",
        )
    return result


def offers_of(provider: GPUProvider) -> Iterable[Offer]:
    """The provider's offers with all its lab nodes free."""
    nodes = {group.product: group for group in nodes_of(provider)}
    for offer in provider.spec.offers:
        group = nodes[offer.product]
        yield Offer(
            provider=provider.metadata.name,
            gpu=GpuModel(group.product, group.memory_mib, group.family),
            price=parse_usd(offer.price_per_gpu_hour),
            location=provider.spec.location.to_domain(),
            free={group.count_per_node: group.nodes},
            compliance=frozenset(provider.spec.compliance),
            labels=provider.metadata.labels,
            carbon_g_per_kwh=provider.spec.energy.carbon_intensity if provider.spec.energy else None,
            watts=offer.watts,
        )


def unlawful(scenario: Scenario, placed: Mapping[str, str]) -> list[str]:
    """Every job in `placed` (name → provider) that is where its YAML or a policy of its namespace forbids it.

    Reads the files as they were written and uses nothing of placement: countries, groups and claims.
    """
    by_kind: dict[str, dict[str, JSONObject]] = {}
    for document in scenario.raw:
        by_kind.setdefault(document["kind"], {})[document["metadata"]["name"]] = document
    found = []
    for name, provider_name in placed.items():
        job, provider = by_kind["ComputeJob"][name], by_kind["GPUProvider"][provider_name]
        policies = [
            each["spec"]
            for each in by_kind.get("PlacementPolicy", {}).values()
            if _selects(each["spec"], scenario.namespaces.get(job["metadata"]["namespace"], {}))
        ]
        for rules in [job["spec"], *policies]:
            found += [f"{name} at {provider_name}: {fault}" for fault in _faults(rules, provider["spec"])]
    return found


def _faults(rules: JSONObject, provider: JSONObject) -> list[str]:
    placement, country = rules.get("placement", {}), provider["location"]["country"]
    named, groups = placement.get("countries", []), placement.get("groups", [])
    allowed = set(named).union(*(GROUPS.get(group, frozenset()) for group in groups))
    found = []
    if (named or groups) and country not in allowed:
        found.append(f"{country} is not allowed")
    if country in placement.get("excludedCountries", []):
        found.append(f"{country} is excluded")
    missing = set(placement.get("compliance", [])) - set(provider.get("compliance", []))
    if missing:
        found.append(f"claims missing: {', '.join(sorted(missing))}")
    return found


def _selects(policy: JSONObject, labels: Mapping[str, str]) -> bool:
    wanted = policy.get("namespaceSelector", {}).get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def _tier(provider: GPUProvider) -> str:
    return provider.metadata.labels.get(TIER, "")


def _with_uid(job: ComputeJob) -> ComputeJob:
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": job.metadata.name})})
