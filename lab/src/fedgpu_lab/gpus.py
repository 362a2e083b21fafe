"""GPU nodes as GPU feature discovery or a cloud describes them; what exists for sale, nothing about prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypedDict, Unpack


class NodeOverrides(TypedDict, total=False):
    """What `GpuNodes.of` lets the caller choose beside the product."""

    count_per_node: int
    nodes: int
    region: str
    zone: str
    machine: str
    labels: Mapping[str, str]
    tainted: bool
    described: str


@dataclass(frozen=True)
class GpuModel:
    """One GPU product: name, memory in MiB, family and compute capability as GPU feature discovery labels them."""

    product: str
    memory_mib: int
    family: str
    compute: tuple[int, int]


CATALOGUE: Mapping[str, GpuModel] = MappingProxyType(
    {
        "b200": GpuModel("NVIDIA-B200", 183359, "blackwell", (10, 0)),
        "h200": GpuModel("NVIDIA-H200", 143771, "hopper", (9, 0)),
        "h100": GpuModel("NVIDIA-H100-80GB-HBM3", 81559, "hopper", (9, 0)),
        "a100-80gb": GpuModel("NVIDIA-A100-SXM4-80GB", 81920, "ampere", (8, 0)),
        "a100-40gb": GpuModel("NVIDIA-A100-SXM4-40GB", 40960, "ampere", (8, 0)),
        "l40s": GpuModel("NVIDIA-L40S", 46068, "ada-lovelace", (8, 9)),
        "l4": GpuModel("NVIDIA-L4", 23034, "ada-lovelace", (8, 9)),
        "rtx4090": GpuModel("NVIDIA-GeForce-RTX-4090", 24564, "ada-lovelace", (8, 9)),
    }
)


GKE: Mapping[str, str] = MappingProxyType(
    {
        "NVIDIA-B200": "nvidia-b200",
        "NVIDIA-H200": "nvidia-h200-141gb",
        "NVIDIA-H100-80GB-HBM3": "nvidia-h100-80gb",
        "NVIDIA-A100-SXM4-80GB": "nvidia-a100-80gb",
        "NVIDIA-A100-SXM4-40GB": "nvidia-tesla-a100",
        "NVIDIA-L4": "nvidia-l4",
    }
)
"""Values of ``cloud.google.com/gke-accelerator``."""
EC2: Mapping[str, tuple[str, int, str]] = MappingProxyType(
    {
        "NVIDIA-H200": ("h200", 144384, "p5en.48xlarge"),
        "NVIDIA-H100-80GB-HBM3": ("h100", 81920, "p5.48xlarge"),
        "NVIDIA-A100-SXM4-40GB": ("a100", 40960, "p4d.24xlarge"),
        "NVIDIA-L40S": ("l40s", 45776, "g6e.48xlarge"),
        "NVIDIA-L4": ("l4", 22888, "g6.48xlarge"),
    }
)
"""What Karpenter says of a GPU: its name, MiB as EC2 lists them, and the instance type with eight of them."""
DESCRIBED = ("discovery", "gke", "karpenter")


def describes(by: str, model: str) -> bool:
    """Whether that ecosystem has labels for nodes of a model of the catalogue."""
    product = CATALOGUE[model].product
    return by == "discovery" or (by == "gke" and product in GKE) or (by == "karpenter" and product in EC2)


@dataclass(frozen=True)
class GpuNodes:
    """A group of equal nodes.

    `memory_mib` is the memory of one GPU; `region` and `zone` become the topology labels; `tainted` adds the taint
    ``nvidia.com/gpu=present:NoSchedule`` that owners set to keep other work away. `described` is whose labels say what
    the GPUs are: of `discovery`, or of `gke` (which sets that taint by itself) or `karpenter` and of nobody else.
    """

    product: str
    memory_mib: int
    family: str
    compute: tuple[int, int] = (9, 0)
    count_per_node: int = 8
    nodes: int = 1
    region: str = ""
    zone: str = ""
    machine: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    tainted: bool = False
    described: str = "discovery"
    cpu_per_gpu: int = 16
    memory_gib_per_gpu: int = 192

    @classmethod
    def of(cls, model: str, **overrides: Unpack[NodeOverrides]) -> GpuNodes:
        """Nodes with a GPU of the catalogue, such as ``GpuNodes.of("h100", nodes=2)``; KeyError for an unknown one."""
        gpu = CATALOGUE[model]
        return cls(gpu.product, gpu.memory_mib, gpu.family, gpu.compute, **overrides)

    def manifests(self, prefix: str) -> list[dict[str, object]]:
        """One Node object per node, named ``<prefix>-<product>-<n>``."""
        short = self.product.lower().removeprefix("nvidia-").removeprefix("geforce-")
        return [self._manifest(f"{prefix}-{short}-{index}") for index in range(self.nodes)]

    def _manifest(self, name: str) -> dict[str, object]:
        resources = {
            "cpu": str(self.cpu_per_gpu * self.count_per_node),
            "memory": f"{self.memory_gib_per_gpu * self.count_per_node}Gi",
            "ephemeral-storage": "4Ti",
            "pods": "110",
            "nvidia.com/gpu": str(self.count_per_node),
        }
        taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
        taints = [taint] if self.tainted or self.described == "gke" else []
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": self._labels(name)},
            "spec": {"taints": taints},
            "status": {"allocatable": resources, "capacity": resources},
        }

    def _labels(self, name: str) -> dict[str, str]:
        """The labels that describe the GPUs, and the well-known ones of Kubernetes."""
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        describe = {"discovery": self._discovery, "gke": self._gke, "karpenter": self._karpenter}[self.described]
        optional = {
            "topology.kubernetes.io/region": self.region,
            "topology.kubernetes.io/zone": self.zone,
            "nvidia.com/gpu.machine": self.machine,
        }
        return labels | describe() | {key: value for key, value in optional.items() if value} | dict(self.labels)

    def _gke(self) -> dict[str, str]:
        return {
            "cloud.google.com/gke-accelerator": GKE[self.product],
            "cloud.google.com/gke-accelerator-count": str(self.count_per_node),
        }

    def _karpenter(self) -> dict[str, str]:
        name, memory, instance_type = EC2[self.product]
        return {
            "karpenter.k8s.aws/instance-gpu-name": name,
            "karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia",
            "karpenter.k8s.aws/instance-gpu-count": str(self.count_per_node),
            "karpenter.k8s.aws/instance-gpu-memory": str(memory),
            "node.kubernetes.io/instance-type": instance_type,
        }

    def _discovery(self) -> dict[str, str]:
        major, minor = self.compute
        return {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.product": self.product,
            "nvidia.com/gpu.memory": str(self.memory_mib),
            "nvidia.com/gpu.count": str(self.count_per_node),
            "nvidia.com/gpu.family": self.family,
            "nvidia.com/gpu.compute.major": str(major),
            "nvidia.com/gpu.compute.minor": str(minor),
            "nvidia.com/gpu.replicas": "1",
            "nvidia.com/gpu.sharing-strategy": "none",
            "nvidia.com/mig.capable": str(self.compute[0] >= 8 and self.family != "ada-lovelace").lower(),
        }
