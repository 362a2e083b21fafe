"""Leases, Jobs and Pods as an API server would send them, for the agent's pure parts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from fedgpu_operator.agent.decide import ConditionState, update
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease, LeaseUsage, lease_state
from fedgpu_operator.domain.devices import DeviceRequest
from fedgpu_operator.domain.usage import UsageReading
from fedgpu_operator.hub.services.workloads import render_workload

UID = str(UUID(int=7))
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
Object = dict[str, Any]


class Make:
    """Builders; every value that a test cares about is an argument."""

    now = NOW
    uid = UID
    lease_name = f"{UID}-1"
    namespace = "fedgpu-tenant-team"
    product = "NVIDIA-L4"

    def job(
        self, *, replicas: int = 1, gpus: int = 1, template: Object | None = None, notes: dict[str, str] | None = None
    ) -> ComputeJob:
        pod = {"containers": [{"name": "main", "image": "work:1"}], **(template or {})}
        spec = {
            "gpu": {"count": gpus},
            "replicas": replicas,
            "runLimitSeconds": 60,
            "template": {"metadata": {"annotations": notes or {}}, "spec": pod},
        }
        return ComputeJob.parse({"metadata": {"name": "train", "namespace": "team", "uid": self.uid}, "spec": spec})

    def workload(
        self,
        *,
        replicas: int = 1,
        gpus: int = 1,
        template: Object | None = None,
        notes: dict[str, str] | None = None,
        request: DeviceRequest | None = None,
    ) -> Object:
        return render_workload(
            self.job(replicas=replicas, gpus=gpus, template=template, notes=notes),
            lease_name=self.lease_name,
            member_namespace=self.namespace,
            provider="prov",
            request=request or DeviceRequest.by_discovery(self.product),
            run_limit_seconds=60,
        )

    def lease(
        self,
        *,
        replicas: int = 1,
        gpus: int = 1,
        workload: Object | None = None,
        desired: str = "Run",
        epoch: int = 1,
        workload_uid: str = "",
        verdicts: dict[str, ConditionState] | None = None,
        since: float = 0.0,
        usage: UsageReading | None = None,
    ) -> ComputeLease:
        """A lease whose conditions say `verdicts` since `since` seconds before NOW."""
        then = NOW - timedelta(seconds=since)
        conditions = update([], verdicts or {}, now=then, generation=1)
        status: Object = {
            "workloadUid": workload_uid,
            "state": lease_state(conditions),
            "conditions": [condition.to_wire() for condition in conditions],
        }
        if usage is not None:
            status["usage"] = LeaseUsage.from_domain(usage, final=False).to_wire()
        spec = {
            "job": {"namespace": "team", "name": "train", "uid": self.uid},
            "attempt": 1,
            "fencingEpoch": epoch,
            "provider": "prov",
            "product": self.product,
            "replicas": replicas,
            "gpusPerReplica": gpus,
            "pricePerGPUHour": "1.25",
            "runLimitSeconds": 60,
            "memberNamespace": self.namespace,
            "desired": desired,
            "stopReason": "Suspended" if desired == "Stop" else "",
            "workload": self.workload(replicas=replicas, gpus=gpus) if workload is None else workload,
        }
        meta = {"name": self.lease_name, "namespace": "fedgpu-provider-prov", "uid": "lease-uid", "generation": 1}
        return ComputeLease.parse({"metadata": {**meta, "resourceVersion": "5"}, "spec": spec, "status": status})

    def member_job(self, *conditions: tuple[str, str], uid: str = "job-uid") -> Object:
        """A Job with these true conditions, each (type, reason)."""
        return {
            "metadata": {"name": self.lease_name, "namespace": self.namespace, "uid": uid},
            "status": {"conditions": [{"type": t, "status": "True", "reason": r} for t, r in conditions]},
        }

    def pod(
        self,
        *,
        uid: str = "pod-uid",
        index: int = 0,
        phase: str = "Running",
        gpus: int = 1,
        ago: float | None = 10.0,
        exit_code: int | None = None,
        deleting: bool = False,
        conditions: tuple[Object, ...] = (),
        waiting: Object | None = None,
        node: str = "",
        labels: dict[str, str] | None = None,
    ) -> Object:
        """A pod whose container started `ago` seconds before NOW, and ended at NOW where there is an exit code."""
        state: Object = {}
        if waiting is not None:
            state = {"waiting": waiting}
        elif ago is not None:
            started = stamp(NOW - timedelta(seconds=ago))
            state = {"running": {"startedAt": started}}
            if exit_code is not None:
                why = "Completed" if exit_code == 0 else "Error"
                ended = {"startedAt": started, "finishedAt": stamp(NOW), "exitCode": exit_code, "reason": why}
                state = {"terminated": ended}
        meta: Object = {
            "name": f"pod-{uid}",
            "namespace": self.namespace,
            "uid": uid,
            "labels": {"batch.kubernetes.io/job-completion-index": str(index), **(labels or {})},
        }
        if deleting:
            meta["deletionTimestamp"] = stamp(NOW)
        limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
        spec: Object = {"containers": [{"name": "main", "resources": {"limits": limits, "requests": limits}}]}
        if node:
            spec["nodeName"] = node
        statuses = [{"name": "main", "image": "work:1", "state": state}] if state else []
        status = {"phase": phase, "conditions": list(conditions), "containerStatuses": statuses}
        return {"metadata": meta, "spec": spec, "status": status}

    def node(
        self,
        name: str = "n1",
        *,
        gpus: str = "8",
        labels: dict[str, str] | None = None,
        ready: str = "True",
        unschedulable: bool = False,
        taints: tuple[Object, ...] = (),
    ) -> Object:
        base = {
            "nvidia.com/gpu.product": self.product,
            "nvidia.com/gpu.family": "ada-lovelace",
            "nvidia.com/gpu.memory": "23034",
        }
        return {
            "metadata": {"name": name, "labels": {**base, **(labels or {})}},
            "spec": {"unschedulable": unschedulable, "taints": list(taints)},
            "status": {
                "allocatable": {"nvidia.com/gpu": gpus},
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }


def stamp(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def make() -> Make:
    return Make()
