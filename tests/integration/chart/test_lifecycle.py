"""Helm against the hub's real API server: install, upgrade, refuse, uninstall, install again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fedgpu_lab.chart import Helm, Values
from fedgpu_lab.cluster import Cluster
from fedgpu_operator.api.base import GROUP
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.errors import LabError, NotFoundError

CLAIM = "persistentvolumeclaim"


@dataclass
class Release:
    """A release of its own in a namespace of its own."""

    helm: Helm
    hub: Cluster
    name: str

    def install(self, values: Values | None = None) -> None:
        self.helm.install(self.hub, values, release=self.name, namespace=self.name)

    def uninstall(self) -> None:
        self.helm.uninstall(self.hub, release=self.name, namespace=self.name)

    def objects(self) -> set[str]:
        """``kind.group/name`` of all that carries the release's label on the hub, and Helm's own record of it."""
        kinds = self.hub.kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split()
        wanted = ",".join(kind for kind in kinds if not kind.startswith("events"))
        label = f"app.kubernetes.io/instance={self.name}"
        found = self.hub.kubectl("get", wanted, "-A", "-l", label, "-o", "name").stdout.split()
        record = self.hub.kubectl("get", "secrets", "-A", "-l", f"owner=helm,name={self.name}", "-o", "name").stdout
        return {*found, *record.split()}

    def environment(self) -> dict[str, str]:
        path = f"/apis/apps/v1/namespaces/{self.name}/deployments/{self.name}-fedgpu-operator"
        container = self.hub.api.get(path)["spec"]["template"]["spec"]["containers"][0]
        return {entry["name"]: entry["value"] for entry in container["env"]}

    def claim_path(self) -> str:
        return f"/api/v1/namespaces/{self.name}/persistentvolumeclaims/{self.name}-fedgpu-operator-ledger"


@pytest.fixture
def release(helm: Helm, hub: Cluster, unique_name: Callable[[str], str]) -> Iterator[Release]:
    one = Release(helm, hub, unique_name("chart"))
    yield one
    helm.run("uninstall", one.name, f"--namespace={one.name}", "--ignore-not-found", cluster=hub)
    try:
        # The hub of the lab runs no controller that lifts a claim's protection.
        hub.api.patch(one.claim_path(), {"metadata": {"finalizers": None}})
        hub.api.delete(one.claim_path())
    except NotFoundError:
        pass
    hub.kubectl("delete", "namespace", one.name, "--ignore-not-found", "--wait=false")


def kinds_served(hub: Cluster) -> set[str]:
    crds = hub.api.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]
    return {crd["spec"]["names"]["kind"] for crd in crds if crd["spec"]["group"] == GROUP}


def test_a_release_comes_changes_and_goes_leaving_only_crds(release: Release) -> None:
    release.install({"persistence": {"enabled": False}})
    assert kinds_served(release.hub) == {kind.info.kind for kind in KINDS}
    assert any(one.startswith("deployment.apps/") for one in release.objects())
    assert release.environment()["FEDGPU_RESYNC_SECONDS"] == "30"

    release.install({"persistence": {"enabled": False}, "settings": {"resyncSeconds": 7}})
    assert release.environment()["FEDGPU_RESYNC_SECONDS"] == "7"

    release.uninstall()
    assert release.objects() == set()
    assert kinds_served(release.hub) == {kind.info.kind for kind in KINDS}


def test_a_refused_upgrade_changes_nothing(release: Release) -> None:
    release.install({"persistence": {"enabled": False}})
    before = release.objects()
    with pytest.raises(LabError, match="/settings/resyncSeconds"):
        release.install({"persistence": {"enabled": False}, "settings": {"resyncSeconds": -1}})
    assert release.environment()["FEDGPU_RESYNC_SECONDS"] == "30"
    assert release.objects() == before


def test_the_ledger_stays_behind_and_the_next_release_takes_it_back(release: Release) -> None:
    release.install()
    uid = release.hub.api.get(release.claim_path())["metadata"]["uid"]
    release.uninstall()
    assert {one.split("/")[0] for one in release.objects()} == {CLAIM}

    release.install({"persistence": {"retain": False}})
    assert release.hub.api.get(release.claim_path())["metadata"]["uid"] == uid

    release.uninstall()
    assert "deletionTimestamp" in release.hub.api.get(release.claim_path())["metadata"]
