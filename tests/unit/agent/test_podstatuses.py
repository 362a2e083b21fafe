"""Statuses as kubelets give them, and what becomes of the lease: whose fault it was, in the runtime's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedgpu_operator.agent.decide import ConditionState, LeaseDecision, View, decide
from fedgpu_operator.agent.pods import pod_facts
from fedgpu_operator.agent.settings import AgentSettings
from fedgpu_operator.agent.watch import KEPT
from fedgpu_operator.domain.faults import OUTCOMES
from fedgpu_operator.metering import measure
from fedgpu_operator.ports import BATCH_JOBS, PODS

SETTINGS = AgentSettings("ns", "hub")
ACCEPTED = {"Accepted": ConditionState("True", "Accepted"), "Running": ConditionState("False", "Waiting")}
CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("podstatuses.yaml").read_text())


def step(make: Any, case: dict[str, Any], *, waited: float = 3600.0, others: tuple[Any, ...] = ()) -> LeaseDecision:
    """What the agent decides so many seconds after the member took the workload."""
    pod = make.pod()
    pod["status"] = case["status"]
    pod["spec"]["containers"][0]["resources"]["limits"] |= case.get("limits", {})
    # As a member's client keeps them: a field that is read here and not kept there would be missing in earnest.
    pods = tuple(KEPT[PODS](each) for each in (pod, *others))
    job = KEPT[BATCH_JOBS](make.member_job(("Failed", "BackoffLimitExceeded")) if "ends" in case else make.member_job())
    lease = make.lease(replicas=len(pods), verdicts=ACCEPTED, since=waited, workload_uid="job-uid")
    reading = measure(map(pod_facts, pods), make.now, None)
    return decide(View(lease, job, pods, (), reading, make.now, events=case.get("events", "")), SETTINGS)


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_each_status_ends_the_lease_by_whose_fault_it_was(make: Any, case: dict[str, Any]) -> None:
    failed = step(make, case).verdicts["Failed"]
    assert failed.reason == case.get("ends", case.get("waits"))
    assert case["says"] in failed.message
    assert failed.reason in OUTCOMES


@pytest.mark.parametrize("case", [case for case in CASES if "waits" in case], ids=lambda case: case["case"])
def test_what_may_pass_by_itself_gets_its_time(make: Any, case: dict[str, Any]) -> None:
    patience = SETTINGS.start_after if "ContainerCreating" in str(case["status"]) else SETTINGS.image_after
    assert "Failed" not in step(make, case, waited=patience - 1).verdicts
    late = step(make, case, waited=patience)
    assert (late.verdicts["Failed"].status, late.remove) == ("False", True), "it is removed before it has failed"


@pytest.mark.parametrize("case", [case for case in CASES if "ends" in case], ids=lambda case: case["case"])
def test_a_replica_that_was_deleted_after_another_one_failed_hides_nothing(make: Any, case: dict[str, Any]) -> None:
    victim = make.pod(uid="victim", index=1, phase="Failed", exit_code=143, deleting=True)
    failed = step(make, case, others=(victim,)).verdicts["Failed"]
    assert failed.reason == case["ends"]
    assert "victim" not in failed.message


def test_the_error_of_a_replica_whose_peer_lost_its_node_is_not_the_workloads(make: Any) -> None:
    lost = next(case for case in CASES if case["case"] == "a node that was deleted")
    failed = step(make, lost, others=(make.pod(uid="peer", index=1, phase="Failed", exit_code=1),)).verdicts["Failed"]
    assert failed.reason == "NodeLost"
    assert failed.message.index("node no longer exists") < failed.message.index("pod-peer")


def test_what_a_workload_says_itself_is_not_taken_for_the_reason(make: Any) -> None:
    case = next(case for case in CASES if case["case"] == "the workload's own error")
    assert "loss is NaN" not in step(make, case).verdicts["Failed"].message
