"""The examples mean what they say: every file parses, and a solve of all of them ends as their authors wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedgpu_lab.demo_compare import alternatives, offers_of, unlawful
from fedgpu_lab.demo_scenario import Scenario, duration_of, expectation, find_examples, load, nodes_of
from fedgpu_operator.domain.decision import Decision
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.errors import InvalidResourceError, LabError
from fedgpu_operator.placement import Snapshot, decide, evaluate

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load(find_examples())


@pytest.fixture(scope="module")
def decisions(scenario: Scenario) -> dict[str, Decision]:
    """What the operator should decide when everything is free, by the jobs' names; dry runs reserve nothing."""
    jobs = {
        job.metadata.name: job.model_copy(
            update={"metadata": job.metadata.model_copy(update={"uid": job.metadata.name})}
        ).to_domain(spent=MicroUSD(0), avoid={})
        for job in scenario.jobs
    }
    dry = {job.metadata.name for job in scenario.jobs if job.spec.dry_run}
    snapshot = Snapshot(
        now=NOW,
        jobs=tuple(job for name, job in jobs.items() if name not in dry),
        offers=tuple(offer for each in scenario.providers for offer in offers_of(each)),
        policies={name: tuple(p.to_domain() for p in scenario.policies_of(name)) for name in scenario.namespaces},
        funds={tenant.namespace: tenant.deposit for tenant in scenario.tenants},
    )
    decided = {each.job_uid: each for each in decide(snapshot)}
    return decided | {name: evaluate(jobs[name], snapshot) for name in dry}


def test_there_are_enough_of_everything(scenario: Scenario) -> None:
    assert len(scenario.providers) >= 6
    assert len(scenario.jobs) >= 9
    assert len(scenario.tenants) >= 3
    assert len({job.metadata.name for job in scenario.jobs}) == len(scenario.jobs)
    assert {job.metadata.namespace for job in scenario.jobs} == {tenant.namespace for tenant in scenario.tenants}


def test_every_job_ends_as_its_example_says(scenario: Scenario, decisions: dict[str, Decision]) -> None:
    for job in scenario.jobs:
        decision, expected = decisions[job.metadata.name], expectation(job)
        if expected in ("Succeeded", "DryRun"):
            assert decision.chosen is not None, f"{job.metadata.name}: {decision.message}"
        else:
            assert decision.reason == expected


@pytest.mark.parametrize(
    ("job", "provider"),
    [
        ("eu-fine-tuning", "spree-collective"),
        ("nightly-evaluation", "spree-collective"),
        ("data-stays-in-germany", "spree-collective"),
        ("hipaa-inference", "cumulus-gpu"),
        ("edge-inference-singapore", "merlion-edge"),
        ("batch-rendering", "lonestar-render"),
        ("green-upscaling", "fjord-compute"),
        ("long-context-hybrid", "atlas-cloud"),
    ],
)
def test_the_comments_name_the_right_place(decisions: dict[str, Decision], job: str, provider: str) -> None:
    chosen = decisions[job].chosen
    assert chosen is not None
    assert chosen.provider == provider


def test_runs_last_between_five_and_twenty_seconds(scenario: Scenario) -> None:
    running = [job for job in scenario.jobs if expectation(job) == "Succeeded"]
    assert all(5 <= duration_of(job) <= 20 for job in running)


def test_the_central_clouds_cost_more_or_may_not_have_the_job(scenario: Scenario) -> None:
    used = {job.metadata.name: 3600 for job in scenario.jobs if expectation(job) == "Succeeded"}
    cloud = alternatives(scenario, used, "gpu-cloud", NOW)
    scaler = alternatives(scenario, used, "hyperscaler", NOW)
    assert cloud["eu-fine-tuning"].cost is None
    assert cloud["eu-fine-tuning"].reason == "ResidencyDenied"
    assert cloud["hipaa-inference"].cost == 2_490_000
    assert scaler["eu-fine-tuning"].cost == 6_040_000
    assert scaler["edge-inference-singapore"].reason == "LatencyTooHigh"


@pytest.mark.parametrize(
    ("job", "provider", "fault"),
    [
        ("eu-fine-tuning", "fjord-compute", "NO is not allowed"),
        ("data-stays-in-germany", "lonestar-render", "US is not allowed"),
        ("hipaa-inference", "merlion-edge", "HIPAA"),
        ("nightly-evaluation", "lonestar-render", "US is not allowed"),
        ("what-would-it-cost", "spree-collective", "DE is excluded"),
    ],
)
def test_the_judge_of_lawfulness_finds_what_the_yaml_forbids(
    scenario: Scenario, job: str, provider: str, fault: str
) -> None:
    assert any(fault in each for each in unlawful(scenario, {job: provider}))
    assert unlawful(scenario, {"green-upscaling": "fjord-compute", "batch-rendering": "merlion-edge"}) == []


def test_a_wrong_annotation_is_explained(scenario: Scenario) -> None:
    provider = scenario.providers[0]
    meta = provider.metadata.model_copy(update={"annotations": {"lab.fedgpu.dev/nodes": "h100=2"}})
    with pytest.raises(LabError, match="must read like"):
        nodes_of(provider.model_copy(update={"metadata": meta}))


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("kind: [")
    with pytest.raises(LabError, match=r"bad\.yaml"):
        load(tmp_path)
    (tmp_path / "bad.yaml").write_text("kind: ComputeJob\nmetadata: {name: x}\nspec: {}\n")
    with pytest.raises(InvalidResourceError, match=r"spec\."):
        load(tmp_path)
