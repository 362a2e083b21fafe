"""Nodes of real shapes in a real member: its scheduler gives our work what an agent counts, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tests.unit.supply
import yaml

from fedgpu_operator.domain.inventory import InventoryRules
from fedgpu_operator.domain.job import Requirement, SelectorOperator
from fedgpu_operator.errors import NotFoundError
from fedgpu_operator.supply.node import whole

SHAPES: list[dict[str, Any]] = yaml.safe_load(
    Path(tests.unit.supply.__path__[0], "shapes.yaml").read_text(encoding="utf-8")
)
SUPPLYING = [shape for shape in SHAPES if shape.get("supplies")]


def node(shape: dict[str, Any], name: str, *, shared: int = 1) -> dict[str, Any]:
    """A Node of that shape; with `shared` one that claims so many times the devices it has, and says so nowhere.

    Its CPUs grow alike: the scheduler prefers the node of which a pod takes the smaller part.
    """
    devices = {key: str(whole(amount) * shared) for key, amount in shape["allocatable"].items()}
    resources = {
        "cpu": str(2 * shared),
        "memory": f"{4 * shared}Gi",
        "ephemeral-storage": "1Ti",
        "pods": "110",
        **devices,
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": shape["labels"] | {"kubernetes.io/hostname": name}},
        "spec": {"taints": shape.get("taints", [])},
        "status": {"allocatable": resources, "capacity": resources},
    }


@pytest.mark.parametrize("shape", SUPPLYING, ids=lambda shape: shape["name"])
async def test_work_lands_on_a_node_that_counts(
    site: Any, eventually: Any, unique_name: Any, shape: dict[str, Any]
) -> None:
    right, alike = unique_name("right"), unique_name("alike")
    site.cluster.api.create("/api/v1/nodes", node(shape, right))
    if any(key.endswith(".count") for key in shape["labels"]):
        site.cluster.api.create("/api/v1/nodes", node(shape, alike, shared=10))
    try:
        # The member's own nodes may have the same product.
        others = Requirement("kubernetes.io/hostname", SelectorOperator.NOT_IN, frozenset({right, alike}))
        site.start(inventory_interval=0.2, rules=InventoryRules(excluded=(others,)))
        for product, count, form, _, resource in shape["supplies"]:

            async def counted(product: str = product, count: int = count) -> Any:
                try:
                    found = (await site.report()).status.products
                except NotFoundError:
                    return None
                return next((each for each in found if (each.product, each.total) == (product, count)), None)

            reported = await eventually(f"{product} in the report", counted)
            assert (reported.form, reported.resource) == (form, resource)
            site.product, site.request = product, reported.request
            await site.state(await site.lease(gpus=1), "Running")
        assert {pod["spec"]["nodeName"] for pod in await site.pods()} == {right}
    finally:
        for name in (right, alike):
            site.cluster.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")
