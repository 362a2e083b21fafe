"""The README's "On a cluster of yours", line by line, on clusters of kind; and that nothing is left of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.kind.conftest import Timings

from fedgpu_lab import toolchain
from fedgpu_lab.engine import Engine
from fedgpu_lab.kind import KindCluster

pytestmark = pytest.mark.story
ROOT = Path(__file__).resolve().parents[2]
SECTION = "## On a cluster of yours"
NAMESPACE = "fedgpu-system"


def commands() -> list[str]:
    """The lines of the first console block of the README's section, without the prompt."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(SECTION, 1)[1]
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [
        line.removeprefix("$ ").split("   #")[0].rstrip() for line in block[1].splitlines() if line.startswith("$ ")
    ]


def removal() -> list[str]:
    """The lines by which the chart's README removes everything."""
    text = (ROOT / "helm/fedgpu-operator/README.md").read_text(encoding="utf-8")
    block = text.split("To remove everything for good:\n\n", 1)[1].split("\n\n", 1)[0]
    return [line.strip() for line in block.splitlines()]


def read(cluster: KindCluster, *words: str) -> Any:
    return json.loads(cluster.kubectl("get", *words, "-o", "json"))


def seconds(since: str, until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()


def run(command: str, shell: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=shell["PWD"], env=shell, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def shell(hub: KindCluster, member: KindCluster, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """An environment in which the README's words mean this checkout, these clusters and the pinned programs."""
    member.kubectl("create", "serviceaccount", "fedgpu", "-n", "kube-system")
    member.kubectl(
        *(
            "create",
            "clusterrolebinding",
            "fedgpu",
            "--clusterrole=cluster-admin",
            "--serviceaccount=kube-system:fedgpu",
        )
    )
    token = member.kubectl("create", "token", "fedgpu", "-n", "kube-system", "--duration=2h").strip()
    folder = tmp_path_factory.mktemp("desk")
    (folder / "alpha.kubeconfig").write_text(member.kubeconfig_for(token))
    for name in ("helm", "examples"):
        (folder / name).symlink_to(ROOT / name)
    programs = toolchain.ensure(["kubectl", "helm"])
    folders = [*(str(each.parent) for each in programs.values()), str(Path(sys.executable).parent)]
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    homes = {f"HELM_{kind}_HOME": str(folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    return os.environ | hub.env | homes | {"PATH": path, "PWD": str(folder)}


@pytest.fixture(scope="module")
def followed(shell: Mapping[str, str], timings: Timings) -> list[str]:
    """What each command of the README printed, run one after the other."""
    printed = []
    begin = time.monotonic()
    for command in commands():
        with timings.step(command):
            printed.append(run(command, shell))
    timings.figures["commands"] = len(printed)
    timings.figures["from helm install to a job that succeeded"] = round(time.monotonic() - begin, 1)
    return printed


def test_the_operator_runs_in_the_pod_of_the_chart(
    followed: list[str], hub: KindCluster, engine: Engine, timings: Timings
) -> None:
    (pod,) = read(hub, "pods", "-n", NAMESPACE)["items"]
    assert pod["spec"]["serviceAccountName"] == "fedgpu-operator"
    (status,) = pod["status"]["containerStatuses"]
    assert (status["ready"], status["restartCount"]) == (True, 0)
    assert any("persistentVolumeClaim" in volume for volume in pod["spec"]["volumes"])
    (claim,) = read(hub, "pvc", "-n", NAMESPACE)["items"]
    assert claim["status"]["phase"] == "Bound"
    events = hub.kubectl("get", "events", "-n", NAMESPACE, "--field-selector=reason=Unhealthy", "-o", "name")
    timings.figures["failed probes"] = len(events.split())
    began = status["state"]["running"]["startedAt"]
    ready = next(one for one in pod["status"]["conditions"] if one["type"] == "Ready")["lastTransitionTime"]
    timings.figures["operator pod started to ready"] = seconds(began, ready)
    stats = engine.docker("stats", "--no-stream", "--format={{.Name}} memory {{.MemUsage}}").stdout
    timings.figures |= dict(line.split(" memory ") for line in stats.splitlines())


def test_the_job_ran_in_a_container_and_is_billed_by_the_clock_of_its_kubelet(
    followed: list[str], hub: KindCluster, member: KindCluster, timings: Timings
) -> None:
    job = read(hub, "computejob", "first", "-n", "default")
    (pod,) = read(member, "pods", "-A", "-l", f"fedgpu.dev/job-uid={job['metadata']['uid']}")["items"]
    (container,) = pod["status"]["containerStatuses"]
    ended = container["state"]["terminated"]
    assert ended["exitCode"] == 0
    assert container["containerID"].startswith("containerd://")
    log = member.kubectl("logs", pod["metadata"]["name"], "-n", pod["metadata"]["namespace"])
    assert re.search(r"^done after \d+ steps", log, re.MULTILINE), log
    ran = seconds(ended["startedAt"], ended["finishedAt"])
    assert 10 <= ran <= 12
    (lease,) = read(hub, "computeleases", "-A")["items"]
    usage = lease["status"]["usage"]
    assert usage["final"]
    assert (usage["startedAt"], usage["finishedAt"]) == (ended["startedAt"], ended["finishedAt"])
    assert job["status"]["usage"]["gpuSeconds"] == usage["gpuSeconds"]
    # A reading never falls: one that was taken between the end and the kubelet's word of it stays.
    assert ran <= usage["gpuSeconds"] <= ran + 5
    timings.figures |= {"seconds by the kubelet": ran, "seconds billed": usage["gpuSeconds"]}
    assert job["status"]["placement"]["provider"] == "alpha"
    assert "alpha" in followed[-1], "fedgpu explain names the provider"


def test_the_ledger_outlives_its_pod(followed: list[str], hub: KindCluster) -> None:
    before = read(hub, "computejob", "first", "-n", "default")["status"]["usage"]
    hub.kubectl("delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=fedgpu", "--wait")
    hub.kubectl("rollout", "status", "deployment/fedgpu-operator", "-n", NAMESPACE, "--timeout=120s", timeout=130)
    assert read(hub, "computejob", "first", "-n", "default")["status"]["usage"] == before
    verified = ("exec", "deployment/fedgpu-operator", "-n", NAMESPACE, "--", "fedgpu", "ledger", "verify", "-o", "json")
    assert json.loads(hub.kubectl(*verified))["sound"] is True


def test_uninstalling_leaves_nothing_that_waits_to_end(
    followed: list[str], hub: KindCluster, shell: Mapping[str, str], timings: Timings
) -> None:
    """The chart's own way to remove everything: the objects first, while the operator still runs."""
    with timings.step("uninstall"):
        for command in (*removal(), f"kubectl delete namespace {NAMESPACE}"):
            run(command, shell)
    kinds = hub.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    left = json.loads(hub.kubectl("get", ",".join(kinds), "-A", "-o", "json"))["items"]
    assert [one["metadata"]["name"] for one in left if one["metadata"].get("deletionTimestamp")] == []
    assert [one["metadata"]["name"] for one in left if one["metadata"]["name"].startswith("fedgpu")] == []
