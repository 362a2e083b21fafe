"""From a member's nodes and pods to its GPUs by product; pure, and no label or quantity can make it fail."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fedgpu_operator.agent.pods import gpus_of, quantity, terminal
from fedgpu_operator.api.base import MAX_NODES, JSONObject
from fedgpu_operator.api.jobspec import GPU_RESOURCE, PRODUCT_LABEL
from fedgpu_operator.api.providerreport import NodeBucket, ReportedProduct
from fedgpu_operator.errors import ListTooLargeError

FAMILY_LABEL: Final = "nvidia.com/gpu.family"
MEMORY_LABEL: Final = "nvidia.com/gpu.memory"
SHARING_LABEL: Final = "nvidia.com/gpu.sharing-strategy"
MAX_PRODUCTS: Final = 64
MAX_BUCKETS: Final = 64
MAX_GPUS_PER_NODE: Final = 1024
MAX_PODS: Final = 60_000
"""Pods that one count goes through: twice an ordinary large cluster, and about half of a member's budget."""
LIVE_PODS: Final = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
"""Field selector of the pods that can hold a GPU."""

_PRODUCT: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class _GpuNode:
    name: str
    product: str
    family: str
    memory: int
    gpus: int


def live_pods_of(node: str) -> str:
    """Field selector of the pods on that node that can hold a GPU."""
    return LIVE_PODS.replace("spec.nodeName!=", f"spec.nodeName={node}")


class Tally:
    """Counts a member's GPUs from pages of its nodes and then of its pods, none of which is held.

    `ours` judges a pod's labels: our own pods are left out of `gpusInUseByOthers`, the hub subtracts its leases
    itself. GPUs that a node shares out in slices are left out: one of those is not a whole GPU.
    """

    def __init__(self, ours: Callable[[Mapping[str, str]], bool]) -> None:
        self._ours = ours
        self._nodes: dict[str, _GpuNode] = {}
        self._foreign: Counter[str] = Counter()
        self._gone_through = 0

    @property
    def names(self) -> list[str]:
        """The nodes that were counted."""
        return list(self._nodes)

    def nodes(self, nodes: Iterable[JSONObject]) -> None:
        """Count these nodes; raises ListTooLargeError for more than a report can speak of."""
        for node in nodes:
            read = _gpu_node(node)
            if read is not None:
                self._nodes[read.name] = read
        if len(self._nodes) > MAX_NODES:
            raise ListTooLargeError(f"the member shows more than {MAX_NODES} nodes with GPUs")

    def pods(self, pods: Iterable[JSONObject]) -> None:
        """Count these pods, of nodes that were counted before; raises ListTooLargeError for more than MAX_PODS."""
        for pod in pods:
            self._gone_through += 1
            if self._gone_through > MAX_PODS:
                raise ListTooLargeError(f"the member shows more than {MAX_PODS} pods that may hold GPUs")
            node = _object(pod.get("spec")).get("nodeName")
            labels = _object(_object(pod.get("metadata")).get("labels"))
            if isinstance(node, str) and node in self._nodes and not terminal(pod) and not self._ours(labels):
                self._foreign[node] += gpus_of(pod)

    def products(self) -> list[ReportedProduct]:
        """GPUs by product, sorted by name, on nodes that could take our work now."""
        by_product: defaultdict[str, list[_GpuNode]] = defaultdict(list)
        for node in self._nodes.values():
            by_product[node.product].append(node)
        return [_product(name, by_product[name], self._foreign) for name in sorted(by_product)[:MAX_PRODUCTS]]


def _product(name: str, nodes: list[_GpuNode], foreign: Mapping[str, int]) -> ReportedProduct:
    free = Counter(max(0, node.gpus - foreign.get(node.name, 0)) for node in nodes)
    memories = [node.memory for node in nodes if node.memory]
    return ReportedProduct(
        product=name,
        architecture=min((node.family for node in nodes if node.family), default=""),
        memory_mi_b=min(memories, default=0),
        total=sum(node.gpus for node in nodes),
        gpus_in_use_by_others=sum(min(node.gpus, foreign.get(node.name, 0)) for node in nodes),
        free_gpu_histogram=[
            NodeBucket(free=gpus, nodes=free[gpus]) for gpus in sorted(free, reverse=True)[:MAX_BUCKETS]
        ],
    )


def _gpu_node(node: JSONObject) -> _GpuNode | None:
    meta, spec, status = (_object(node.get(part)) for part in ("metadata", "spec", "status"))
    labels = _object(meta.get("labels"))
    product = str(labels.get(PRODUCT_LABEL, ""))
    gpus = min(quantity(_object(status.get("allocatable")).get(GPU_RESOURCE, 0)), MAX_GPUS_PER_NODE)
    shared = labels.get(SHARING_LABEL, "none") not in {"none", ""}
    if not _PRODUCT.fullmatch(product) or not gpus or shared or not _open_to_us(spec, status):
        return None
    family = str(labels.get(FAMILY_LABEL, ""))[:63]
    return _GpuNode(str(meta.get("name", "")), product, family, quantity(labels.get(MEMORY_LABEL, 0)), gpus)


def _open_to_us(spec: JSONObject, status: JSONObject) -> bool:
    """Ready, not cordoned, and without taints beyond the one that our workloads tolerate."""
    if spec.get("unschedulable"):
        return False
    for taint in _objects(spec.get("taints")):
        if taint.get("effect") == "NoExecute":
            return False
        if taint.get("effect") == "NoSchedule" and taint.get("key") != GPU_RESOURCE:
            return False
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in _objects(status.get("conditions"))
    )


def _object(value: object) -> JSONObject:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[JSONObject]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
