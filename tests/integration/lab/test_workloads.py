"""What a member does with real Jobs: true durations, exit codes, graces, capacity and Pod Security."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fedgpu_lab import Lab
from fedgpu_operator.errors import ForbiddenError


def test_a_run_lasts_what_was_asked_and_succeeds(jobs: Any) -> None:
    jobs.create("train", duration="8s", gpus=8)
    jobs.await_container("train", "running")
    begin = time.monotonic()
    terminated = jobs.await_container("train", "terminated")
    outside = time.monotonic() - begin
    assert jobs.lasted(terminated) == 8
    assert outside == pytest.approx(8, abs=1.6)
    assert terminated["exitCode"] == 0
    assert terminated["reason"] == "Completed"
    assert jobs.wait_for(lambda: jobs.ended("train")) == "Complete"


def test_touching_a_pod_does_not_prolong_its_run(jobs: Any) -> None:
    jobs.create("train", duration="4s")
    jobs.await_container("train", "running")
    begin = time.monotonic()
    name = jobs.pod("train")["metadata"]["name"]
    for count in range(6):
        path = f"/api/v1/namespaces/{jobs.namespace}/pods/{name}"
        jobs.cluster.api.patch(path, {"metadata": {"labels": {"touched": str(count)}}})
        time.sleep(0.5)
    assert jobs.lasted(jobs.await_container("train", "terminated")) == 4
    assert time.monotonic() - begin == pytest.approx(4, abs=1.6)


def test_fractions_and_a_late_start(jobs: Any) -> None:
    jobs.create("late", duration="1500ms", start_delay="2s")
    terminated = jobs.await_container("late", "terminated")
    assert jobs.lasted(terminated) == 2
    scheduled = next(c for c in jobs.pod("late")["status"]["conditions"] if c["type"] == "PodScheduled")
    assert jobs.lasted({"startedAt": scheduled["lastTransitionTime"], "finishedAt": terminated["startedAt"]}) == 2


def test_a_failing_run_keeps_its_exit_code(jobs: Any) -> None:
    jobs.create("broken", duration="2s", exit_code="3")
    terminated = jobs.await_container("broken", "terminated")
    assert (terminated["exitCode"], terminated["reason"]) == (3, "Error")
    assert jobs.lasted(terminated) == 2
    assert jobs.wait_for(lambda: jobs.ended("broken")) == "Failed"


@pytest.mark.parametrize(
    ("stop_delay", "grace", "seconds", "exit_code"),
    [("0s", 30, 0, 143), ("3s", 30, 3, 143), ("20s", 3, 3, 137)],
    ids=["stops at once", "stops within its grace", "is killed when the grace is over"],
)
def test_deletion_honours_the_grace(jobs: Any, stop_delay: str, grace: int, seconds: int, exit_code: int) -> None:
    # A finalizer of ours holds the pod, so that its last state can be seen.
    jobs.create("service", stop_delay=stop_delay, grace=grace)
    jobs.await_container("service", "running")
    path = f"/api/v1/namespaces/{jobs.namespace}/pods/{jobs.pod('service')['metadata']['name']}"
    kept = jobs.cluster.api.get(path)["metadata"]["finalizers"]
    jobs.cluster.api.patch(path, {"metadata": {"finalizers": [*kept, "example.com/hold"]}})
    begin = time.monotonic()
    jobs.cluster.api.delete(path)

    def terminated() -> Any:
        return jobs.cluster.api.get(path)["status"]["containerStatuses"][0]["state"].get("terminated")

    state = jobs.wait_for(terminated)
    assert time.monotonic() - begin == pytest.approx(seconds, abs=1.6)
    assert state["exitCode"] == exit_code
    jobs.cluster.api.patch(path, {"metadata": {"finalizers": []}})
    jobs.wait_for(lambda: True if jobs.pod("service") is None else None)


def test_the_job_controller_ends_a_run_at_its_deadline(jobs: Any) -> None:
    jobs.create("endless", spec={"activeDeadlineSeconds": 2})
    jobs.await_container("endless", "running")
    assert jobs.wait_for(lambda: jobs.ended("endless")) == "Failed"
    jobs.wait_for(lambda: True if jobs.pod("endless") is None else None)


def test_more_gpus_than_there_are_stay_pending(jobs: Any) -> None:
    jobs.create("huge", gpus=9)

    def refusal() -> str | None:
        conditions = (jobs.pod("huge") or {"status": {}})["status"].get("conditions", [])
        return next((c["message"] for c in conditions if c.get("reason") == "Unschedulable"), None)

    assert "Insufficient nvidia.com/gpu" in jobs.wait_for(refusal)


def test_pod_security_is_enforced(jobs: Any, lab: Lab) -> None:
    pod = {"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "c", "image": "example.com/c:1"}]}}
    with pytest.raises(ForbiddenError, match="violates PodSecurity"):
        lab.members["alpha"].api.create(f"/api/v1/namespaces/{jobs.namespace}/pods", pod)


def test_a_quota_of_the_owner_holds(jobs: Any) -> None:
    quota = {"metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "2"}}}
    path = f"/api/v1/namespaces/{jobs.namespace}/resourcequotas"
    jobs.cluster.api.create(path, quota)
    jobs.wait_for(lambda: jobs.cluster.api.get(f"{path}/gpus").get("status", {}).get("hard"))
    jobs.create("three", gpus=3)

    def refused() -> str | None:
        events = jobs.cluster.api.get(f"/api/v1/namespaces/{jobs.namespace}/events")["items"]
        return next((e["message"] for e in events if e["reason"] == "FailedCreate"), None)

    assert "exceeded quota" in jobs.wait_for(refused)
