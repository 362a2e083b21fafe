"""Reads a Node object as an API server sends it: labels, taints, conditions, and its GPUs as the kubelet counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fedgpu_operator.domain.devices import HOSTNAME_LABEL

MAX_DEVICES: Final = 1024
"""Devices of one resource on one node that are believed."""
INSTANCE_TYPE_LABELS: Final = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
LABELS_READ: Final = (
    "nvidia.com/",
    "gpu.nvidia.com/",
    "amd.com/",
    "beta.amd.com/gpu.product-name.",
    "gpu.intel.com/",
    "cloud.google.com/gke-",
    "karpenter.k8s.aws/instance-gpu-",
    "eks.amazonaws.com/instance-gpu-",
    HOSTNAME_LABEL,
    "kubernetes.io/arch",
    *INSTANCE_TYPE_LABELS,
)
"""What the keys of the labels begin with that anything here reads."""

_QUANTITY: Final = re.compile(
    r"\+?(?P<whole>\d{1,18})?(?:\.(?P<part>\d{0,18}))?"
    r"(?:(?P<suffix>[kMGTPE]|[KMGTPE]i|m)|[eE](?P<power>[+-]?\d{1,2}))?",
    re.ASCII,
)
_DECIMAL: Final = {"": 0, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_GPU_RESOURCE: Final = re.compile(
    r"nvidia\.com/(gpu|mig-)[-_.A-Za-z0-9]*|amd\.com/(gpu|[sdtqc]px_nps)[-_.A-Za-z0-9]*|gpu\.intel\.com/(i915|xe)"
)
_RENAMED: Final = re.compile(r"(nvidia|amd)\.com/[-_.A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint that keeps pods off, or throws them off, which do not tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is read of a Node. `devices` maps a GPU resource to how many the kubelet can allocate, zeros included."""

    name: str
    labels: Mapping[str, str]
    devices: Mapping[str, int]
    taints: tuple[Taint, ...]
    ready: bool
    cordoned: bool

    @property
    def hostname(self) -> str:
        """What the scheduler knows the node by in an affinity."""
        return self.labels.get(HOSTNAME_LABEL, self.name)

    @property
    def instance_type(self) -> str:
        """The cloud's instance type, empty where no label says it."""
        return next((self.labels[key] for key in INSTANCE_TYPE_LABELS if self.labels.get(key)), "")


def node_facts(node: Mapping[str, Any]) -> NodeFacts:
    """The facts of any object that is said to be a Node; what is not of the right kind is not there."""
    meta, spec, status = (mapping(node.get(part)) for part in ("metadata", "spec", "status"))
    labels = {key: each for key, each in mapping(meta.get("labels")).items() if isinstance(each, str)}
    return NodeFacts(
        name=_text(meta.get("name")),
        labels=labels,
        devices={
            resource: min(whole(amount), MAX_DEVICES)
            for resource, amount in mapping(status.get("allocatable")).items()
            if gpu_resource(resource, labels)
        },
        taints=tuple(
            Taint(_text(each.get("key")), _text(each.get("value")), _text(each.get("effect")))
            for each in objects(spec.get("taints"))
        ),
        ready=any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in objects(status.get("conditions"))
        ),
        cordoned=bool(spec.get("unschedulable")),
    )


def may_be_gpus(resource: str) -> bool:
    """Whether a pod that asks for that resource may hold GPUs by it; without a node's labels that is not certain."""
    return bool(_GPU_RESOURCE.fullmatch(resource) or _RENAMED.fullmatch(resource))


def gpu_resource(resource: str, labels: Mapping[str, str]) -> bool:
    """Whether an extended resource is GPUs: by its name, or, where an owner renamed it, by discovery's label for it."""
    if _GPU_RESOURCE.fullmatch(resource):
        return True
    return bool(_RENAMED.fullmatch(resource)) and f"{resource}.product" in labels


def whole(amount: object) -> int:
    """A quantity of a countable resource in whole units; 0 for what is not a number, or not a whole one.

    Takes every spelling that an API server sends back (``8``, ``1k``, ``8e0``, ``+5``, ``5.``, ``2Ki``, ``8000m``).
    """
    if isinstance(amount, int) and not isinstance(amount, bool):
        return max(0, amount)
    found = _QUANTITY.fullmatch(amount) if isinstance(amount, str) else None
    if found is None or not (found["whole"] or found["part"]):
        return 0
    part, suffix = found["part"] or "", found["suffix"] or ""
    digits = int((found["whole"] or "") + part or "0")
    if suffix in _BINARY:
        digits, power = digits << _BINARY[suffix], 0
    else:
        power = int(found["power"] or 0) + _DECIMAL[suffix]
    power -= len(part)
    if power >= 0:
        return int(digits * 10**power)
    units, rest = divmod(digits, 10**-power)
    return 0 if rest else int(units)


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> Iterator[Mapping[str, Any]]:
    """The objects of a list; of anything else none."""
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
