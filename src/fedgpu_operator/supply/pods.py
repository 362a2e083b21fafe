"""Which GPUs a pod holds; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedgpu_operator.supply.node import mapping, may_be_gpus, objects, whole

TERMINAL = frozenset({"Succeeded", "Failed"})


def devices_of(pod: Mapping[str, Any]) -> Counter[str]:
    """GPUs by resource name that the scheduler set aside for a pod.

    As the scheduler adds them up (k8s.io/component-helpers, resource.PodRequests): containers and native sidecars
    together, or one init container and the sidecars that began before it, whichever is more.
    """
    spec = mapping(pod.get("spec"))
    together: Counter[str] = Counter()
    for container in objects(spec.get("containers")):
        together += _requests(container)
    sidecars: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for container in objects(spec.get("initContainers")):
        asked = _requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars += asked
            first |= sidecars
        else:
            first |= sidecars + asked
    return (together + sidecars) | first


def terminal(pod: Mapping[str, Any]) -> bool:
    """Whether nothing of the pod runs any more."""
    return mapping(pod.get("status")).get("phase") in TERMINAL


def _requests(container: Mapping[str, Any]) -> Counter[str]:
    resources = mapping(container.get("resources"))
    asked = {**mapping(resources.get("limits")), **mapping(resources.get("requests"))}
    return Counter({name: min(whole(amount), 1_000_000) for name, amount in asked.items() if may_be_gpus(name)})
