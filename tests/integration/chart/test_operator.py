"""The operator itself, as the chart would start it: its environment and its account, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedgpu_lab.chart import NAMESPACE
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.process import free_ports
from fedgpu_operator.errors import NotFoundError

Json = dict[str, Any]
API = "/apis/fedgpu.dev/v1alpha1"


@dataclass
class Operator:
    """The running process and where it answers."""

    process: subprocess.Popen[bytes]
    log: Path
    health: str
    hub: Cluster

    def until(self, probe: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
        """Ask until it holds; fails with the operator's own words when it does not in time."""
        deadline = time.monotonic() + timeout
        while not probe():
            assert self.process.poll() is None, f"the operator ended\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.log.read_text()}"
            time.sleep(0.2)

    def healthy(self) -> bool:
        try:
            return httpx.get(self.health, timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def condition(self, path: str, wanted: str) -> bool:
        """Whether that condition of the object is True."""
        try:
            conditions = self.hub.api.get(path).get("status", {}).get("conditions", [])
        except NotFoundError:
            return False
        return any(one["type"] == wanted and one["status"] == "True" for one in conditions)


@pytest.fixture
def running(
    defaults: list[Json], find: Callable[..., Json], operator_service_account: str, hub: Cluster, tmp_path: Path
) -> Iterator[Operator]:
    """`fedgpu operator` with the chart's variables; only what a machine without a pod needs is put in their place."""
    container = find(defaults, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    kubeconfig = tmp_path / "kubeconfig.yaml"
    kubeconfig.write_text(operator_service_account)
    health, metrics = free_ports(2)
    variables = {entry["name"]: entry["value"] for entry in container["env"]} | {
        "FEDGPU_LEDGER": str(tmp_path / "ledger.db"),
        "FEDGPU_BIND_ADDRESS": "127.0.0.1",
        "FEDGPU_HEALTH_PORT": str(health),
        "FEDGPU_METRICS_PORT": str(metrics),
        "FEDGPU_RESYNC_SECONDS": "2",
        "FEDGPU_INVENTORY_INTERVAL_SECONDS": "1",
        "KUBECONFIG": str(kubeconfig),
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
    }
    log = tmp_path / "operator.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "fedgpu_operator", *container["args"]]
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        yield Operator(process, log, f"http://127.0.0.1:{health}/healthz", hub)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def manifest(kind: str, metadata: Json, spec: Json) -> Json:
    return {"apiVersion": "fedgpu.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def gone(hub: Cluster, path: str) -> bool:
    try:
        hub.api.get(path)
    except NotFoundError:
        return True
    return False


@pytest.fixture
def provider(running: Operator, members: dict[str, Cluster], unique_name: Callable[[str], str]) -> Iterator[str]:
    """Member alpha as the provider of one test, Ready."""
    name, hub = unique_name("owner"), running.hub
    secret = {"metadata": {"name": name}, "stringData": {"kubeconfig": members["alpha"].kubeconfig_text()}}
    hub.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
    spec = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": name}},
        "offers": [{"product": "NVIDIA-H100-80GB-HBM3", "pricePerGPUHour": "1.25"}],
    }
    hub.apply([manifest("GPUProvider", {"name": name}, spec)])
    running.until(lambda: running.condition(f"{API}/gpuproviders/{name}", "Ready"), "a Ready provider")
    yield name
    leases = f"{API}/namespaces/fedgpu-provider-{name}/computeleases"
    running.until(lambda: not hub.api.get(leases)["items"], "no lease left for an operator with other books")
    hub.api.delete(f"{API}/gpuproviders/{name}")
    running.until(lambda: gone(hub, f"{API}/gpuproviders/{name}"), "a provider without its finalizer")


def test_the_charts_account_is_enough_for_a_job_from_apply_to_its_deletion(
    running: Operator, provider: str, unique_name: Callable[[str], str]
) -> None:
    hub, tenant = running.hub, unique_name("tenant")
    running.until(running.healthy, "a healthy operator")
    hub.create_namespace(tenant)
    template = {
        "metadata": {"annotations": {"lab.fedgpu.dev/duration": "2s"}},
        "spec": {"containers": [{"name": "main", "image": "example.com/work:1"}]},
    }
    # By its own provider only: other tests share the hub.
    placement = {"providerSelector": {"matchLabels": {"owner": provider}}}
    hub.kubectl("label", "gpuprovider", provider, f"owner={provider}")
    spec = {"runLimitSeconds": 300, "template": template, "placement": placement}
    hub.apply([manifest("ComputeJob", {"name": "work", "namespace": tenant}, spec)])
    path = f"{API}/namespaces/{tenant}/computejobs/work"
    running.until(lambda: running.condition(path, "Complete"), "a complete job")
    hub.api.delete(path)
    running.until(lambda: gone(hub, path), "a job without its finalizer")
    said = running.log.read_text()
    assert "forbidden" not in said.lower(), said
