"""Figures of a node and of a pod: every spelling that an API server sends back, and nothing that is no number."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.supply.node import MAX_DEVICES, node_facts, whole
from fedgpu_operator.supply.pods import devices_of


@pytest.mark.parametrize(
    ("amount", "count"),
    [
        *(("8", 8), (8, 8), ("+5", 5), ("5.", 5), ("8e0", 8), ("1k", 1000), ("1E1", 10), ("2Ki", 2048), ("8000m", 8)),
        *(("0.5k", 500), (".5k", 500), ("80e-1", 8), ("1E", 10**18), ("0", 0), ("00", 0)),
        # Not a whole number, or none at all.
        *(
            ("1.5", 0),
            ("500m", 0),
            ("-1", 0),
            (-1, 0),
            ("", 0),
            (".", 0),
            ("k", 0),
            ("8 ", 0),
            ("8kk", 0),
            ("1e999", 0),
        ),
        *((None, 0), (True, 0), (8.0, 0), ("\u0663", 0), ("9" * 99, 0), ("0x8", 0), ([8], 0)),
    ],
)
def test_a_quantity_is_read_as_a_server_means_it(amount: object, count: int) -> None:
    assert whole(amount) == count


@given(st.text(max_size=30) | st.integers() | st.none())
def test_no_quantity_is_negative_or_an_error(amount: object) -> None:
    assert whole(amount) >= 0


def test_no_node_has_more_devices_than_are_believed() -> None:
    node = {"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "1E"}}}
    assert node_facts(node).devices == {"nvidia.com/gpu": MAX_DEVICES}


def one(count: str, **fields: str) -> dict[str, Any]:
    return {"resources": {"limits": {"nvidia.com/gpu": count}}, **fields}


@pytest.mark.parametrize(
    ("containers", "init", "held"),
    [
        ([one("1"), one("2"), {}], [], 3),
        ([one("1"), one("2")], [one("5")], 5),
        ([one("1"), one("2")], [one("2")], 3),
        ([one("1")], [one("2", restartPolicy="Always")], 3),
        ([one("1")], [one("2", restartPolicy="Always"), one("4")], 6),
        ([one("1")], [one("4"), one("2", restartPolicy="Always")], 4),
        ([{"resources": {"requests": {"nvidia.com/gpu": "2"}}}], [], 2),
    ],
)
def test_a_pod_holds_what_the_scheduler_set_aside(containers: Any, init: Any, held: int) -> None:
    assert devices_of({"spec": {"containers": containers, "initContainers": init}}) == {"nvidia.com/gpu": held}


def test_devices_of_another_kind_are_none() -> None:
    other = {"resources": {"limits": {"rdma/hca": "1", "cpu": "8", "memory": "1Gi"}}}
    assert not devices_of({"spec": {"containers": [other]}})
