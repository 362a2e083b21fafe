"""What a member, its owner or the agent refuses: the lease fails with a reason and nothing runs."""

from __future__ import annotations

from typing import Any

import pytest

from fedgpu_operator.agent.workload import HUB_LABEL
from fedgpu_operator.api.base import Condition, find
from fedgpu_operator.api.computelease import TENANT_LABEL, ComputeLease


def _host_path(workload: dict[str, Any]) -> None:
    workload["spec"]["template"]["spec"]["volumes"] = [{"name": "root", "hostPath": {"path": "/"}}]


def _node_name(workload: dict[str, Any]) -> None:
    workload["spec"]["template"]["spec"]["nodeName"] = "alpha-h100-80gb-hbm3-0"


def _account(workload: dict[str, Any]) -> None:
    workload["spec"]["template"]["spec"]["serviceAccountName"] = "admin"


def condition(lease: ComputeLease, kind: str) -> Condition:
    found = find(lease.status.conditions, kind)
    assert found is not None, f"no condition {kind}"
    return found


async def refused(site: Any, name: str) -> str:
    lease = await site.state(name, "Failed", "Succeeded", "Stopped")
    failed, accepted = condition(lease, "Failed"), condition(lease, "Accepted")
    assert failed.reason == "MemberRejected"
    assert accepted.status == "False"
    assert lease.status.usage.final
    assert lease.status.usage.gpu_seconds == 0
    assert lease.status.exit_message
    assert not await site.jobs()
    return accepted.reason


@pytest.mark.parametrize("change", [_host_path, _node_name, _account])
async def test_a_hostile_workload_is_refused_before_the_member_sees_it(site: Any, change: Any) -> None:
    site.start()
    name = await site.lease(change=change)
    assert await refused(site, name) == "WorkloadRefused"


async def test_a_namespace_of_somebody_else_is_left_alone(site: Any) -> None:
    site.cluster.create_namespace(site.member_namespace)
    site.start()
    name = await site.lease()
    assert await refused(site, name) == "NamespaceTaken"


async def test_a_quota_that_admits_no_pod_rejects_with_the_members_words(site: Any) -> None:
    _owner_namespace(site)
    site.cluster.api.create(
        f"/api/v1/namespaces/{site.member_namespace}/resourcequotas",
        {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}},
    )
    site.start(reject_after=2.0)
    name = await site.lease()
    assert await refused(site, name) == "NoPods"
    assert "exceeded quota" in (await site.read(name)).status.exit_message


async def test_a_pod_that_no_node_takes_rejects(site: Any) -> None:
    site.start(reject_after=2.0)
    name = await site.lease(gpus=16)
    assert await refused(site, name) == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in (await site.read(name)).status.exit_message


async def test_a_job_of_the_same_name_is_not_adopted(site: Any) -> None:
    _owner_namespace(site)
    uid = "0" * 8 + "-0000-4000-8000-" + "0" * 12
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
    site.cluster.api.create(
        f"/apis/batch/v1/namespaces/{site.member_namespace}/jobs",
        {"metadata": {"name": f"{uid}-1"}, "spec": {"suspend": True, "template": {"spec": pod}}},
    )
    site.start()
    name = await site.lease(job_uid=uid)
    lease = await site.state(name, "Failed")
    assert condition(lease, "Accepted").reason == "NameTaken"
    (job,) = await site.jobs()
    assert "deletionTimestamp" not in job["metadata"]


async def test_one_bad_lease_does_not_stop_another(site: Any) -> None:
    site.start()
    bad = await site.lease(change=_host_path)
    good = await site.lease(annotations={"lab.fedgpu.dev/duration": "1s"})
    await refused_state(site, bad)
    await site.state(good, "Succeeded")


async def refused_state(site: Any, name: str) -> None:
    lease = await site.state(name, "Failed")
    assert condition(lease, "Accepted").reason == "WorkloadRefused"


def _owner_namespace(site: Any) -> None:
    """As an owner's chart would prepare it."""
    site.cluster.create_namespace(site.member_namespace)
    labels = {HUB_LABEL: site.hub_uid, TENANT_LABEL: site.tenant}
    site.cluster.api.patch(f"/api/v1/namespaces/{site.member_namespace}", {"metadata": {"labels": labels}})
