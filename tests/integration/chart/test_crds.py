"""The documented upgrade of the CRDs: after it the new schema is served, however the old one was installed."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedgpu_lab.chart import Helm, chart_folder
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.world import Lab
from fedgpu_operator.api.crd import all_crds

Json = dict[str, Any]
NAMES = [str(crd["metadata"]["name"]) for crd in all_crds()]
README = chart_folder() / "README.md"


@pytest.fixture
def bare() -> Iterator[Cluster]:
    """A hub of its own for each way, since what is installed on it is old."""
    with Lab() as lab:
        yield lab.hub


@pytest.fixture
def old_chart(tmp_path: Path) -> Path:
    """The chart of an earlier version: its GPUProvider lacks a field, has one more, and other bounds and columns."""
    folder = tmp_path / "fedgpu-operator"
    shutil.copytree(chart_folder(), folder)
    file = folder / "crds" / "gpuproviders.yaml"
    crd = yaml.safe_load(file.read_text())
    version = crd["spec"]["versions"][0]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del spec["displayName"]
    spec["retired"] = {"type": "string"}
    spec["limits"]["properties"]["maxLeases"]["maximum"] = 777
    version["additionalPrinterColumns"].append({"name": "Retired", "type": "string", "jsonPath": ".spec.retired"})
    file.write_text(yaml.safe_dump(crd))
    return folder


def by_helm(hub: Cluster, chart: Path, helm: Helm) -> None:
    helm.run("install", "old", str(chart), "--namespace=old", "--create-namespace", cluster=hub)


def by_creation(hub: Cluster, chart: Path, helm: Helm) -> None:
    """As Helm 3 did it: a plain creation under the name of Helm."""
    hub.kubectl("create", "--field-manager=helm", "-f", str(chart / "crds"))


def by_apply(hub: Cluster, chart: Path, helm: Helm) -> None:
    """As `fedgpu crds` is piped."""
    hub.kubectl("apply", "--server-side", "-f", str(chart / "crds"))


def documented() -> list[str]:
    """The arguments of kubectl in the README's section on upgrades."""
    section = README.read_text().split("## Upgrade and uninstall")[1].split("`helm uninstall`")[0]
    (line,) = re.findall(r"^ {4}kubectl (.*crds/)$", section, re.MULTILINE)
    words: list[str] = line.split()
    return [str(chart_folder() / "crds") if word.endswith("crds/") else word for word in words]


def schema(hub: Cluster) -> Json:
    return dict(hub.api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gpuproviders.fedgpu.dev")["spec"])


def explained(hub: Cluster, field: str) -> bool:
    """Whether the API server serves that field, rather than having it on file."""
    return hub.kubectl("explain", f"gpuproviders.spec.{field}", check=False).returncode == 0


def until(holds: Callable[[], bool], what: str, timeout: float = 40.0) -> None:
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.2)


@pytest.mark.parametrize("install", [by_helm, by_creation, by_apply])
def test_the_documented_upgrade_serves_the_new_schema_and_keeps_the_objects(
    bare: Cluster, helm: Helm, old_chart: Path, install: Callable[[Cluster, Path, Helm], None]
) -> None:
    install(bare, old_chart, helm)
    bare.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in NAMES))
    until(lambda: explained(bare, "retired"), "the old schema")
    assert not explained(bare, "displayName")
    spec = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "one"}},
        "offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": "1"}],
    }
    path = "/apis/fedgpu.dev/v1alpha1/gpuproviders"
    uid = bare.api.create(path, {**_head("kept"), "spec": spec})["metadata"]["uid"]

    bare.kubectl(*documented())

    wanted = next(crd for crd in all_crds() if crd["metadata"]["name"] == "gpuproviders.fedgpu.dev")
    (now,), (new,) = schema(bare)["versions"], wanted["spec"]["versions"]
    assert now["schema"] == new["schema"], "what the old one had and the new one lacks is gone, too"
    assert now["additionalPrinterColumns"] == new["additionalPrinterColumns"]
    until(lambda: explained(bare, "displayName") and not explained(bare, "retired"), "the new schema")
    assert bare.api.get(f"{path}/kept")["metadata"]["uid"] == uid
    bare.kubectl(*documented())


def _head(name: str) -> Json:
    return {"apiVersion": "fedgpu.dev/v1alpha1", "kind": "GPUProvider", "metadata": {"name": name}}


def test_notes_and_readme_say_the_same(helm: Helm) -> None:
    notes = (chart_folder() / "templates" / "NOTES.txt").read_text()
    assert " ".join(["fedgpu crds | kubectl", *documented()[:-1], "-"]) in notes
