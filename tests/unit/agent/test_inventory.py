"""Inventory: what is free is true, and no label of a stranger's node can break it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.agent.inventory import aside, products, uncounted
from fedgpu_operator.agent.watch import KEPT, kept
from fedgpu_operator.agent.workload import HUB_LABEL, Identity
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import LEASE_LABEL, PROVIDER_LABEL
from fedgpu_operator.api.providerreport import ReportedProduct
from fedgpu_operator.domain.devices import DeviceRequest, Toleration
from fedgpu_operator.domain.inventory import InventoryRules, NamedNodes
from fedgpu_operator.domain.job import Requirement, SelectorOperator
from fedgpu_operator.ports import NODES, PODS
from fedgpu_operator.supply import Supply, Tally

OURS = Identity("hub-1", "prov")


def counted(nodes: Iterable[JSONObject], pods: Iterable[JSONObject]) -> Supply:
    """Counted as an agent does from what a client of a member keeps."""
    tally = Tally(OURS.lease_of)
    tally.nodes(map(KEPT[NODES], nodes))
    tally.pods(map(KEPT[PODS], pods))
    return tally.supply()


def inventory(nodes: Iterable[JSONObject], pods: Iterable[JSONObject]) -> list[ReportedProduct]:
    """As it is reported."""
    return products(counted(nodes, pods))


LABELS = {LEASE_LABEL: "l", HUB_LABEL: "hub-1", PROVIDER_LABEL: "prov"}


def test_free_is_allocatable_minus_foreign(make: Any) -> None:
    nodes = [make.node("a"), make.node("b"), make.node("c")]
    pods = [
        make.pod(uid="1", gpus=3, node="a"),
        make.pod(uid="2", gpus=2, node="a", phase="Pending"),
        make.pod(uid="3", gpus=8, node="b", phase="Succeeded", exit_code=0),
        make.pod(uid="4", gpus=8, node=""),
    ]
    (product,) = inventory(nodes, pods)
    assert (product.product, product.architecture, product.memory_mi_b) == ("NVIDIA-L4", "ada-lovelace", 23034)
    assert (product.total, product.gpus_in_use_by_others) == (24, 5)
    assert [(bucket.free, bucket.nodes) for bucket in product.free_gpu_histogram] == [(8, 2), (3, 1)]


def test_a_terminating_pod_still_holds_its_gpus(make: Any) -> None:
    (product,) = inventory([make.node("a")], [make.pod(gpus=4, node="a", deleting=True)])
    assert product.gpus_in_use_by_others == 4


def test_only_this_hubs_pods_of_this_provider_are_ours(make: Any) -> None:
    pods = [
        make.pod(uid="1", gpus=1, node="a", labels=LABELS),
        make.pod(uid="2", gpus=2, node="a", labels=LABELS | {HUB_LABEL: "hub-2"}),
        make.pod(uid="3", gpus=1, node="a", labels=LABELS | {PROVIDER_LABEL: "other"}),
    ]
    (product,) = inventory([make.node("a")], pods)
    assert product.gpus_in_use_by_others == 3


def test_nodes_that_could_not_take_our_work_do_not_count(make: Any) -> None:
    nodes = [
        make.node("ready", gpus="4"),
        make.node("tolerated", gpus="2", taints=({"key": "nvidia.com/gpu", "effect": "NoSchedule"},)),
        make.node("preferred", gpus="1", taints=({"key": "x", "effect": "PreferNoSchedule"},)),
        make.node("cordoned", unschedulable=True),
        make.node("unready", ready="Unknown"),
        make.node("dedicated", taints=({"key": "team", "effect": "NoSchedule"},)),
        make.node("draining", taints=({"key": "nvidia.com/gpu", "effect": "NoExecute"},)),
        make.node("sliced", labels={"nvidia.com/gpu.sharing-strategy": "time-slicing"}),
        make.node("empty", gpus="0"),
    ]
    (product,) = inventory(nodes, [])
    assert product.total == 7
    assert [(each.reason, each.gpus, each.examples) for each in uncounted(counted(nodes, []))] == [
        ("Cordoned", 8, ["cordoned"]),
        ("NotReady", 8, ["unready"]),
        ("Shared", 8, ["sliced"]),
        ("Tainted", 8, ["draining"]),
        ("Tainted", 8, ["dedicated"]),
        ("NoneAllocatable", 0, ["empty"]),
    ]


def test_work_of_ours_on_a_node_that_does_not_count_takes_nothing_from_the_others(make: Any) -> None:
    nodes = [make.node("a"), make.node("cordoned", unschedulable=True), make.node("broken", gpus="7")]
    pods = [
        make.pod(uid="1", gpus=8, node="cordoned", labels=LABELS),
        make.pod(uid="2", gpus=8, node="broken", labels=LABELS | {LEASE_LABEL: "m"}),
        make.pod(uid="3", gpus=2, node="a", labels=LABELS | {LEASE_LABEL: "n"}),
    ]
    supply = counted(nodes, pods)
    (product,) = products(supply)
    assert [(bucket.free, bucket.nodes) for bucket in product.free_gpu_histogram] == [(8, 1), (0, 1)]
    assert [(each.lease, each.pods) for each in aside(supply)] == [("l", 1), ("m", 1)]


def test_an_owner_names_what_no_label_names_and_leaves_nodes_out(make: Any) -> None:
    bare = {"metadata": {"name": "bare", "labels": {"pool": "big"}}, "spec": {"taints": []}}
    bare["spec"] = {"taints": [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]}
    ready = [{"type": "Ready", "status": "True"}]
    nodes = [
        {**bare, "status": {"allocatable": {"nvidia.com/gpu": "4"}, "conditions": ready}},
        make.node("named"),
        make.node("kept-back", labels={"pool": "own"}),
    ]
    rules = InventoryRules(
        named=(NamedNodes((("pool", "big"),), "NVIDIA-L40S", "nvidia.com/gpu", 46068),),
        excluded=(Requirement("pool", SelectorOperator.IN, frozenset({"own"})),),
        tolerations=(Toleration("dedicated"),),
        runtime_class="nvidia",
    )
    tally = Tally(OURS.lease_of, rules)
    tally.nodes(map(kept(rules)[NODES], nodes))
    supply = tally.supply()
    l4, l40s = products(supply)
    assert (l4.product, l4.total, l4.request.avoid) == ("NVIDIA-L4", 8, ("kept-back",))
    assert (l40s.product, l40s.total, l40s.memory_mi_b) == ("NVIDIA-L40S", 4, 46068)
    assert l40s.request == DeviceRequest(
        "nvidia.com/gpu", ((("pool", "big"),),), (), (Toleration("dedicated", "gpu"),), "nvidia"
    )
    assert [(each.reason, each.gpus) for each in uncounted(supply)] == [("Excluded", 8)]


def test_a_node_that_only_looks_like_the_others_is_kept_off_by_name(make: Any) -> None:
    two_models = make.node("odd", gpus="10", labels={"nvidia.com/gpu.count": "8", "kubernetes.io/hostname": "odd-1"})
    (product,) = inventory([make.node("a"), two_models, make.node("cordoned", unschedulable=True)], [])
    assert product.total == 8
    assert product.request.avoid == ("odd-1",)
    assert [selector.match_labels for selector in product.node_selectors] == [{"nvidia.com/gpu.product": "NVIDIA-L4"}]


def test_a_product_has_its_least_memory(make: Any) -> None:
    nodes = [make.node("a"), make.node("b", labels={"nvidia.com/gpu.memory": "22000"}), make.node("c", labels={})]
    (product,) = inventory(nodes, [])
    assert product.memory_mi_b == 22000


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)


@given(product=st.text(max_size=70), memory=JUNK, gpus=JUNK, taints=JUNK, family=JUNK, sharing=st.text(max_size=5))
def test_garbled_nodes_never_crash_and_never_leave_the_schema(
    product: str, memory: Any, gpus: Any, taints: Any, family: Any, sharing: str
) -> None:
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": memory,
        "nvidia.com/gpu.family": family,
        "nvidia.com/gpu.sharing-strategy": sharing,
    }
    node = {
        "metadata": {"name": "n", "labels": labels},
        "spec": {"taints": taints},
        "status": {"allocatable": {"nvidia.com/gpu": gpus}, "conditions": [{"type": "Ready", "status": "True"}]},
    }
    pods = [{"spec": {"nodeName": "n", "containers": taints, "initContainers": taints}}]
    supply = counted([node, {"metadata": gpus}], pods)
    assert all(each.message for each in uncounted(supply))
    assert not aside(supply)
    for found in products(supply):
        assert found.product == product
        assert sum(bucket.nodes for bucket in found.free_gpu_histogram) == 1
