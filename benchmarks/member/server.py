"""Member API servers of the benchmark, in a process of their own: empty, large and ordinary, or without end.

    python -m benchmarks.member.server CERT KEY    serves all of them over TLS on a loopback port, which it prints

The first segment of a path says which. Objects are as a kubelet, a scheduler and a deployment controller leave them,
with `managedFields`: a pod has about 8 kB, a node about 15 kB. Selectors are honoured as an API server does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from fedgpu_lab.loopback import Query, serve

PRODUCT = "nvidia.com/gpu.product"
VERSION = b'{"gitVersion":"v1.36.3"}'


@dataclass(frozen=True)
class Member:
    """So many nodes, of which the first `gpu_nodes` have eight GPUs, and pods spread over all of them."""

    nodes: int
    gpu_nodes: int
    pods: float


MEMBERS = {
    "empty": Member(0, 0, 0),
    "large": Member(1200, 100, 30_000),
    "gpus": Member(1200, 400, 30_000),
    "endless": Member(1200, 100, float("inf")),
}


def _fields(names: list[str], entries: int) -> dict[str, Any]:
    """Entries of field owners as a server keeps them: keys without values."""
    inner: dict[str, Any] = {f"f:{name}-{number}": {} for number in range(entries) for name in names}
    return {"f:spec": {"f:containers": {'k:{"name":"main"}': {".": {}, **inner}}}}


def _managed(manager: str, entries: int) -> dict[str, Any]:
    names = ["image", "resources", "terminationMessagePath", "env"]
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-30T05:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": _fields(names, entries),
    }


def pod_template(gpus: int) -> str:
    """A running pod of a deployment; `@N`, `@S` and `@V` stand for its number, its node and its version."""
    amounts = {"cpu": "500m", "memory": "512Mi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    env = [{"name": f"SETTING_{number}", "value": f"value-of-setting-{number}"} for number in range(24)]
    mounts = [{"name": f"volume-{number}", "mountPath": f"/var/run/data/{number}"} for number in range(6)]
    main = {
        "name": "main",
        "image": "images.example.com/team/service:1.2.3",
        "resources": {"limits": amounts, "requests": amounts},
        "env": env,
        "volumeMounts": mounts,
        "terminationMessagePath": "/dev/termination-log",
    }
    state = {"running": {"startedAt": "2026-11-30T05:00:03Z"}}
    status = {"name": "main", "image": main["image"], "state": state, "ready": True, "restartCount": 0, "started": True}
    words = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    stamp = "2026-11-30T05:00:00Z"
    pod = {
        "metadata": {
            "name": "service-6d5f9b7c4d-@N",
            "namespace": "team-@T",
            "uid": "00000000-0000-4000-8000-@P",
            "resourceVersion": "@V",
            "creationTimestamp": stamp,
            "labels": {"app": "service", "pod-template-hash": "6d5f9b7c4d", "app.kubernetes.io/part-of": "shop"},
            "annotations": {f"example.com/note-{number}": "a note that somebody left " * 3 for number in range(6)},
            "managedFields": [_managed("kube-controller-manager", 20), _managed("kubelet", 20)],
        },
        "spec": {
            "nodeName": "@S",
            "containers": [main],
            "volumes": [{"name": f"volume-{number}", "emptyDir": {}} for number in range(6)],
            "serviceAccountName": "default",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": word, "status": "True", "lastTransitionTime": stamp} for word in words],
            "podIP": "10.1.2.3",
            "startTime": stamp,
            "containerStatuses": [status],
        },
    }
    return json.dumps(pod, separators=(",", ":"))


def node_template(gpus: int) -> str:
    """A node with so many GPUs and fifty images."""
    images = [{"names": [f"images.example.com/team/image-{number}@sha256:{'0' * 64}"]} for number in range(50)]
    amounts = {"cpu": "64", "memory": "512Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    product = {PRODUCT: "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"} if gpus else {}
    node = {
        "metadata": {
            "name": "@S",
            "uid": "@S",
            "resourceVersion": "7",
            "labels": {"kubernetes.io/hostname": "@S", "kubernetes.io/arch": "amd64", **product},
            "managedFields": [_managed("kubelet", 40)],
        },
        "spec": {},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": images,
        },
    }
    return json.dumps(node, separators=(",", ":"))


NODE, BARE, PLAIN, GREEDY = node_template(8), node_template(0), pod_template(0), pod_template(1)


def node(number: int, member: Member) -> str:
    """The node of that number."""
    return (NODE if number < member.gpu_nodes else BARE).replace("@S", f"node-{number}")


def pod(number: int, member: Member) -> str:
    """The pod of that number; every fourth of those on nodes with GPUs holds one."""
    at = number % member.nodes
    text = GREEDY if at < member.gpu_nodes and number // member.nodes % 4 == 0 else PLAIN
    words = {"@N": f"{number:08d}", "@P": f"{number:012d}", "@S": f"node-{at}", "@V": f"{number + 8}"}
    for mark, word in {**words, "@T": f"{number % 50}"}.items():
        text = text.replace(mark, word)
    return text


def listed(member: Member, path: str, query: Query) -> tuple[list[str], str]:
    """A page and where it goes on, empty at the end."""
    begin, limit = int(query.get("continue", ["0"])[0]), int(query.get("limit", ["500"])[0])
    if path.endswith("/nodes"):
        last = member.gpu_nodes if PRODUCT in query.get("labelSelector", [""])[0] else member.nodes
        numbers = range(begin, min(begin + limit, last))
        return [node(number, member) for number in numbers], str(begin + limit) if begin + limit < last else ""
    if not path.endswith("/pods") or "labelSelector" in query or not member.pods:
        return [], ""
    found = dict(
        word.split("=", 1) for word in query.get("fieldSelector", [""])[0].split(",") if "!" not in word and word
    )
    if "spec.nodeName" in found:
        at = int(found["spec.nodeName"].removeprefix("node-"))
        most = member.pods if member.pods == float("inf") else -(-(member.pods - at) // member.nodes)
        end = min(begin + limit, most)
        page = [pod(at + member.nodes * each, member) for each in range(begin, int(end))]
        return page, str(begin + limit) if end < most else ""
    last_pod = min(begin + limit, member.pods)
    more = str(begin + limit) if begin + limit < member.pods else ""
    return [pod(number, member) for number in range(begin, int(last_pod))], more


async def answer(name: str, path: str, query: Query) -> AsyncIterator[bytes]:
    """The parts of a body."""
    member = MEMBERS[name]
    if "watch" in query:
        for version in count(40_000):
            event = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}
            yield json.dumps(event).encode() + b"\n"
            await asyncio.sleep(5)
    elif path == "/version":
        yield VERSION
    else:
        items, more = listed(member, path, query)
        meta = json.dumps({"resourceVersion": "40000", "continue": more})
        yield f'{{"kind":"List","apiVersion":"v1","metadata":{meta},"items":['.encode()
        for begin in range(0, len(items), 16):
            part = ",".join(items[begin : begin + 16])
            yield (("," if begin else "") + part).encode()
        yield b"]}"


if __name__ == "__main__":
    asyncio.run(serve(answer, *sys.argv[1:]))
