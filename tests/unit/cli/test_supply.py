"""`fedgpu provider nodes` and `fedgpu provider check`: what counts, what does not, and why, for an owner to act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.unit.cli.conftest import FakeHub, Run


def node(name: str, labels: dict[str, str], gpus: str = "8") -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"allocatable": {"nvidia.com/gpu": gpus}, "conditions": [{"type": "Ready", "status": "True"}]},
    }


RESOURCE = "nvidia.com/gpu"
L4 = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034", "nvidia.com/gpu.count": "8"}


def test_an_owner_sees_what_would_count_and_why_the_rest_does_not(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    pod = {"kind": "Pod", "metadata": {"name": "own"}, "spec": {"nodeName": "a"}, "status": {"phase": "Running"}}
    pod["spec"] = {"nodeName": "a", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "3"}}}]}
    hub.objects = [node("a", L4), *(node(f"bare-{index}", {}) for index in range(5)), node("shared", L4, "80"), pod]
    file = tmp_path / "member.yaml"
    code, out, err = run("provider", "check", "--kubeconfig", str(file))
    assert (code, err, hub.file) == (0, "", file)
    products, uncounted = out.split("\n\n")
    assert [line.split() for line in products.splitlines()][1] == [
        "NVIDIA-L4",
        "Card",
        "23034",
        "8",
        "3",
        "1",
        RESOURCE,
    ]
    assert "ContradictingFigures" in uncounted
    assert "nvidia.com/gpu: 80 allocatable, but GPU feature discovery counts 8" in " ".join(uncounted.split())
    assert "bare-0, bare-1, bare-2 and 2 others" in " ".join(uncounted.split())
    assert "looked for nvidia.com/gpu.product" in " ".join(uncounted.split())


def test_a_cluster_of_which_nothing_counts_is_an_exit_code(hub: FakeHub, run: Run) -> None:
    hub.objects = [node("bare", {})]
    code, out, _ = run("provider", "check")
    assert code == 1
    assert out.startswith("No GPU of this cluster counts.")


def test_the_hub_shows_what_the_agent_saw(hub: FakeHub, run: Run) -> None:
    uncounted = [{"reason": "Shared", "message": "shared", "nodes": 2, "gpus": 64, "examples": ["x", "y"]}]
    products = [{"product": "NVIDIA-L4", "total": 8, "gpusInUseByOthers": 0, "freeGPUHistogram": []}]
    hub.objects = [
        {
            "apiVersion": "fedgpu.dev/v1alpha1",
            "kind": "ProviderReport",
            "metadata": {"name": "acme", "namespace": "fedgpu-provider-acme"},
            "spec": {"provider": "acme"},
            "status": {"products": products, "uncounted": uncounted, "conditions": []},
        }
    ]
    code, out, _ = run("provider", "nodes", "acme", "-o", "json")
    assert code == 0
    assert json.loads(out)["uncounted"] == uncounted
    assert run("provider", "nodes", "nobody")[0] != 0
