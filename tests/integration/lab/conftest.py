"""Jobs on a member of the lab, as plain Kubernetes objects; nothing of the operator."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from fedgpu_lab import Cluster, GpuNodes, Lab, MemberSpec

Answer = TypeVar("Answer")
PREFIX = "lab.fedgpu.dev"


@dataclass
class Jobs:
    """Creates Jobs in one restricted namespace and looks at their pods."""

    cluster: Cluster
    namespace: str

    @staticmethod
    def wait_for(probe: Callable[[], Answer | None], timeout: float = 30.0) -> Answer:
        """Ask until there is an answer; fails when there is none in time."""
        deadline = time.monotonic() + timeout
        while (answer := probe()) is None:
            assert time.monotonic() < deadline, "the condition did not come in time"
            time.sleep(0.1)
        return answer

    @staticmethod
    def lasted(terminated: dict[str, Any]) -> float:
        """Seconds between the container's begin and end, as the API server holds them."""
        begin, end = (dt.datetime.fromisoformat(terminated[key]) for key in ("startedAt", "finishedAt"))
        return (end - begin).total_seconds()

    def create(
        self, name: str, *, gpus: int = 1, grace: int = 30, spec: dict[str, Any] | None = None, **notes: str
    ) -> None:
        annotations = {f"{PREFIX}/{key.replace('_', '-')}": value for key, value in notes.items()}
        container = {
            "name": "work",
            "image": "example.com/work:1",
            "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        pod = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": grace,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
        }
        template = {"metadata": {"annotations": annotations}, "spec": pod}
        job = {"backoffLimit": 0, **(spec or {}), "template": template}
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        self.cluster.api.create(path, {"metadata": {"name": name}, "spec": job})

    def pod(self, job: str) -> dict[str, Any] | None:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        pods: list[dict[str, Any]] = self.cluster.api.get(path, labelSelector=f"job-name={job}")["items"]
        return pods[0] if pods else None

    def container(self, job: str, state: str) -> dict[str, Any] | None:
        """The container's state of that kind (running, terminated), if it is in it."""
        pod = self.pod(job) or {}
        statuses = pod.get("status", {}).get("containerStatuses") or [{}]
        found: dict[str, Any] | None = statuses[0].get("state", {}).get(state)
        return found

    def await_container(self, job: str, state: str, timeout: float = 30.0) -> dict[str, Any]:
        return self.wait_for(lambda: self.container(job, state), timeout)

    def ended(self, job: str) -> str | None:
        """Complete or Failed, once the Job controller says so."""
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{job}/status"
        for condition in self.cluster.api.get(path)["status"].get("conditions", []):
            if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                return str(condition["type"])
        return None


@pytest.fixture
def jobs(lab: Lab, unique_name: Callable[[str], str]) -> Iterator[Jobs]:
    """Jobs in a fresh namespace of member alpha that enforces the restricted Pod Security level."""
    cluster = lab.members["alpha"]
    namespace = unique_name("work")
    cluster.create_namespace(namespace, restricted=True)
    yield Jobs(cluster, namespace)
    cluster.delete_namespace(namespace)


@pytest.fixture(scope="session")
def own_lab() -> Iterator[Lab]:
    """A small lab that a test may stop and freeze without disturbing the tests of the shared one."""
    with Lab([MemberSpec("solo", (GpuNodes.of("l4", count_per_node=1),))], chain=True) as own:
        yield own
