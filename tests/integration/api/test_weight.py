"""The limit of one object on a real API server, and a lease that was filled to it: it is stopped all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from fedgpu_lab import Cluster
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.api.base import MOST_STORED, JSONObject, stored_bytes
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.errors import TooLargeError
from fedgpu_operator.hub.services.writes import patch_to_fit, relieve
from fedgpu_operator.ports import LEASES, NAMESPACES

ENVELOPE = 512
"""What etcd counts beside the object: its key, twice, and the transaction around it."""


@pytest.fixture
async def kube(installed: Cluster) -> AsyncIterator[KubeClient]:
    client = KubeClient(member_client(installed.kubeconfig_text()))
    yield client
    await client.close()


@pytest.fixture
async def namespace(kube: KubeClient, unique_name: Callable[[str], str]) -> AsyncIterator[str]:
    name = unique_name("weight")
    await kube.create(NAMESPACES, {"metadata": {"name": name}})
    yield name
    await kube.delete(NAMESPACES, name)


def lease(namespace: str, name: str, filler: str) -> JSONObject:
    workload = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"filler": filler}}
    spec = {
        "job": {"namespace": "team", "name": "train", "uid": "0" * 36},
        "attempt": 1,
        "fencingEpoch": 1,
        "provider": "berlin",
        "product": "H100",
        "replicas": 1,
        "gpusPerReplica": 1,
        "pricePerGPUHour": "1.25",
        "runLimitSeconds": 60,
        "memberNamespace": "fedgpu-tenant-team",
        "workload": workload,
    }
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta, "spec": spec}


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("letter", ["x", "<", "\u2028"])
async def test_an_object_weighs_what_we_say_it_does(kube: KubeClient, namespace: str, letter: str) -> None:
    small = await kube.create(LEASES, lease(namespace, "small", letter))
    each = stored_bytes(letter) - len('""')
    # The record of who owns which field is left out by the server where an object does not fit otherwise.
    room = MOST_STORED - stored_bytes({**small, "metadata": {**small["metadata"], "managedFields": []}})
    await kube.create(LEASES, lease(namespace, "fits", letter * ((room - ENVELOPE) // each)))
    with pytest.raises(TooLargeError):
        await kube.create(LEASES, lease(namespace, "over", letter * (room // each + ENVELOPE)))


async def test_a_lease_that_was_filled_to_the_limit_is_stopped_and_then_reported_on(
    kube: KubeClient, namespace: str
) -> None:
    made = await kube.create(LEASES, lease(namespace, "full", "x" * 100_000))
    for wide in (1500, 100, 10, 1):
        for number in range(60):
            value = "v" * 60 if wide > 1 else ""
            labels = {f"x{wide}-{number}-{each}.example.com/{'k' * len(value)}k": value for each in range(wide)}
            try:
                made = await kube.patch(LEASES, "full", namespace, {"metadata": {"labels": labels}})
            except TooLargeError:
                break
    held = ComputeLease.parse(made)
    report: JSONObject = {"status": {"state": "Running", "exitMessage": "m" * 1000}}
    with pytest.raises(TooLargeError):
        await kube.patch_status(LEASES, "full", namespace, report)
    stop = {"desired": "Stop", "stopReason": "Suspended", "stopRequestedAt": "2026-01-01T12:00:00Z"}
    with pytest.raises(TooLargeError):
        await kube.patch(LEASES, "full", namespace, {"metadata": held.metadata.guard(), "spec": stop})
    patch: JSONObject = {"metadata": held.metadata.guard(), "spec": {**stop, "workload": None}}
    stopped = ComputeLease.parse(await patch_to_fit(kube, LEASES, held.metadata, patch))
    assert (stopped.spec.desired, stopped.spec.workload) == ("Stop", None)
    assert stopped.spec.stop_requested_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    relieved = ComputeLease.parse(await relieve(kube, LEASES, stopped.metadata))
    assert relieved.metadata.labels == {}
    await kube.patch_status(LEASES, "full", namespace, report)


async def test_a_lease_without_a_workload_is_never_given_one(kube: KubeClient, namespace: str) -> None:
    again = lease(namespace, "again", "x")
    workload = again["spec"].pop("workload")
    await kube.create(LEASES, again)
    with pytest.raises(Exception, match="cannot be given one"):
        await kube.patch(LEASES, "again", namespace, {"spec": {"workload": workload}})
