"""Real node shapes, each read as its row in shapes.yaml says: what it supplies, or why it does not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedgpu_operator.agent.watch import KEPT
from fedgpu_operator.ports import NODES
from fedgpu_operator.supply.judge import NodeReading, names, read_node
from fedgpu_operator.supply.node import node_facts

SHAPES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("shapes.yaml").read_text())


def reading(shape: dict[str, Any]) -> NodeReading:
    """As an agent reads it from what a client of a member keeps of the Node."""
    node = {
        "metadata": {"name": "node-1", "labels": {"kubernetes.io/hostname": "node-1"} | shape["labels"]},
        "spec": {"taints": shape.get("taints", [])},
        "status": {
            "allocatable": shape["allocatable"],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    return read_node(node_facts(KEPT[NODES](node)))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["name"])
def test_a_shape_is_read_rightly(shape: dict[str, Any]) -> None:
    found = reading(shape)
    pools = [[pool.product, pool.count, pool.form.value, pool.memory_mib, pool.resource] for pool in found.pools]
    assert pools == shape.get("supplies", [])
    assert {left.why.value for left in found.left_out} == ({shape["why"]} if "why" in shape else set())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["name"])
def test_an_agent_takes_the_workload_that_its_own_report_asks_for(shape: dict[str, Any]) -> None:
    for pool in reading(shape).pools:
        assert names(pool.product, pool.resource, dict(pool.selector))
        assert not names("NVIDIA-OTHER", pool.resource, dict(pool.selector))
        assert not names(pool.product, pool.resource, {})
