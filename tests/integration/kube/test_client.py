"""The client against a real API server: what each method promises, and which error each failure is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from fedgpu_lab.cluster import Cluster
from fedgpu_operator.adapters.kube.client import KubeClient, Limits
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from fedgpu_operator.ports import BATCH_JOBS, COORDINATION_LEASES, NAMESPACES, SECRETS

Object = dict[str, Any]


@pytest.fixture
def namespace(hub: Cluster, unique_name: Callable[[str], str]) -> str:
    name = unique_name("client")
    hub.create_namespace(name)
    return name


def secret(namespace: str, name: str = "one", **labels: str) -> Object:
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}, "stringData": {"k": "v"}}


async def gone(kube: KubeClient, namespace: str, name: str) -> None:
    """Foreground deletion ends when the garbage collector has seen to the dependents."""
    end = time.monotonic() + 30
    while True:
        try:
            await kube.get(SECRETS, name, namespace)
        except NotFoundError:
            return
        assert time.monotonic() < end, f"{name} is still there"
        await asyncio.sleep(0.05)


async def test_create_get_delete(kube: KubeClient, namespace: str) -> None:
    made = await kube.create(SECRETS, secret(namespace))
    assert (await kube.get(SECRETS, "one", namespace))["metadata"]["uid"] == made["metadata"]["uid"]
    with pytest.raises(AlreadyExistsError):
        await kube.create(SECRETS, secret(namespace))
    with pytest.raises(ConflictError):
        await kube.delete(SECRETS, "one", namespace, uid="00000000-0000-4000-8000-000000000000")
    await kube.delete(SECRETS, "one", namespace, uid=made["metadata"]["uid"])
    await gone(kube, namespace, "one")
    await kube.delete(SECRETS, "one", namespace)


async def test_lists_join_their_pages(kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_limits", Limits(page_size=2))
    for number in range(5):
        await kube.create(SECRETS, secret(namespace, f"s{number}", odd=str(number % 2)))
    found, version = await kube.list(SECRETS, namespace)
    assert [item["metadata"]["name"] for item in found] == [f"s{number}" for number in range(5)]
    assert int(version) > 0
    pages = [(len(items), at) async for items, at in kube.pages(SECRETS, namespace)]
    assert pages == [(2, version), (2, version), (1, version)]
    odd, _ = await kube.list(SECRETS, namespace, labels="odd=1")
    assert [item["metadata"]["name"] for item in odd] == ["s1", "s3"]
    one, _ = await kube.list(SECRETS, namespace, fields="metadata.name=s4")
    assert [item["metadata"]["name"] for item in one] == ["s4"]
    everywhere, _ = await kube.list(SECRETS, labels="odd")
    assert {item["metadata"]["namespace"] for item in everywhere} >= {namespace}


async def test_a_patch_is_guarded_by_uid_and_version(kube: KubeClient, namespace: str) -> None:
    made = await kube.create(SECRETS, secret(namespace))
    guard = {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}
    changed = await kube.patch(SECRETS, "one", namespace, {"metadata": {**guard, "labels": {"a": "b"}}})
    assert changed["metadata"]["labels"] == {"a": "b"}
    with pytest.raises(ConflictError):
        await kube.patch(SECRETS, "one", namespace, {"metadata": {**guard, "labels": {"a": "c"}}})
    await kube.delete(SECRETS, "one", namespace)
    await gone(kube, namespace, "one")
    await kube.create(SECRETS, secret(namespace))
    guard["resourceVersion"] = changed["metadata"]["resourceVersion"]
    with pytest.raises(ConflictError):
        await kube.patch(SECRETS, "one", namespace, {"metadata": {**guard, "labels": {"a": "c"}}})
    with pytest.raises(NotFoundError):
        await kube.patch(SECRETS, "none", namespace, {"metadata": {"labels": {"a": "c"}}})


async def test_a_status_patch_touches_the_status_alone(kube: KubeClient, namespace: str) -> None:
    pod = {"restartPolicy": "Never", "containers": [{"name": "x", "image": "x"}]}
    job = {"metadata": {"name": "j", "namespace": namespace}, "spec": {"suspend": True, "template": {"spec": pod}}}
    await kube.create(BATCH_JOBS, job)
    patch = {"status": {"ready": 0}, "metadata": {"labels": {"x": "y"}}, "spec": {"suspend": False}}
    after = await kube.patch_status(BATCH_JOBS, "j", namespace, patch)
    assert after["status"]["ready"] == 0
    assert after["spec"]["suspend"] is True


async def test_apply_creates_and_changes_as_our_field_manager(kube: KubeClient, namespace: str) -> None:
    lease = {"metadata": {"name": "l", "namespace": namespace}, "spec": {"holderIdentity": "a"}}
    made = await kube.apply(COORDINATION_LEASES, lease)
    changed = await kube.apply(COORDINATION_LEASES, {**lease, "spec": {"holderIdentity": "b"}})
    assert made["metadata"]["uid"] == changed["metadata"]["uid"]
    assert changed["spec"]["holderIdentity"] == "b"
    assert {entry["manager"] for entry in changed["metadata"]["managedFields"]} == {"fedgpu-operator"}


async def test_what_the_schema_refuses_is_a_rejection_with_the_field(kube: KubeClient, namespace: str) -> None:
    with pytest.raises(RejectedError, match="leaseDurationSeconds") as refusal:
        await kube.create(
            COORDINATION_LEASES,
            {"metadata": {"name": "l", "namespace": namespace}, "spec": {"leaseDurationSeconds": 0}},
        )
    assert refusal.value.status == 422


async def test_a_watch_tells_what_happens_after_the_list(kube: KubeClient, namespace: str) -> None:
    _, version = await kube.list(SECRETS, namespace)
    await kube.create(SECRETS, secret(namespace, mine="yes"))
    await kube.create(SECRETS, secret(namespace, "other"))
    await kube.patch(SECRETS, "one", namespace, {"metadata": {"labels": {"more": "x"}}})
    await kube.delete(SECRETS, "one", namespace)
    seen = []
    async with asyncio.timeout(20):
        events = kube.watch(SECRETS, namespace, labels="mine=yes", resource_version=version)
        assert isinstance(events, AsyncGenerator)
        async for event in events:
            if event.type != "BOOKMARK":
                seen.append((event.type, event.object["metadata"]["name"]))
            if event.type == "DELETED":
                break
        await events.aclose()
    assert {name for _, name in seen} == {"one"}
    kinds = [kind for kind, _ in seen]
    assert (kinds[0], kinds[1], kinds[-1]) == ("ADDED", "MODIFIED", "DELETED")


async def test_credentials_and_rights_are_told_apart(hub: Cluster, namespace: str) -> None:
    for kubeconfig, status in (
        (hub.kubeconfig_for("not-a-token"), 401),
        (hub.kubeconfig_for_service_account(namespace, "default"), 403),
    ):
        client = KubeClient(member_client(kubeconfig))
        try:
            with pytest.raises(ForbiddenError) as refusal:
                await client.list(NAMESPACES)
            assert refusal.value.status == status
        finally:
            await client.close()


async def test_no_answer_is_unreachable_and_not_an_absence(members: Any) -> None:
    member = members["beta"]
    client = KubeClient(member_client(member.kubeconfig_text()), timeout=0.5)
    try:
        assert (await client.server_version()).startswith("v1.")
        _, version = await client.list(NAMESPACES)
        member.pause()
        try:
            begun = time.monotonic()
            with pytest.raises(UnreachableError):
                await client.list(NAMESPACES)
            assert time.monotonic() - begun < 5
            with pytest.raises(UnreachableError):
                async for _ in client.watch(NAMESPACES, resource_version=version):
                    pass
        finally:
            member.resume()
        await client.list(NAMESPACES)
    finally:
        await client.close()


async def test_a_refused_connection_is_unreachable(hub: Cluster) -> None:
    text = hub.kubeconfig_text().replace(hub.server, "https://127.0.0.1:1")
    client = KubeClient(member_client(text))
    try:
        with pytest.raises(UnreachableError):
            await client.server_version()
    finally:
        await client.close()


async def test_another_authority_is_unreachable(hub: Cluster, members: Any) -> None:
    text = hub.kubeconfig_text().replace(hub.server, members["beta"].server)
    client = KubeClient(member_client(text))
    try:
        version = client.server_version()
        if hub.ca_pem == members["beta"].ca_pem:
            with pytest.raises(ForbiddenError):
                await version
        else:
            with pytest.raises(UnreachableError):
                await version
    finally:
        await client.close()
