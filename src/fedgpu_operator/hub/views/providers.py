"""A provider's status from its facts: accepted, connected, ready, what it offers and how far away it is; pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median, quantiles
from typing import Final, Literal

from fedgpu_operator.api.base import DRAINING, Finding, find, is_true, merge, standing
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider, GPUProviderStatus, Inventory, LatencyStatus
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.api.reasons import NEEDS_CHANGE, ConditionReason
from fedgpu_operator.domain.money import parse_usd
from fedgpu_operator.domain.text import counted
from fedgpu_operator.errors import InvalidResourceError
from fedgpu_operator.hub.views.accounts import ProofVerdict
from fedgpu_operator.hub.views.trust import Mode, judge_acceptance, keeps_agent, kept_acceptance, location_finding

MAX_GPUS: Final = 10_000_000
"""As many as a status can show."""


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """All that a provider's status is derived from."""

    provider: GPUProvider
    report: ProviderReport | None
    heartbeat: datetime | None
    refusal: InvalidResourceError | None
    namespace: str
    stock: list[Inventory]
    leases: int
    lingering: bool = False
    """Whether its agent is still needed for a lease: to meter it, to stop it, or to clear away what it left."""
    unstopped: int = 0
    """Leases that have not ended and were not told to stop."""
    taken: str = ""
    """Why its Secrets cannot be its own; empty if they can."""
    running: int = 0
    """Attempts that the ledger holds open; those without a lease yet count as well."""
    proof: ProofVerdict | None = None
    """Whether the payout wallet agreed; None where nothing is settled on chain."""
    signed: Finding | None = None
    """Whether its usage carries its signature; None where that means nothing."""
    receipts: Finding | None = None
    """Whether its receipts count on chain; None where nothing is settled there."""

    @property
    def left(self) -> int:
        """Work that is there: leases that have not ended, and attempts that have no lease yet."""
        return max(self.leases, self.running)


def provider_status(
    facts: ProviderFacts,
    now: datetime,
    *,
    acceptance: Mode,
    timeout: timedelta,
    enforced: bool = False,
    audits: bool = False,
) -> GPUProviderStatus:
    """The provider's status from the facts; pure.

    `enforced` is whether this hub restricts who may accept a provider, `audits` who may confirm a location.
    """
    provider = facts.provider
    accepted, record = _accepted(facts, now, acceptance, enforced=enforced)
    connected = _connected(facts, record, now, timeout)
    verified = Finding("Verified", "Unknown", ConditionReason.NOT_PROBED, "the GPUs themselves have not been probed")
    ready = _ready(accepted, connected, facts)
    located = location_finding(provider, audits=audits)
    found = (
        accepted,
        connected,
        verified,
        *standing(ready, stalled=ready.reason in NEEDS_CHANGE),
        located,
        _draining(facts),
        facts.signed,
        facts.receipts,
    )
    conditions = merge(
        provider.status.conditions,
        [each for each in found if each is not None],
        generation=provider.metadata.generation,
        now=now,
    )
    lets = ready.status == "True" and not provider.spec.drain
    return GPUProviderStatus(
        observed_generation=provider.metadata.generation,
        state="Draining" if ready.status == "True" and not lets else _state(accepted, connected, ready),
        namespace=facts.namespace,
        acceptance=record,
        location_audited=located.status == "True",
        inventory=facts.stock,
        products=_products(provider),
        price=_price(provider),
        total_gpus=min(MAX_GPUS, sum(entry.total for entry in facts.stock)),
        free_gpus=min(MAX_GPUS, sum(entry.free for entry in facts.stock)) if lets else 0,
        leases=facts.leases,
        latency=_latency(facts.report) or provider.status.latency,
        conditions=conditions,
    )


def _accepted(facts: ProviderFacts, now: datetime, mode: Mode, *, enforced: bool) -> tuple[Finding, Acceptance | None]:
    if facts.refusal is not None and facts.refusal.why == ConditionReason.NAMESPACE_TAKEN:
        finding = Finding("Accepted", "False", facts.refusal.why, str(facts.refusal))
        return finding, kept_acceptance(facts.provider, now)
    return judge_acceptance(facts.provider, now, mode=mode, enforced=enforced, taken=facts.taken)


def _connected(facts: ProviderFacts, record: Acceptance | None, now: datetime, timeout: timedelta) -> Finding:
    if facts.refusal is not None:
        return Finding("Connected", "False", facts.refusal.why, str(facts.refusal))
    if record is None:
        text = "no agent runs: the provider has not been accepted"
        return Finding("Connected", "Unknown", ConditionReason.NOT_ACCEPTED, text)
    if not keeps_agent(facts.provider, record) and not facts.lingering:
        text = "no agent runs: the accepted connection is not in force and no lease is left on it"
        return Finding("Connected", "Unknown", ConditionReason.NOT_ACCEPTED, text)
    reachable = find(facts.report.status.conditions, "Reachable") if facts.report else None
    if reachable is not None and reachable.status != "True":
        return Finding("Connected", reachable.status, reachable.reason, reachable.message)
    if facts.heartbeat is None or reachable is None:
        return Finding("Connected", "Unknown", ConditionReason.AWAITING_REPORT, "the agent has not reported yet")
    silent = now - facts.heartbeat
    if silent > timeout:
        message = f"nothing heard of the member since {facts.heartbeat:%Y-%m-%dT%H:%M:%SZ}; its jobs are left alone"
        return Finding("Connected", "Unknown", ConditionReason.MEMBER_SILENT, message)
    return Finding("Connected", "True", ConditionReason.ANSWERING, "the member cluster answers")


def _ready(accepted: Finding, connected: Finding, facts: ProviderFacts) -> Finding:
    if facts.provider.metadata.deletion_timestamp is not None:
        text = f"takes no new work; {counted(facts.left, 'lease')} left"
        return Finding("Ready", "False", ConditionReason.TERMINATING, text)
    for finding in (accepted, connected):
        if finding.status != "True":
            return Finding("Ready", finding.status, finding.reason, finding.message)
    if facts.proof is not None and not facts.proof.proven:
        return Finding("Ready", facts.proof.status, _unpaid(facts), facts.proof.message)
    if not any(entry.total for entry in facts.stock):
        return Finding("Ready", "False", ConditionReason.NO_GPUS, _no_gpus(facts))
    return Finding("Ready", "True", ConditionReason.READY, "")


def _no_gpus(facts: ProviderFacts) -> str:
    """What is offered and not there, what is there instead, and what is there and does not count."""
    offered = ", ".join(offer.product for offer in facts.provider.spec.offers)
    status = facts.report.status if facts.report is not None else None
    text = f"no node that can take work has {offered}"
    if status is not None and status.products:
        text += f"; nodes have {', '.join(each.product for each in status.products[:4])}"
    if status is not None and status.uncounted:
        first, name = status.uncounted[0], facts.provider.metadata.name
        nodes = counted(sum(each.nodes for each in status.uncounted), "node")
        text += f"; {nodes} not counted, e.g. {first.reason}: {first.message} (`fedgpu provider nodes {name}`)"
    return text


def _draining(facts: ProviderFacts) -> Finding | None:
    """How far it is from being empty; None where nobody asked for that."""
    if not facts.provider.spec.drain:
        return None
    if not facts.left:
        return Finding(DRAINING, "True", ConditionReason.DRAINED, "takes no new work, and none is left")
    return Finding(
        DRAINING, "True", ConditionReason.DRAINING, f"takes no new work; {counted(facts.left, 'lease')} left"
    )


def _products(provider: GPUProvider) -> str:
    """E.g. ``NVIDIA-H100-80GB-HBM3 +2``."""
    first, *others = (offer.product for offer in provider.spec.offers)
    return f"{first} +{len(others)}" if others else first


def _price(provider: GPUProvider) -> str:
    """E.g. ``0.40-1.25``, as the owner wrote them."""
    prices = sorted((offer.price_per_gpu_hour for offer in provider.spec.offers), key=parse_usd)
    return prices[0] if parse_usd(prices[0]) == parse_usd(prices[-1]) else f"{prices[0]}-{prices[-1]}"


def _unpaid(facts: ProviderFacts) -> str:
    if facts.provider.spec.payout is None:
        return ConditionReason.NO_PAYOUT
    unknown = facts.proof is not None and facts.proof.status == "Unknown"
    return ConditionReason.CHAIN_UNREACHABLE if unknown else ConditionReason.WALLET_UNPROVEN


def _state(
    accepted: Finding, connected: Finding, ready: Finding
) -> Literal["Pending", "Ready", "NotReady", "Unreachable"]:
    if ready.status == "True":
        return "Ready"
    if accepted.status != "True" or connected.status == "False":
        return "NotReady"
    if connected.status == "Unknown":
        return "Pending" if connected.reason == ConditionReason.AWAITING_REPORT else "Unreachable"
    return "NotReady"


def _latency(report: ProviderReport | None) -> LatencyStatus | None:
    if report is None or not report.status.round_trips_ms or report.status.observed_at is None:
        return None
    samples = report.status.round_trips_ms
    p95 = quantiles(samples, n=20, method="inclusive")[-1] if len(samples) > 1 else samples[0]
    return LatencyStatus(p50_ms=round(median(samples), 2), p95_ms=round(p95, 2), measured_at=report.status.observed_at)


def awaits_report(provider: GPUProvider) -> bool:
    """Whether it is not known yet if new work may be placed there."""
    ready = find(provider.status.conditions, "Ready")
    return ready is None or ready.reason == ConditionReason.AWAITING_REPORT


def is_ready(provider: GPUProvider) -> bool:
    """Whether new work may be placed there: judged Ready, on exactly the spec that is there now and was accepted."""
    return (
        is_true(provider.status.conditions, "Ready")
        and provider.metadata.deletion_timestamp is None
        and provider.status.observed_generation == provider.metadata.generation
        and provider.accepted
    )
