"""What is kept of a member's objects: never more than the bounds, never less than is read, whatever was sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgpu_operator.agent import pods as podlib
from fedgpu_operator.agent.watch import KEPT, MAX_ENTRIES, MAX_TEXT
from fedgpu_operator.agent.workload import HUB_LABEL
from fedgpu_operator.api.computelease import LEASE_LABEL
from fedgpu_operator.ports import BATCH_JOBS, EVENTS, NAMESPACES, NODES, PODS, ResourceType
from fedgpu_operator.reflector import weight

KINDS = sorted(KEPT, key=lambda kind: kind.plural)
FIELDS = [
    "metadata", "spec", "status", "labels", "annotations", "name", "uid", "containers", "initContainers", "conditions",
    "containerStatuses", "state", "terminated", "resources", "limits", "allocatable", "taints", "message", "type",
    "nvidia.com/gpu", "fedgpu.dev/lease", "exitCode", "phase", "unschedulable",
]  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
@given(obj=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_no_object_can_make_it_fail_or_read_otherwise_the_second_time(kind: ResourceType, obj: dict[str, Any]) -> None:
    kept = KEPT[kind](obj)
    assert KEPT[kind](kept) == kept
    assert weight(kept) > 0
    if "metadata" in kept:
        podlib.outcome(kept, [kept])
        podlib.hindrance([kept], replicas=1, ever=1, events="")
        podlib.pod_facts(kept)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_the_fattest_object_is_held_within_bounds(kind: ResourceType, make: Any) -> None:
    text = "x" * 1_000_000
    state = {"terminated": {"exitCode": 1, "message": text, "reason": text}}
    many = [{"name": text, "type": text, "message": text, "state": state, "lastState": state}] * 1000
    status = {"conditions": many, "containerStatuses": many, "initContainerStatuses": many, "message": text}
    marks = {f"fedgpu.dev/{number}": text for number in range(1000)}
    meta = {"name": "a", "labels": marks, "annotations": {"app.example/x": text}}
    kept = KEPT[kind]({"metadata": meta, "spec": {"containers": many, "taints": many}, "status": status})
    assert weight(kept) < 2 * 2**20 + 10 * MAX_ENTRIES * MAX_TEXT
    assert kept["metadata"].get("labels", {}) == {}


def test_a_run_is_metered_and_ends_as_the_whole_objects_say(make: Any) -> None:
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}
    pulling = {"reason": "ErrImagePull", "message": "denied"}
    pods = [
        make.pod(uid="1", gpus=4),
        make.pod(uid="2", phase="Failed", exit_code=3, index=1),
        make.pod(uid="3", phase="Failed", deleting=True, conditions=(evicted,)),
        make.pod(uid="4", phase="Pending", ago=None, conditions=(unscheduled,)),
        make.pod(uid="5", phase="Pending", waiting=pulling),
        make.pod(uid="6", phase="Succeeded", exit_code=0, labels={LEASE_LABEL: "l", HUB_LABEL: "h", "app": "x"}),
    ]
    kept = [KEPT[PODS](each) for each in pods]
    assert [podlib.pod_facts(each) for each in kept] == [podlib.pod_facts(each) for each in pods]
    job = make.member_job(("Failed", "PodFailurePolicy"))
    assert podlib.outcome(KEPT[BATCH_JOBS](job), kept) == podlib.outcome(job, pods)
    for whole, less in zip(pods, kept, strict=True):
        assert podlib.hindrance([less], replicas=1, ever=1, events="") == podlib.hindrance(
            [whole], replicas=1, ever=1, events=""
        )


def test_what_the_agent_asks_of_other_kinds_is_there(make: Any) -> None:
    event = {"metadata": {"name": "e"}, "message": "quota", "lastTimestamp": "2026-01-01T00:00:00Z", "source": {}}
    assert KEPT[EVENTS](event)["message"] == "quota"
    labels = {"fedgpu.dev/tenant": "team", "pod-security.kubernetes.io/enforce": "restricted", "team": "x"}
    meta = {"name": "ns", "uid": "u", "resourceVersion": "1", "labels": labels, "deletionTimestamp": "t"}
    found = KEPT[NAMESPACES]({"metadata": meta})["metadata"]
    assert found["deletionTimestamp"] == "t"
    assert set(found["labels"]) == set(labels) - {"team"}
    node = make.node("n", taints=({"key": "k", "effect": "NoSchedule", "value": "v"},))
    assert KEPT[NODES](node)["spec"]["taints"] == [{"key": "k", "value": "v", "effect": "NoSchedule"}]
