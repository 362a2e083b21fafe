"""Leases on a real member: they run, end, stop and are metered as an independent clock says."""

from __future__ import annotations

import json
import time
from typing import Any

from fedgpu_operator.api.base import find

DURATION = "lab.fedgpu.dev/duration"


def reason(lease: Any, kind: str) -> str:
    condition = find(lease.status.conditions, kind)
    return "" if condition is None or condition.status != "True" else condition.reason


async def test_a_run_ends_and_is_metered_by_its_duration(site: Any) -> None:
    site.start()
    name = await site.lease(annotations={DURATION: "5s"}, replicas=2, gpus=2)
    lease = await site.state(name, "Succeeded", "Failed")
    usage = lease.status.usage
    assert lease.status.state == "Succeeded"
    assert usage.final
    assert 4 * 5 <= usage.gpu_seconds <= 4 * 6
    assert {pod.index for pod in usage.pods} == {0, 1}


async def test_a_failing_run_tells_its_exit_code(site: Any) -> None:
    site.start()
    name = await site.lease(annotations={DURATION: "1s", "lab.fedgpu.dev/exit-code": "3"})
    lease = await site.state(name, "Succeeded", "Failed")
    assert reason(lease, "Failed") == "WorkloadFailed"
    assert "exit code 3" in lease.status.exit_message
    assert lease.status.usage.gpu_seconds >= 1


async def test_stop_in_mid_run_ends_the_workload_and_the_meter(site: Any) -> None:
    site.start()
    name = await site.lease(annotations={"lab.fedgpu.dev/stop-delay": "2s"}, gpus=3)
    await site.state(name, "Running")
    begun = time.monotonic()
    while time.monotonic() - begun < 2.0:  # the run's own length, which is what is being measured
        await site.read(name)
    await site.order_stop(name)
    lease = await site.state(name, "Stopped")
    took = time.monotonic() - begun
    usage = lease.status.usage
    assert usage.final
    assert usage.finished_at is not None, "the end was seen although the pod is gone"
    assert abs(usage.gpu_seconds / 3 - took) <= 2
    assert not await site.jobs()


async def test_stop_before_the_start_uses_nothing(site: Any) -> None:
    name = await site.lease()
    await site.order_stop(name)
    site.start()
    lease = await site.state(name, "Stopped")
    assert lease.status.usage.gpu_seconds == 0
    assert lease.status.usage.final
    assert not await site.jobs()


async def test_the_run_limit_ends_the_run(site: Any) -> None:
    site.start()
    name = await site.lease(run_limit=3)
    lease = await site.state(name, "Failed", "Succeeded")
    assert reason(lease, "Failed") == "RunLimitExceeded"
    assert 3 <= lease.status.usage.gpu_seconds <= 5
    assert not await site.jobs()


async def test_a_new_agent_goes_on_with_what_runs(site: Any) -> None:
    site.start()
    begun = time.monotonic()
    name = await site.lease(annotations={DURATION: "6s"})
    running = await site.state(name, "Running")
    await site.stop()
    site.start()
    lease = await site.state(name, "Succeeded", "Failed")
    assert time.monotonic() - begun < 20
    assert lease.status.state == "Succeeded"
    assert lease.status.workload_uid == running.status.workload_uid
    assert 6 <= lease.status.usage.gpu_seconds <= 7


async def test_a_finished_job_is_removed_when_the_hub_says_stop(site: Any, eventually: Any) -> None:
    site.start()
    name = await site.lease(annotations={DURATION: "1s"})
    ended = await site.state(name, "Succeeded")
    assert await site.jobs()
    await site.order_stop(name, "Recorded")

    async def gone() -> bool:
        return not await site.jobs()

    await eventually("the Job to be removed", gone)
    left = (await site.read(name)).status
    assert left.model_copy(update={"observed_generation": ended.status.observed_generation}) == ended.status


async def test_a_workload_that_vanished_is_not_run_twice(site: Any) -> None:
    site.start()
    name = await site.lease()
    await site.state(name, "Running")
    site.cluster.kubectl("-n", site.member_namespace, "delete", "job", name, "--wait=false")
    lease = await site.state(name, "Failed", "Stopped", "Succeeded")
    assert reason(lease, "Failed") in {"WorkloadVanished", "WorkloadEvicted"}
    assert lease.status.usage.gpu_seconds >= 1
    assert not await site.jobs()


async def test_a_node_that_refuses_the_pod_ends_the_attempt_in_its_own_words(site: Any) -> None:
    site.start()
    name = await site.lease(annotations={"lab.fedgpu.dev/broken-nodes": "alpha"})
    lease = await site.state(name, "Failed", "Succeeded", "Running")
    assert reason(lease, "Failed") == "NodeRejected"
    assert "no healthy devices present" in lease.status.exit_message
    assert lease.status.usage.gpu_seconds == 0


async def test_a_suspended_job_shows_is_not_metered_and_ends_after_its_grace(site: Any, eventually: Any) -> None:
    site.start(suspended_after=6.0)
    name = await site.lease(gpus=2)
    await site.state(name, "Running")

    async def suspend(value: bool) -> None:
        patch = json.dumps({"spec": {"suspend": value}})
        site.cluster.kubectl("-n", site.member_namespace, "patch", "job", name, "--type=merge", "-p", patch)

    await suspend(True)
    lease = await site.state(name, "Suspended", within=5)
    assert reason(lease, "Suspended") == "SuspendedByMember"

    async def quiet() -> bool:
        return not await site.pods()

    await eventually("the pods to go", quiet)
    held = (await site.read(name)).status.usage.gpu_seconds
    await suspend(False)
    await site.state(name, "Running")

    async def metered() -> bool:
        usage = (await site.read(name)).status.usage
        return len(usage.pods) == 2 and usage.gpu_seconds > held

    await eventually("the pod that came back to be metered", metered)
    await suspend(True)
    lease = await site.state(name, "Failed", "Succeeded")
    assert reason(lease, "Failed") == "SuspendedByMember"
    assert lease.status.usage.final
    assert not await site.jobs(), "it ends when nothing of it is left"
    assert not await site.pods()


async def test_a_missing_lease_stops_nothing(site: Any, hub: Any, eventually: Any) -> None:
    agent = site.start()
    name = await site.lease()
    await site.state(name, "Running")
    hub.kubectl("-n", site.namespace, "delete", "computelease", name)

    async def counted() -> bool:
        return bool(agent.orphans == 1)

    await eventually("the orphan to be noticed", counted)
    (job,) = await site.jobs()
    assert "deletionTimestamp" not in job["metadata"]
