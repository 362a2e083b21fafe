"""Helm and the project's chart in the lab: rendered, installed on a hub, used by its account; makes no cluster."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from fedgpu_lab import toolchain
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.progress import Progress
from fedgpu_lab.world import Lab
from fedgpu_operator.errors import KubeError, LabError

CHART: Final = "helm/fedgpu-operator"
RELEASE: Final = "fedgpu"
NAMESPACE: Final = "fedgpu-system"
SERVICE_ACCOUNT: Final = "fedgpu-operator"
"""The account's name in a release called `RELEASE` with default values."""

HELM_TIMEOUT_S: Final = 120.0
SERVED_TIMEOUT_S: Final = 30.0

Values = Mapping[str, object]
"""Values of the chart, nested as in values.yaml."""

Manifest = dict[str, Any]
"""One rendered object, as YAML gives it."""


def chart_folder() -> Path:
    """The chart in the checkout; LabError where the package runs without one."""
    folder = Path(__file__).resolve().parents[3] / CHART
    if not folder.is_dir():
        raise LabError(f"the chart {CHART} is part of a checkout of the project, not of the installed package")
    return folder


class Helm:
    """The pinned Helm, with configuration and caches under `home` so that nothing of the user's is read or written."""

    def __init__(self, home: Path, progress: Progress | None = None) -> None:
        self._binary = toolchain.ensure(["helm"], progress)["helm"]
        self._home = home

    def run(
        self, *args: str, cluster: Cluster | None = None, values: Values | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run Helm as `cluster`'s admin, or without a cluster; LabError with its message when it fails and `check`."""
        given = [] if values is None else ["--values=-"]
        done = subprocess.run(
            [str(self._binary), *args, *given],
            input="" if values is None else yaml.safe_dump(dict(values)),
            capture_output=True,
            text=True,
            timeout=HELM_TIMEOUT_S,
            check=False,
            env=self._environment(cluster),
        )
        if check and done.returncode != 0:
            raise LabError(f"helm {' '.join(args)}: {done.stderr.strip()}")
        return done

    def template(
        self, values: Values | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
    ) -> list[Manifest]:
        """The chart's objects without its CRDs; LabError with Helm's message where the values are refused."""
        args = ("template", release, str(chart_folder()), f"--namespace={namespace}")
        rendered = self.run(*args, values=values or {}).stdout
        return [document for document in yaml.safe_load_all(rendered) if document]

    def install(
        self, cluster: Cluster, values: Values | None = None, *, release: str = RELEASE, namespace: str = NAMESPACE
    ) -> None:
        """Install or upgrade the release, without waiting for pods: a hub of the lab runs none."""
        self.run(
            "upgrade",
            "--install",
            release,
            str(chart_folder()),
            f"--namespace={namespace}",
            "--create-namespace",
            cluster=cluster,
            values=values or {},
        )

    def uninstall(self, cluster: Cluster, *, release: str = RELEASE, namespace: str = NAMESPACE) -> None:
        """Remove the release; CRDs stay, and a ledger's claim where `persistence.retain` says so."""
        self.run("uninstall", release, f"--namespace={namespace}", cluster=cluster)

    def _environment(self, cluster: Cluster | None) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        folders = {f"HELM_{kind}_HOME": str(self._home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        home = {"HOME": str(self._home), "KUBECACHEDIR": str(self._home / "kube")}
        return kept | folders | home | (cluster.env if cluster else {"KUBECONFIG": os.devnull})


def install(lab: Lab, values: Values | None = None) -> str:
    """Install the chart on the lab's hub and answer a kubeconfig (YAML) of the ServiceAccount that it made.

    The ledger needs no claim here, since the Deployment never runs on a hub without nodes. Raises LabError.
    """
    helm = Helm(lab.directory / "helm")
    helm.install(lab.hub, {"persistence": {"enabled": False}, **(values or {})})
    _await_kinds(lab.hub)
    return lab.hub.kubeconfig_for_service_account(NAMESPACE, SERVICE_ACCOUNT)


def _await_kinds(cluster: Cluster) -> None:
    """Wait until every kind can be listed: an API server needs a moment after a CRD is Established."""
    deadline = time.monotonic() + SERVED_TIMEOUT_S
    for file in sorted((chart_folder() / "crds").glob("*.yaml")):
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]
        path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        while not _served(cluster, path):
            if time.monotonic() > deadline:
                raise LabError(f"{cluster.name}: {path} is not served {SERVED_TIMEOUT_S:g} s after the installation")
            time.sleep(0.1)


def _served(cluster: Cluster, path: str) -> bool:
    try:
        cluster.api.get(path, limit="1")
    except KubeError as error:
        if error.status in {404, 429}:
            return False
        raise
    return True
