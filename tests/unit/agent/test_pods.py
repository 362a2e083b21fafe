"""Reading member Jobs and Pods: facts for the meter, and how a workload ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.pods import hindrance, outcome, pod_facts


def test_facts_of_a_running_pod(make: Any) -> None:
    fact = pod_facts(make.pod(uid="u", index=3, gpus=2, ago=10))
    assert (fact.uid, fact.index, fact.gpus, fact.phase, fact.deleted_at) == ("u", 3, 2, "Running", None)
    (container,) = fact.containers
    assert container.started_at == make.now - timedelta(seconds=10)
    assert container.finished_at is None


def test_facts_of_an_ended_pod(make: Any) -> None:
    fact = pod_facts(make.pod(phase="Failed", exit_code=3, ago=10, deleting=True))
    (container,) = fact.containers
    assert container.finished_at == make.now
    assert fact.deleted_at == make.now


def test_a_pod_that_is_barely_an_object_has_facts_too() -> None:
    fact = pod_facts({"metadata": {"uid": "u"}, "status": {"containerStatuses": [{"state": None}, "x"]}})
    assert (fact.uid, fact.gpus, fact.phase) == ("u", 0, "")


@pytest.mark.parametrize("instant", ["soon", "", 7, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z"])
def test_a_start_that_no_clock_shows_is_no_start(make: Any, instant: object) -> None:
    """Else one pod of a member would make the whole reading one that the hub refuses."""
    pod = make.pod(uid="u", ago=10)
    pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = instant
    (container,) = pod_facts(pod).containers
    assert container.started_at is None


def test_outcomes(make: Any) -> None:
    assert outcome(make.member_job(), []) is None
    assert outcome(make.member_job(("FailureTarget", "PodFailurePolicy")), []) is None
    succeeded = outcome(make.member_job(("SuccessCriteriaMet", ""), ("Complete", "")), [])
    assert succeeded is not None
    assert (succeeded.kind, succeeded.reason) == ("Succeeded", "Succeeded")
    late = outcome(make.member_job(("Failed", "DeadlineExceeded")), [])
    assert late is not None
    assert late.reason == "RunLimitExceeded"


def test_a_failure_names_the_exit_code_and_the_pod_that_failed(make: Any) -> None:
    """The Job controller deletes the other pods after the first failure: they must not look evicted."""
    pods = [
        make.pod(uid="bad", phase="Failed", exit_code=3),
        make.pod(uid="victim", phase="Failed", exit_code=143, deleting=True),
    ]
    ended = outcome(make.member_job(("Failed", "BackoffLimitExceeded")), pods)
    assert ended is not None
    assert ended.reason == "WorkloadFailed"
    assert "exit code 3" in ended.message
    assert "victim" not in ended.message


def test_what_the_member_took_away_is_an_eviction(make: Any) -> None:
    disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "by x"}
    for pod in (
        make.pod(phase="Failed", exit_code=143, deleting=True),
        make.pod(phase="Failed", exit_code=137, conditions=(disrupted,)),
    ):
        ended = outcome(make.member_job(("Failed", "BackoffLimitExceeded")), [pod])
        assert ended is not None
        assert ended.reason == "WorkloadEvicted"


def test_a_pod_lost_without_a_container_status_is_told_by_its_reason(make: Any) -> None:
    pod = make.pod(phase="Failed", ago=None)
    pod["status"]["reason"] = "UnexpectedAdmissionError"
    ended = outcome(make.member_job(("Failed", "BackoffLimitExceeded")), [pod])
    assert ended is not None
    assert "UnexpectedAdmissionError" in ended.message


def test_all_succeeded_counts_replicas_and_not_pods(make: Any) -> None:
    done = [make.pod(uid=str(n), index=0, phase="Succeeded", exit_code=0) for n in range(2)]
    assert podlib.all_succeeded(done, 1)
    assert not podlib.all_succeeded(done, 2)


def test_a_vanished_pod_counts_only_when_its_end_is_bounded(make: Any) -> None:
    assert not podlib.end_known(make.pod())
    assert podlib.end_known(make.pod(deleting=True))
    assert podlib.end_known(make.pod(phase="Failed", exit_code=1))


def test_hindrances(make: Any) -> None:
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
    stuck = make.pod(phase="Pending", ago=None, conditions=(unschedulable,))
    pulling = make.pod(phase="Pending", waiting={"reason": "ImagePullBackOff", "message": "denied"})
    starting = make.pod(phase="Pending", waiting={"reason": "ContainerCreating"})

    def kind(pods: list[Any], ever: int) -> str | None:
        found = hindrance(pods, replicas=1, ever=ever, events="exceeded quota")
        return found.kind if found else None

    assert kind([], 0) == "NoPods"
    assert kind([stuck], 1) == "Unschedulable"
    assert kind([pulling], 1) == "ImagePull"
    assert kind([starting], 1) == "NotStarted"
    assert kind([make.pod(phase="Pending", ago=None)], 1) == "NotStarted"
    assert kind([make.pod()], 1) is None
    assert kind([make.pod(phase="Failed", ago=None)], 1) is None
