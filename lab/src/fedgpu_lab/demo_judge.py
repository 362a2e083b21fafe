"""Turns what the hub and the chain show at the end into the report, with every check that must hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from fedgpu_lab.audit import Audit, AuditError, audit
from fedgpu_lab.demo_compare import Alternative, alternatives, unlawful
from fedgpu_lab.demo_report import Check, JobResult, ProviderResult, Report
from fedgpu_lab.demo_scenario import CENTRAL_TIERS, TIER, Scenario, duration_of, expectation
from fedgpu_lab.demo_watch import Jobs, as_expected, reason, settled
from fedgpu_operator.api.base import find
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.domain.money import accrue, parse_usd
from fedgpu_operator.errors import ChainError

METER_TOLERANCE_S: Final = 2
"""Pod timestamps are whole seconds at both ends."""


def judge(scenario: Scenario, jobs: Jobs, chain_view: Audit, *, jumps: Sequence[int], seconds: float) -> Report:
    """The whole report; `jobs` are the objects of the hub by name."""
    used = {name: job.status.usage.gpu_seconds for name, job in jobs.items() if job.status.usage}
    now = datetime.now(UTC)
    elsewhere = {tier: alternatives(scenario, used, tier, now) for tier in CENTRAL_TIERS}
    results = [
        _job(job, {tier: known[name] for tier, known in elsewhere.items() if name in known})
        for name, job in jobs.items()
    ]
    results.sort(key=lambda each: (each.provider is None, each.namespace, each.name))
    providers = _providers(scenario, jobs, chain_view)
    checks = [
        _expected(scenario, jobs),
        _lawful(scenario, jobs),
        _metered(scenario, jobs),
        _settled(jobs),
        _paid(providers),
        Check("Conserved", chain_view.conserved, "; ".join(chain_view.problems) or "to the last unit, at finalized"),
    ]
    return Report(results, providers, chain_view, checks, jumps, seconds)


def read_chain(rpc_url: str, token: str, escrow: str) -> Audit:
    """The independent audit; ChainError where the chain cannot be read."""
    try:
        return audit(rpc_url, token, escrow)
    except AuditError as error:
        raise ChainError(f"audit: {error}") from error


def _job(job: ComputeJob, elsewhere: Mapping[str, Alternative]) -> JobResult:
    status, placement = job.status, job.status.placement
    return JobResult(
        name=job.metadata.name,
        namespace=job.metadata.namespace,
        state=status.state,
        provider=placement.provider if placement else None,
        product=placement.product if placement else None,
        reason=reason(job),
        why=_why(job),
        effective_price=placement.effective_price if placement else None,
        gpu_seconds=status.usage.gpu_seconds if status.usage else 0,
        cost=parse_usd(status.usage.cost) if status.usage else 0,
        settled=settled(job),
        transaction=status.settlement.claim_transaction if status.settlement else "",
        alternatives=elsewhere,
    )


def _why(job: ComputeJob) -> str:
    """The condition's own sentence, without the part that other columns show."""
    placed = find(job.status.conditions, "Placed")
    message = placed.message if placed else ""
    _, colon, rest = message.partition("GPU-hour: ")
    if not colon or job.status.placement is None:
        return message
    return rest.replace(f" price {job.status.placement.effective_price} of ", " price of ")


def _providers(scenario: Scenario, jobs: Jobs, chain_view: Audit) -> list[ProviderResult]:
    seconds: dict[str, int] = defaultdict(int)
    pairs: dict[tuple[str, str], int] = defaultdict(int)
    for job in jobs.values():
        placement, usage = job.status.placement, job.status.usage
        if placement and usage:
            seconds[placement.provider] += usage.gpu_seconds
            pairs[job.metadata.namespace, placement.provider] += accrue(parse_usd(placement.price), usage.gpu_seconds)
    results = []
    for provider in scenario.providers:
        name, payout = provider.metadata.name, provider.spec.payout
        wallet = payout.address if payout else ""
        results.append(
            ProviderResult(
                name=name,
                tier=provider.metadata.labels.get(TIER, ""),
                country=provider.spec.location.country,
                gpu_seconds=seconds[name],
                # A receipt is per tenant and rounds once, down, over all its jobs there.
                earned=sum(numerator // 3600 for (_, owner), numerator in pairs.items() if owner == name),
                paid=chain_view.paid_to.get(wallet.lower(), 0),
                wallet=wallet,
            )
        )
    return sorted(results, key=lambda each: (-each.earned, each.name))


def _check(name: str, faults: Iterable[str], fine: str) -> Check:
    found = list(faults)
    return Check(name, not found, "; ".join(found) or fine)


def _expected(scenario: Scenario, jobs: Jobs) -> Check:
    faults = []
    for wanted in scenario.jobs:
        name, end = wanted.metadata.name, expectation(wanted)
        job = jobs.get(name)
        if job is None:
            faults.append(f"{name} is missing on the hub")
        elif not as_expected(job, end):
            failed = find(job.status.conditions, "Failed")
            detail = f": {failed.message}" if failed and failed.message else ""
            faults.append(f"{name} should end as {end} and is {job.status.state} ({reason(job)}{detail})")
    return _check("Ends", faults, f"all {len(scenario.jobs)} jobs ended as their examples say")


def _lawful(scenario: Scenario, jobs: Jobs) -> Check:
    placed = {name: job.status.placement.provider for name, job in jobs.items() if job.status.placement}
    return _check("Lawful", unlawful(scenario, placed), f"{len(placed)} placements judged by the YAML alone")


def _metered(scenario: Scenario, jobs: Jobs) -> Check:
    """Billed GPU-seconds against the run length that the example asks of the lab's nodes."""
    faults, compared = [], 0
    for wanted in scenario.jobs:
        job = jobs.get(wanted.metadata.name)
        if job is None or job.status.usage is None:
            continue
        compared += 1
        expected, billed = duration_of(wanted) * wanted.gpus, job.status.usage.gpu_seconds
        if abs(billed - expected) > METER_TOLERANCE_S * wanted.gpus or not billed:
            faults.append(f"{wanted.metadata.name}: {billed} GPU-seconds billed, {expected} run")
    return _check("Metered", faults, f"{compared} runs billed within {METER_TOLERANCE_S} s per GPU of their length")


def _settled(jobs: Jobs) -> Check:
    ran = [name for name, job in jobs.items() if job.status.placement]
    faults = [f"{name} is not settled" for name in ran if not settled(jobs[name])]
    return _check("Settled", faults, f"{len(ran)} jobs paid at finalized")


def _paid(providers: Sequence[ProviderResult]) -> Check:
    faults = [
        f"{each.name} earned {each.earned} and the chain paid {each.paid}"
        for each in providers
        if each.earned != each.paid
    ]
    total = sum(each.paid for each in providers)
    return _check("Paid", faults, f"every owner has what it earned, {total} units in all, by the token's own logs")
