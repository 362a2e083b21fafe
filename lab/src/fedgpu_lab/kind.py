"""Clusters of containers with real kubelets, made by kind on the lab's own Docker engine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from fedgpu_lab import kubeconfig, toolchain
from fedgpu_lab.engine import INSIDE, Engine
from fedgpu_lab.gpus import GpuNodes
from fedgpu_lab.progress import Progress, QuietProgress
from fedgpu_operator.errors import LabError

NETWORK, BRIDGE, SUBNET = "kind", "br-kind", "10.231.80.0/24"
FIRST_PORT: Final = 7001
READY_TIMEOUT_S: Final = 180.0
API_PORT: Final = 6443
PATCHES: Final = (
    {"kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs", "failCgroupV1": False},
    # No cluster DNS: the clusters reach each other by address, and a lookup fails after 20 s.
    {"kind": "InitConfiguration", "skipPhases": ["preflight", "addon/coredns"]},
)


class KindCluster:
    """A running cluster of one node. `kubeconfig` is the admin's, for this machine."""

    def __init__(self, name: str, engine: Engine, programs: Mapping[str, Path], kubeconfig_file: Path) -> None:
        self.name, self.node, self.kubeconfig = name, f"{name}-control-plane", kubeconfig_file
        self._engine, self._programs = engine, programs

    @property
    def env(self) -> dict[str, str]:
        """What to add to an environment so that kubectl and Helm speak to this cluster."""
        return {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.kubeconfig.parent / "kubectl-cache")}

    @property
    def address(self) -> str:
        """The node's address, at which the pods of the other clusters reach it."""
        template = f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}'
        return self._engine.docker("inspect", f"--format={template}", self.node).stdout.strip()

    def kubectl(self, *args: str, input: str | None = None, check: bool = True, timeout: float = 120) -> str:  # noqa: A002  # subprocess calls it so
        """What kubectl prints, run as admin; LabError with its message when it fails and `check` is set."""
        done = subprocess.run(
            [str(self._programs["kubectl"]), *args],
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | self.env,
        )
        if check and done.returncode != 0:
            raise LabError(f"{self.name}: kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def load(self, archive: Path) -> None:
        """Give the node an image; LabError when it cannot be read."""
        argv = [str(self._programs["kind"]), "load", "image-archive", str(archive), f"--name={self.name}"]
        _run(argv, self._engine)

    def add_gpus(self, gpus: GpuNodes) -> None:
        """Give the node the labels and the extended resources of the first of `gpus`, as a device plugin would."""
        manifest = gpus.manifests(self.name)[0]
        metadata = manifest["metadata"]
        labels = metadata["labels"] if isinstance(metadata, dict) else {}
        ours = [f"{key}={value}" for key, value in labels.items() if not key.startswith("kubernetes.io/")]
        self.kubectl("label", "node", self.node, "--overwrite", *ours)
        amount = {"nvidia.com/gpu": str(gpus.count_per_node)}
        patch = yaml.safe_dump({"status": {"capacity": amount, "allocatable": amount}})
        self.kubectl("patch", "node", self.node, "--subresource=status", f"--patch={patch}")

    def kubeconfig_for(self, token: str) -> str:
        """A kubeconfig (YAML) that pods of the other clusters can use, for whoever holds `token`."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
        text = kubeconfig.render(name=self.name, server=f"https://{self.address}:{API_PORT}", ca_pem="", token=token)
        document = yaml.safe_load(text)
        document["clusters"][0]["cluster"]["certificate-authority-data"] = authority
        return yaml.safe_dump(document, sort_keys=False)

    def wait(self) -> None:
        """Until the node is Ready and every pod of kube-system runs; LabError when that takes too long."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._stands():
            if time.monotonic() > deadline:
                pods = self.kubectl("get", "pods", "-A", check=False)
                raise LabError(f"{self.name} is not ready {READY_TIMEOUT_S:.0f} s after its start:\n{pods}")
            time.sleep(0.5)

    def _stands(self) -> bool:
        pods = yaml.safe_load(self.kubectl("get", "pods", "-n", "kube-system", "-o", "yaml"))["items"]
        ready = [
            condition["status"] == "True"
            for pod in pods
            for condition in pod["status"].get("conditions", [])
            if condition["type"] == "Ready"
        ]
        proxies = [pod for pod in pods if pod["metadata"]["name"].startswith("kube-proxy")]
        return bool(proxies) and len(ready) == len(pods) and all(ready)


class Kind:
    """Makes and removes clusters on an engine."""

    def __init__(self, engine: Engine, node_image: str, progress: Progress | None = None) -> None:
        self._engine, self._image = engine, node_image
        self._programs = toolchain.ensure(["kind", "kubectl"], progress or QuietProgress())
        self._count = 0
        if not engine.docker("network", "ls", "--quiet", f"--filter=name=^{NETWORK}$").stdout.split():
            bridge = f"--opt=com.docker.network.bridge.name={BRIDGE}"
            engine.docker("network", "create", "--driver=bridge", f"--subnet={SUBNET}", bridge, NETWORK)

    def create(self, name: str) -> KindCluster:
        """A cluster of one node that is ready for work. Raises LabError with the last of what kind said."""
        file = self._engine.directory / f"{name}.kubeconfig"
        config = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "name": name,
            "networking": {
                "apiServerAddress": INSIDE,
                "apiServerPort": FIRST_PORT + self._count,
                "disableDefaultCNI": True,
                "kubeProxyMode": "nftables",
            },
            "nodes": [{"role": "control-plane", "image": self._image}],
            "kubeadmConfigPatches": [yaml.safe_dump(patch) for patch in PATCHES],
        }
        self._count += 1
        argv = [str(self._programs["kind"]), "create", "cluster", "--config=-", f"--kubeconfig={file}", "--wait=120s"]
        _run(argv, self._engine, yaml.safe_dump(config))
        cluster = KindCluster(name, self._engine, self._programs, file)
        cluster.wait()
        return cluster

    def delete(self, cluster: KindCluster) -> None:
        argv = [str(self._programs["kind"]), "delete", "cluster", f"--name={cluster.name}"]
        _run([*argv, f"--kubeconfig={cluster.kubeconfig}"], self._engine)


def _run(argv: list[str], engine: Engine, text: str = "") -> None:
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, check=False, env=os.environ | engine.env, timeout=600
    )
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise LabError(f"{Path(argv[0]).name} {' '.join(argv[1:3])} failed:\n{last}")
