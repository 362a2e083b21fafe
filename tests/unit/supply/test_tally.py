"""Mixed nodes with own and foreign pods: what is said to be free is there, and on nodes that a pod of ours reaches."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.supply import Supply, Tally

CARD, SLICE = "nvidia.com/gpu", "nvidia.com/mig-1g.10gb"
NAMES = tuple(f"node-{index}" for index in range(6))


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Any]:
    """A node of some name: whole cards, slices beside, and now and then a figure that contradicts or a bar."""
    cards, counted = draw(st.integers(0, 8)), draw(st.sampled_from([0, 0, 0, -1, 1]))
    slices = draw(st.sampled_from([0, 0, 7]))
    labels = {
        "nvidia.com/gpu.product": draw(st.sampled_from(["NVIDIA-L4", "NVIDIA-L4", "NVIDIA-A100-SXM4-80GB"])),
        "nvidia.com/gpu.count": str(max(0, cards + counted)),
        "nvidia.com/gpu.replicas": draw(st.sampled_from(["1", "1", "1", "4"])),
    }
    if slices:
        labels |= {f"{SLICE}.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", f"{SLICE}.count": str(slices)}
    return {
        "metadata": {"name": draw(st.sampled_from(NAMES)), "labels": labels},
        "spec": {"unschedulable": draw(st.sampled_from([False, False, False, True]))},
        "status": {
            "allocatable": {CARD: str(cards), SLICE: str(slices)},
            "conditions": [{"type": "Ready", "status": draw(st.sampled_from(["True", "True", "True", "Unknown"]))}],
        },
    }


@st.composite
def pods(draw: st.DrawFn) -> dict[str, Any]:
    """A pod of a lease of ours, or foreign, with init containers and native sidecars."""

    def container() -> dict[str, Any]:
        amounts = {draw(st.sampled_from([CARD, SLICE])): str(draw(st.integers(0, 4)))}
        return {"resources": {"limits": amounts}, **draw(st.sampled_from([{}, {"restartPolicy": "Always"}]))}

    return {
        "metadata": {"labels": {"lease": draw(st.sampled_from(["", "", "x", "y"]))}},
        "spec": {
            "nodeName": draw(st.sampled_from(NAMES)),
            "containers": [container() for _ in range(draw(st.integers(1, 2)))],
            "initContainers": [container() for _ in range(draw(st.integers(0, 2)))],
        },
        "status": {"phase": draw(st.sampled_from(["Running", "Pending", "Succeeded"]))},
    }


def held(pod: dict[str, Any], resource: str) -> int:
    """What a pod holds, written out as the documents of Kubernetes say it: the peak over its life."""

    def amount(container: dict[str, Any]) -> int:
        return int(container["resources"]["limits"].get(resource, 0))

    beside, peak = 0, 0
    for container in pod["spec"]["initContainers"]:
        if container.get("restartPolicy") == "Always":
            beside += amount(container)
            peak = max(peak, beside)
        else:
            peak = max(peak, beside + amount(container))
    return max(peak, beside + sum(map(amount, pod["spec"]["containers"])))


def honest(node: dict[str, Any], resource: str) -> int:
    """Devices that the node has for sure and that can be let now."""
    labels, status = node["metadata"]["labels"], node["status"]
    there = int(status["allocatable"][resource])
    if node["spec"]["unschedulable"] or status["conditions"][0]["status"] != "True":
        return 0
    if resource == CARD and (labels["nvidia.com/gpu.replicas"] != "1" or there > int(labels["nvidia.com/gpu.count"])):
        return 0
    return there


@given(st.lists(nodes(), max_size=6, unique_by=lambda node: node["metadata"]["name"]), st.lists(pods(), max_size=10))
def test_what_is_free_is_there_and_what_is_there_is_free(
    there: list[dict[str, Any]], running: list[dict[str, Any]]
) -> None:
    tally = Tally(lambda labels: labels.get("lease", ""))
    tally.nodes(there)
    tally.pods(running)
    supply = tally.supply()
    live = [pod for pod in running if pod["status"]["phase"] != "Succeeded"]
    for product in supply.products:
        resource = product.request.resource
        expected: Counter[int] = Counter()
        for node in there:
            if not honest(node, resource) or _product(node, resource) != product.product:
                continue
            here = [pod for pod in live if pod["spec"]["nodeName"] == node["metadata"]["name"]]
            mine = sum(held(pod, resource) for pod in here if pod["metadata"]["labels"]["lease"])
            foreign = sum(held(pod, resource) for pod in here if not pod["metadata"]["labels"]["lease"])
            free = max(0, honest(node, resource) - foreign)
            # More is held than there is: a device fell off, and nothing is known of the rest.
            expected[free if not mine or mine <= free else 0] += 1
        assert product.free == expected
    assert _sold(supply) == {
        _product(node, resource) for node in there for resource in (CARD, SLICE) if honest(node, resource)
    }


def _product(node: dict[str, Any], resource: str) -> str:
    return str(node["metadata"]["labels"].get(f"{resource}.product", ""))


def _sold(supply: Supply) -> set[str]:
    return {product.product for product in supply.products}
