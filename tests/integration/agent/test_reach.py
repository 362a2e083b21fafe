"""The report, the sign of life, and what happens when the member does not answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.api.base import find
from fedgpu_operator.api.providerreport import AGENT_LEASE
from fedgpu_operator.errors import NotFoundError
from fedgpu_operator.ports import COORDINATION_LEASES


async def reachable(site: Any) -> Any:
    try:
        return find((await site.report()).status.conditions, "Reachable")
    except NotFoundError:
        return None


async def test_the_report_shows_the_members_gpus_and_our_own_pods_are_not_foreign(site: Any, eventually: Any) -> None:
    site.start(inventory_interval=0.2, report_interval=1.0)
    name = await site.lease(gpus=4)
    await site.state(name, "Running")
    since = datetime.now(UTC)

    async def fresh() -> Any:
        report = await site.report()
        return report if report.status.observed_at and report.status.observed_at > since else None

    report = await eventually("a report after the start", fresh)
    (product,) = report.status.products
    assert (product.product, product.architecture, product.memory_mi_b) == (site.product, "hopper", 81559)
    assert (product.total, product.gpus_in_use_by_others) == (16, 0)
    assert report.status.kubernetes_version.startswith("v1.")
    assert report.status.round_trips_ms
    assert all(0 < trip < 5000 for trip in report.status.round_trips_ms)
    assert (await reachable(site)).status == "True"


async def test_a_foreign_pod_is_counted(site: Any, eventually: Any, unique_name: Any) -> None:
    namespace = unique_name("owner")
    site.cluster.create_namespace(namespace)
    gpus = {"limits": {"nvidia.com/gpu": "5"}}
    pod = {"metadata": {"name": "own"}, "spec": {"containers": [{"name": "x", "image": "x", "resources": gpus}]}}
    site.cluster.api.create(f"/api/v1/namespaces/{namespace}/pods", pod)
    try:
        site.start(inventory_interval=0.2)

        async def counted() -> Any:
            report = (await site.report()).status if await reachable(site) else None
            return (
                report.products
                if report and report.products and report.products[0].gpus_in_use_by_others == 5
                else None
            )

        (product,) = await eventually("the foreign pod in the report", counted)
        assert [(bucket.free, bucket.nodes) for bucket in product.free_gpu_histogram] == [(8, 1), (3, 1)]
    finally:
        site.cluster.delete_namespace(namespace)


async def test_a_silent_member_is_unknown_and_its_leases_are_left_alone(site: Any, eventually: Any) -> None:
    agent = site.start(resync=0.5, renew_interval=0.5, backoff_most=2.0)
    name = await site.lease(annotations={"lab.fedgpu.dev/duration": "120s"})
    before = await site.state(name, "Running")
    site.cluster.pause()
    try:

        async def unknown() -> bool:
            condition = await reachable(site)
            return bool(condition and condition.status == "Unknown" and condition.reason == "Unreachable")

        await eventually("Reachable=Unknown", unknown)
        beat = (await site.hub.get(COORDINATION_LEASES, AGENT_LEASE, site.namespace))["spec"]["renewTime"]
        await site.order_stop(name)
        after = await site.read(name)
        assert after.status.conditions == before.status.conditions
        assert not agent.reachable
    finally:
        site.cluster.resume()
    lease = await site.state(name, "Stopped")
    assert lease.status.usage.final
    assert (await reachable(site)).status == "True"

    async def beats_again() -> bool:
        spec = (await site.hub.get(COORDINATION_LEASES, AGENT_LEASE, site.namespace))["spec"]
        return bool(spec["renewTime"] > beat)

    await eventually("the sign of life to go on", beats_again)


async def test_refused_credentials_are_a_fact_and_not_silence(site: Any, eventually: Any) -> None:
    site.member = KubeClient(member_client(site.cluster.kubeconfig_for("not-a-token")))
    try:
        site.start()

        async def refused() -> bool:
            condition = await reachable(site)
            return bool(condition and (condition.status, condition.reason) == ("False", "Unauthorized"))

        await eventually("Reachable=False", refused)
        await site.stop()
    finally:
        await site.member.close()


async def test_a_member_that_shows_too_many_pods_is_refused_and_its_lease_goes_on(
    site: Any, eventually: Any, unique_name: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgpu_operator.supply.tally.MAX_PODS", 3)
    site.start(inventory_interval=0.2)
    name = await site.lease(gpus=1)
    await site.state(name, "Running")
    namespace = unique_name("crowd")
    site.cluster.create_namespace(namespace)
    gpus = {"limits": {"nvidia.com/gpu": "1"}}
    spec = {"containers": [{"name": "x", "image": "x", "resources": gpus}]}
    for number in range(4):
        pod = {"metadata": {"name": f"own-{number}"}, "spec": spec}
        site.cluster.api.create(f"/api/v1/namespaces/{namespace}/pods", pod)
    try:

        async def refused() -> Any:
            found = await reachable(site)
            return found if found and found.reason == "MemberTooLarge" else None

        found = await eventually("the condition", refused)
        assert found.status == "False"
        assert "more than 3 pods" in found.message
        await site.order_stop(name)
        await site.state(name, "Stopped")
    finally:
        site.cluster.delete_namespace(namespace)

    async def answers() -> Any:
        found = await reachable(site)
        return found if found and found.status == "True" else None

    await eventually("that it is counted again when it has shrunk", answers)
