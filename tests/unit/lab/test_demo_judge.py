"""The demo's verdict: sound facts pass, and each single falsehood fails the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fedgpu_lab.audit import Account, Audit
from fedgpu_lab.demo_judge import judge
from fedgpu_lab.demo_report import Report
from fedgpu_lab.demo_scenario import Scenario, duration_of, expectation, find_examples, load
from fedgpu_lab.demo_watch import as_expected
from fedgpu_operator.api.base import Condition
from fedgpu_operator.api.computejob import ComputeJob, ComputeJobStatus, PlacementStatus, SettlementStatus, UsageStatus
from fedgpu_operator.domain.money import charge, format_usd, parse_usd

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLACES = {
    "eu-fine-tuning": ("spree-collective", "1.25"),
    "nightly-evaluation": ("spree-collective", "0.89"),
    "data-stays-in-germany": ("spree-collective", "1.25"),
    "hipaa-inference": ("cumulus-gpu", "2.49"),
    "edge-inference-singapore": ("merlion-edge", "0.43"),
    "batch-rendering": ("lonestar-render", "0.34"),
    "green-upscaling": ("fjord-compute", "1.35"),
    "long-context-hybrid": ("atlas-cloud", "7.91"),
}
Jobs = dict[str, ComputeJob]


def condition(kind: str, *, true: bool, reason: str, message: str = "") -> Condition:
    status = "True" if true else "False"
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=NOW)


def status_of(job: ComputeJob) -> ComputeJobStatus:
    """How the hub would leave the job."""
    end = expectation(job)
    if end != "Succeeded":
        refused = [condition("Placed", true=False, reason=end, message="0/6 providers fit")]
        refused += [condition("Ready", true=end == "DryRun", reason=end)]
        if end != "DryRun":
            return ComputeJobStatus(conditions=refused)
        candidate = {
            "provider": "a",
            "product": "b",
            "eligible": True,
            "price": "1",
            "effectivePrice": "1",
            "cost": "1",
        }
        return ComputeJobStatus.model_validate(
            {"state": "DryRun", "candidates": [candidate], "conditions": [each.to_wire() for each in refused]}
        )
    provider, price = PLACES[job.metadata.name]
    seconds = duration_of(job) * job.gpus
    message = f"{provider} at {price} USD per GPU-hour: least effective price {price} of 2 that fit; 4 refused"
    return ComputeJobStatus(
        state="Succeeded",
        placement=PlacementStatus(
            provider=provider,
            product="p",
            lease="l-1",
            attempt=1,
            price=price,
            effective_price=price,
            placed_at=NOW,
        ),
        usage=UsageStatus(gpu_seconds=seconds, cost=format_usd(charge(parse_usd(price), seconds))),
        settlement=SettlementStatus(epoch=1, claim_transaction="0x" + "ab" * 32),
        conditions=[
            condition("Placed", true=True, reason="Placed", message=message),
            condition("Complete", true=True, reason="Succeeded"),
            condition("Settled", true=True, reason="Paid"),
        ],
    )


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load(find_examples())


@pytest.fixture
def jobs(scenario: Scenario) -> Jobs:
    return {job.metadata.name: job.model_copy(update={"status": status_of(job)}) for job in scenario.jobs}


@pytest.fixture
def chain_view(scenario: Scenario, jobs: Jobs) -> Audit:
    """What the chain shows after everybody was paid what `jobs` say."""
    blank = Audit(1, 0, 0, 0, 0, {}, 0, {}, ())
    earned = {each.name: (each.wallet.lower(), each.earned) for each in play(scenario, jobs, blank).providers}
    paid = sum(amount for _, amount in earned.values())
    accounts = {"0x1": Account(1_000_000 - paid, 0, 0)}
    return Audit(9, 1_000_000, paid, 0, 1_000_000 - paid, accounts, 0, dict(earned.values()), ())


def play(scenario: Scenario, jobs: Jobs, chain_view: Audit) -> Report:
    return judge(scenario, jobs, chain_view, jumps=[86_400], seconds=60)


def with_status(job: ComputeJob, **changes: object) -> ComputeJob:
    return job.model_copy(update={"status": job.status.model_copy(update=changes)})


def failed(report: Report) -> set[str]:
    return {check.name for check in report.checks if not check.ok}


def test_sound_facts_hold(scenario: Scenario, jobs: Jobs, chain_view: Audit) -> None:
    report = play(scenario, jobs, chain_view)
    assert report.holds, report.checks
    first = next(each for each in report.jobs if each.name == "eu-fine-tuning")
    assert first.why == "least effective price of 2 that fit; 4 refused"
    assert first.alternatives["hyperscaler"].cost == 6_040_000 * 56 // 3600
    assert report.jobs[-1].provider is None, "refused jobs come last"


def move(job: ComputeJob, provider: str) -> ComputeJob:
    placement = job.status.placement
    assert placement is not None
    return with_status(job, placement=placement.model_copy(update={"provider": provider}))


def bill(job: ComputeJob, seconds: int) -> ComputeJob:
    return with_status(job, usage=UsageStatus(gpu_seconds=seconds, cost="1"))


FALSEHOODS: Mapping[str, tuple[str, Callable[[ComputeJob], ComputeJob], str]] = {
    "placed where the policy forbids it": ("nightly-evaluation", lambda job: move(job, "fjord-compute"), "Lawful"),
    "placed without the claim": ("hipaa-inference", lambda job: move(job, "lonestar-render"), "Lawful"),
    "billed three seconds per GPU too much": ("eu-fine-tuning", lambda job: bill(job, 56 + 12), "Metered"),
    "billed too little": ("batch-rendering", lambda job: bill(job, 48 - 12), "Metered"),
    "billed nothing": ("nightly-evaluation", lambda job: bill(job, 0), "Metered"),
    "failed": (
        "green-upscaling",
        lambda job: with_status(job, conditions=[condition("Failed", true=True, reason="ExitCode")]),
        "Ends",
    ),
    "unsettled": ("green-upscaling", lambda job: with_status(job, conditions=job.status.conditions[:2]), "Settled"),
    "refused for another reason": (
        "over-budget",
        lambda job: with_status(job, conditions=[condition("Placed", true=False, reason="Unfunded")]),
        "Ends",
    ),
}


@pytest.mark.parametrize("falsehood", FALSEHOODS)
def test_each_falsehood_fails_its_check(scenario: Scenario, jobs: Jobs, chain_view: Audit, falsehood: str) -> None:
    name, change, check = FALSEHOODS[falsehood]
    report = play(scenario, jobs | {name: change(jobs[name])}, chain_view)
    assert check in failed(report)
    assert not report.holds


def test_a_job_that_vanished_fails(scenario: Scenario, jobs: Jobs, chain_view: Audit) -> None:
    del jobs["over-budget"]
    assert failed(play(scenario, jobs, chain_view)) == {"Ends"}


@pytest.mark.parametrize("change", [-1, 1])
def test_one_unit_too_little_or_too_much_for_an_owner_fails(
    scenario: Scenario, jobs: Jobs, chain_view: Audit, change: int
) -> None:
    wallet = next(iter(chain_view.paid_to))
    paid_to = dict(chain_view.paid_to) | {wallet: chain_view.paid_to[wallet] + change}
    assert failed(play(scenario, jobs, replace(chain_view, paid_to=paid_to))) == {"Paid"}


def test_money_that_is_not_conserved_fails(scenario: Scenario, jobs: Jobs, chain_view: Audit) -> None:
    report = play(scenario, jobs, replace(chain_view, problems=("a unit is missing",)))
    assert failed(report) == {"Conserved"}


def test_a_dry_run_counts_only_once_it_has_an_answer(jobs: Jobs) -> None:
    job = jobs["what-would-it-cost"]
    assert as_expected(job, "DryRun")
    assert not as_expected(with_status(job, candidates=[]), "DryRun")


def test_a_job_that_was_placed_was_not_refused(jobs: Jobs) -> None:
    assert as_expected(jobs["over-budget"], "OverBudget")
    placement = jobs["eu-fine-tuning"].status.placement
    assert not as_expected(with_status(jobs["over-budget"], placement=placement), "OverBudget")
