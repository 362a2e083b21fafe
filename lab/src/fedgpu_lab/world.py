"""The lab as a whole: a hub, members and a chain that start together, and end together whatever happens."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import httpx

from fedgpu_lab import components, pki, toolchain
from fedgpu_lab.chain import Anvil, Chain
from fedgpu_lab.cluster import Cluster
from fedgpu_lab.gpus import GpuNodes
from fedgpu_lab.process import Child, Rank, Watchdog, end, free_ports
from fedgpu_lab.progress import Progress, QuietProgress
from fedgpu_operator.errors import LabError

HUB = "hub"


@dataclass(frozen=True)
class MemberSpec:
    """A member cluster to be made: a DNS label as its name, and its GPU nodes."""

    name: str
    gpu_nodes: Sequence[GpuNodes] = field(default_factory=tuple)


class Maker(Protocol):
    """What makes control planes. The lab's own starts programs on this machine; containers may follow."""

    def make(self, name: str, gpu_nodes: Sequence[GpuNodes] | None) -> Cluster:
        """A cluster that is not started yet; None instead of nodes means a hub."""

    def start(self) -> None:
        """Start what all clusters share."""

    def close(self) -> None:
        """End what all clusters share; the clusters have ended before."""


class ProcessMaker:
    """Control planes as processes on loopback: one etcd, and for each cluster an API server with its own prefix."""

    def __init__(self, directory: Path, watchdog: Watchdog, progress: Progress) -> None:
        self._directory, self._watchdog = directory, watchdog
        self._binaries = toolchain.ensure(toolchain.CLUSTER_BINARIES, progress)
        self._identity = pki.new_server_identity(directory)
        self._etcd_port, peer_port = free_ports(2)
        argv = components.etcd(self._binaries["etcd"], directory / "etcd", self._etcd_port, peer_port)
        self._etcd = Child("etcd", argv, log=directory / "etcd.log", rank=Rank.STORE, watchdog=watchdog)

    def make(self, name: str, gpu_nodes: Sequence[GpuNodes] | None) -> Cluster:
        return Cluster(
            name,
            directory=self._directory / name,
            binaries=self._binaries,
            identity=self._identity,
            watchdog=self._watchdog,
            port=free_ports(1)[0],
            etcd_port=self._etcd_port,
            gpu_nodes=gpu_nodes,
        )

    def start(self) -> None:
        self._etcd.start()
        self._etcd.wait_until(self._healthy, timeout=30, what="/health")

    def close(self) -> None:
        end([self._etcd])

    def _healthy(self) -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._etcd_port}/health", timeout=2, trust_env=False)
        except httpx.TransportError:
            return False
        return '"health":"true"' in answer.text


class Lab:
    """``with Lab(members=[…]) as lab:`` gives `lab.hub`, `lab.members[name]`, `lab.chain`, ready for use.

    Everything lives under `directory` (a fresh temporary one unless given), removed at the end unless `keep`.
    Should this process be killed, a watchdog ends the children and removes the directory. Raises LabError.
    """

    hub: Cluster

    def __init__(
        self,
        members: Sequence[MemberSpec] = (),
        *,
        chain: bool = False,
        directory: Path | None = None,
        keep: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.directory = directory or Path()
        self.members: dict[str, Cluster] = {}
        self.chain: Chain | None = None
        self.timings: dict[str, float] = {}
        self._specs, self._with_chain = list(members), chain
        self._given, self._keep = directory, keep
        self._progress = progress or QuietProgress()
        self._watchdog: Watchdog | None = None
        self._maker: Maker | None = None

    def __enter__(self) -> Self:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def clusters(self) -> list[Cluster]:
        """The hub and the members."""
        hub = [self.hub] if hasattr(self, "hub") else []
        return [*hub, *self.members.values()]

    def binary(self, name: str) -> Path:
        """A program of the toolchain, such as kubectl or helm; made on first use."""
        return toolchain.ensure([name], self._progress)[name]

    def close(self) -> None:
        """End all children in the right order and remove what they wrote; safe to call twice."""
        # Open connections would hold an API server's graceful end.
        for cluster in self.clusters:
            cluster.api.close()
        end(self._children())
        if self.chain is not None:
            self.chain.close()
        if self._maker is not None:
            self._maker.close()
            self._maker = None
        if self._watchdog is not None:
            if not self._keep:
                shutil.rmtree(self.directory)
            self._watchdog.close()
            self._watchdog = None

    def _open(self) -> None:
        begin = time.monotonic()
        anvil = toolchain.ensure(["anvil"], self._progress)["anvil"] if self._with_chain else None
        toolchain.ensure(toolchain.CLUSTER_BINARIES, self._progress)
        self.timings["toolchain"] = time.monotonic() - begin
        with self._progress.task(f"Starting the hub and {len(self._specs)} member clusters"):
            self._prepare()
            self._start_all(anvil)
        self.timings["start"] = time.monotonic() - begin - self.timings["toolchain"]

    def _prepare(self) -> None:
        if self._given is None:
            self.directory = Path(tempfile.mkdtemp(prefix="fedgpu-lab-"))
        else:
            try:
                self._given.mkdir(mode=0o700, parents=True)
            except FileExistsError as error:
                raise LabError(f"{self._given} exists already; the lab wants a new directory") from error
        self._watchdog = Watchdog()
        if not self._keep:
            self._watchdog.remove_directory(self.directory)
        self._maker = ProcessMaker(self.directory, self._watchdog, self._progress)

    def _start_all(self, anvil: Path | None) -> None:
        maker, watchdog = self._running()
        self.hub = maker.make(HUB, None)
        for spec in self._specs:
            self._make_member(spec)
        if anvil is not None:
            port = free_ports(1)[0]
            self.chain = Anvil(anvil, directory=self.directory / "chain", port=port, watchdog=watchdog)
            self.chain.start()
        maker.start()
        with ThreadPoolExecutor(max_workers=16) as pool:
            starting = [pool.submit(cluster.start) for cluster in self.clusters]
            try:
                for started in as_completed(starting):
                    started.result()
            except BaseException:
                # The other threads wait for their programs: with those gone, they end at once.
                end(self._children())
                raise

    def _make_member(self, spec: MemberSpec) -> Cluster:
        maker, _ = self._running()
        if spec.name in self.members or spec.name == HUB:
            raise LabError(f"there is a cluster called {spec.name} already")
        cluster = maker.make(spec.name, spec.gpu_nodes)
        self.members[spec.name] = cluster
        return cluster

    def _children(self) -> list[Child]:
        chain = self.chain.children if self.chain is not None else []
        return [*chain, *(child for cluster in self.clusters for child in cluster.children)]

    def _running(self) -> tuple[Maker, Watchdog]:
        if self._maker is None or self._watchdog is None:
            raise LabError("the lab is not running")
        return self._maker, self._watchdog
