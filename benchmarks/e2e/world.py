"""Bare control planes and the operator as a process: API servers on one etcd, no controllers, scheduler or kubelet."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from fedgpu_lab.cluster import START_TIMEOUT_S, Cluster
from fedgpu_lab.gpus import GpuNodes
from fedgpu_lab.process import Child, Rank, Watchdog, end, free_ports
from fedgpu_lab.progress import QuietProgress
from fedgpu_lab.toolchain import KUBERNETES
from fedgpu_lab.world import HUB, ProcessMaker
from fedgpu_operator.api.crd import all_crds
from fedgpu_operator.errors import KubeError, LabError

NAMESPACE = "fedgpu-system"
API = "/apis/fedgpu.dev/v1alpha1"
PRODUCT = "NVIDIA-H100-80GB-HBM3"
GPUS_PER_NODE = 8
PLACES = (("DE", "1.25"), ("FR", "1.40"), ("US", "1.10"))
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Bare(Cluster):
    """An API server alone: nothing but the operator acts on what it holds."""

    def start(self) -> None:
        (api_server,) = self.children
        api_server.start()
        api_server.wait_until(self.ready, timeout=START_TIMEOUT_S, what="/readyz")

    def requests(self) -> dict[str, int]:
        """Requests since the start, by ``VERB resource/subresource``."""
        found: dict[str, int] = {}
        for line in self.api.text("/metrics", timeout=20).splitlines():
            if not line.startswith("apiserver_request_total{"):
                continue
            labels = dict(part.split("=", 1) for part in line[line.index("{") + 1 : line.index("}")].split(","))
            said = {name: value.strip('"') for name, value in labels.items()}
            if not said.get("resource"):
                continue
            name = f"{said['verb']} {said['resource']}" + (f"/{said['subresource']}" if said["subresource"] else "")
            found[name] = found.get(name, 0) + int(float(line.rsplit(" ", 1)[1]))
        return found

    def _client_children(self) -> list[Child]:
        return []


class BareMaker(ProcessMaker):
    """Makes API servers without their usual clients."""

    def make(self, name: str, gpu_nodes: Sequence[GpuNodes] | None) -> Bare:
        return Bare(
            name,
            directory=self._directory / name,
            binaries=self._binaries,
            identity=self._identity,
            watchdog=self._watchdog,
            port=free_ports(1)[0],
            etcd_port=self._etcd_port,
            gpu_nodes=gpu_nodes,
        )

    @property
    def store(self) -> Child:
        """The one etcd."""
        return self._etcd


@dataclass
class World:
    """A hub, members with GPU nodes that exist as objects only, and the operator over a ledger in SQLite."""

    hub: Bare
    members: list[Bare]
    store: Child
    operator: Child
    directory: Path
    metrics_port: int
    nodes: int = 0
    _nodes_made: int = field(default=0, repr=False)

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far by etcd, API servers and the operator."""
        found = {"etcd": _cpu(self.store), "operator": _cpu(self.operator)}
        return found | {each.name: sum(map(_cpu, each.children)) for each in (self.hub, *self.members)}

    def rss(self) -> int:
        """Resident bytes of the operator."""
        return int(Path(f"/proc/{self.operator.pid}/statm").read_text().split()[1]) * PAGE

    def requests(self) -> dict[str, dict[str, int]]:
        """Requests to each API server."""
        return {each.name: each.requests() for each in (self.hub, *self.members)}

    def grow(self, jobs: int) -> None:
        """Register nodes until every member can take a third of so many jobs of one GPU, and a quarter more."""
        wanted = -(-jobs * 5 // (4 * len(self.members) * GPUS_PER_NODE))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: self._register(member, self._nodes_made, wanted), self.members))
        self._nodes_made = max(wanted, self._nodes_made)

    def until(self, what: str, check: Callable[[], bool], timeout: float = 90.0) -> None:
        """Wait for it; LabError with the operator's last lines where it does not come."""
        deadline = time.monotonic() + timeout
        while not check():
            if time.monotonic() > deadline or not self.operator.running:
                tail = self.operator.log.read_text()[-3000:]
                raise LabError(f"waited {timeout:.0f} s for {what}; the operator says:\n{tail}")
            time.sleep(0.1)

    def free(self) -> int:
        """GPUs that the hub shows as free."""
        items = self.hub.api.get(f"{API}/gpuproviders")["items"]
        return sum(int((item.get("status") or {}).get("freeGPUs") or 0) for item in items)

    def _register(self, member: Bare, made: int, wanted: int) -> None:
        for manifest in GpuNodes.of("h100", nodes=wanted, count_per_node=GPUS_PER_NODE).manifests(member.name)[made:]:
            name = json.loads(json.dumps(manifest))["metadata"]["name"]
            member.api.create("/api/v1/nodes", manifest)
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
            member.api.patch(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [ready]}})


@contextmanager
def world(settings: Mapping[str, str]) -> Iterator[World]:
    """Everything started, providers Ready with nothing to sell yet; `settings` are added to the operator's own."""
    with TemporaryDirectory(prefix="fedgpu-e2e-") as folder:
        directory, watchdog = Path(folder), Watchdog()
        maker = BareMaker(directory, watchdog, QuietProgress())
        hub = maker.make(HUB, None)
        members = [maker.make(f"member-{index}", ()) for index in range(len(PLACES))]
        metrics, health = free_ports(2)
        operator = _operator(directory, hub, watchdog, metrics, health, settings)
        made = World(hub, members, maker.store, operator, directory, metrics)
        try:
            maker.start()
            with ThreadPoolExecutor() as pool:
                list(pool.map(Bare.start, (hub, *members)))
            _prepare(made)
            yield made
        finally:
            end([operator], grace=15.0)
            for cluster in (hub, *members):
                cluster.api.close()
            end([child for cluster in (hub, *members) for child in cluster.children])
            maker.close()
            watchdog.close()


def _prepare(world: World) -> None:
    hub = world.hub
    hub.apply(all_crds())
    hub.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for name in (NAMESPACE, "team"):
        hub.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    world.operator.start()
    for member, (country, price) in zip(world.members, PLACES, strict=True):
        secret = {"metadata": {"name": member.name}, "stringData": {"kubeconfig": member.kubeconfig_text()}}
        hub.api.create(f"/api/v1/namespaces/{NAMESPACE}/secrets", secret)
        spec = {
            "location": {"country": country},
            "connection": {"kubeconfigSecretRef": {"name": member.name}},
            "offers": [{"product": PRODUCT, "pricePerGPUHour": price}],
            "limits": {"maxLeases": 100_000},
        }
        body = {
            "apiVersion": "fedgpu.dev/v1alpha1",
            "kind": "GPUProvider",
            "metadata": {"name": member.name},
            "spec": spec,
        }
        hub.api.create(f"{API}/gpuproviders", body)


def _operator(
    directory: Path, hub: Bare, watchdog: Watchdog, metrics: int, health: int, settings: Mapping[str, str]
) -> Child:
    """Production defaults; settlement is off and the ledger is a file."""
    said = {
        "NAMESPACE": NAMESPACE,
        "ACCEPTANCE_ENFORCED": "true",
        "LEDGER": str(directory / "ledger.db"),
        "BIND_ADDRESS": "127.0.0.1",
        "METRICS_PORT": str(metrics),
        "HEALTH_PORT": str(health),
        **settings,
    }
    env = hub.env | {f"FEDGPU_{name}": value for name, value in said.items()}
    argv: list[str | Path] = [sys.executable]
    if profile := os.environ.get("E2E_PROFILE"):
        argv += ["-m", "cProfile", "-o", profile]
    argv += ["-m", "fedgpu_operator", "operator"]
    return Child("operator", argv, log=directory / "operator.log", rank=Rank.CLIENT, watchdog=watchdog, env=env)


def _cpu(child: Child) -> float:
    try:
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def versions(world: World) -> dict[str, str]:
    """What was measured."""
    try:
        server = str(world.hub.api.get("/version")["gitVersion"])
    except KubeError as error:
        raise LabError(f"no version: {error}") from error
    return {"kubernetes": server, "python": sys.version.split()[0], "build": KUBERNETES.title}
