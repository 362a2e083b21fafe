"""An agent between the lab's real hub and a real member, and leases for it to carry out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from fedgpu_lab.cluster import Cluster
from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.adapters.kube.kubeconfig import member_client
from fedgpu_operator.agent import Agent, AgentSettings, Signing
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.domain.devices import DeviceRequest
from fedgpu_operator.hub.services.workloads import member_namespace, provider_namespace, render_workload
from fedgpu_operator.ports import PODS, ResourceType

LEASES = ResourceType.of(ComputeLease.info)
REPORTS = ResourceType.of(ProviderReport.info)
Object = dict[str, Any]


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


async def _eventually(what: str, check: Callable[[], Awaitable[Any]], *, within: float = 40.0) -> Any:
    """The first true answer of `check`; AssertionError that says what was waited for and what was last seen."""
    end = time.monotonic() + within
    seen = await check()
    while not seen:
        assert time.monotonic() < end, f"waited {within} s for {what}, last saw {seen!r}"
        await asyncio.sleep(0.1)
        seen = await check()
    return seen


class Site:
    """One provider: its hub namespace, a member, and agents that a test starts and ends."""

    def __init__(self, provider: str, hub: KubeClient, member: KubeClient, cluster: Cluster, hub_uid: str) -> None:
        self.provider, self.hub, self.member, self.cluster = provider, hub, member, cluster
        self.hub_uid, self.namespace = hub_uid, provider_namespace(provider)
        self.tenant = f"tenant-{uuid4().hex[:8]}"
        self.member_namespace = member_namespace(self.tenant)
        self.product = "NVIDIA-H100-80GB-HBM3"
        self.request = DeviceRequest.by_discovery(self.product)
        self._running: list[tuple[Agent, asyncio.Task[None]]] = []

    def start(self, *, signing: Signing | None = None, **settings: Any) -> Agent:
        chosen = AgentSettings(self.namespace, self.hub_uid, **{"reject_after": 4.0, "answer_timeout": 1.5, **settings})
        agent = Agent(self.provider, self.hub, self.member, chosen, SystemClock(), signing)
        self._running.append((agent, asyncio.create_task(agent.run())))
        return agent

    async def stop(self) -> None:
        for agent, task in self._running:
            await agent.aclose()
            await task
        self._running.clear()

    def wake(self) -> None:
        for agent, _ in self._running:
            agent.wake()

    async def lease(
        self,
        *,
        annotations: Mapping[str, str] | None = None,
        replicas: int = 1,
        gpus: int = 1,
        run_limit: int = 600,
        change: Callable[[Object], None] = lambda workload: None,
        job_uid: str = "",
        attempt: int = 1,
        grace: int = 5,
        wallets: tuple[str, str] = ("", ""),
    ) -> str:
        """Write a lease as the hub would and wake the agent; returns its name."""
        uid = job_uid or str(uuid4())
        name = f"{uid}-{attempt}"
        spec = {
            "gpu": {"count": gpus},
            "replicas": replicas,
            "runLimitSeconds": run_limit,
            "template": {
                "metadata": {"annotations": dict(annotations or {})},
                "spec": {
                    "containers": [{"name": "main", "image": "registry.invalid/work:1"}],
                    "terminationGracePeriodSeconds": grace,
                },
            },
        }
        job = ComputeJob.parse({"metadata": {"name": "job", "namespace": self.tenant, "uid": uid}, "spec": spec})
        workload = render_workload(
            job,
            lease_name=name,
            member_namespace=self.member_namespace,
            provider=self.provider,
            request=self.request,
            run_limit_seconds=run_limit,
        )
        change(workload)
        await self.hub.create(
            LEASES,
            {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {
                    "job": {"namespace": self.tenant, "name": "job", "uid": uid},
                    "attempt": attempt,
                    "fencingEpoch": attempt,
                    "provider": self.provider,
                    "product": self.product,
                    "replicas": replicas,
                    "gpusPerReplica": gpus,
                    "pricePerGPUHour": "1.25",
                    "runLimitSeconds": run_limit,
                    "memberNamespace": self.member_namespace,
                    "tenantWallet": wallets[0],
                    "providerWallet": wallets[1],
                    "workload": workload,
                },
            },
        )
        self.wake()
        return name

    async def order_stop(self, name: str, reason: str = "JobDeleted") -> None:
        await self.hub.patch(LEASES, name, self.namespace, {"spec": {"desired": "Stop", "stopReason": reason}})
        self.wake()

    async def read(self, name: str) -> ComputeLease:
        return ComputeLease.parse(await self.hub.get(LEASES, name, self.namespace))

    async def state(self, name: str, *wanted: str, within: float = 40.0) -> ComputeLease:
        """The lease once its state is one of those."""
        seen = await self.read(name)
        end = time.monotonic() + within
        while seen.status.state not in wanted:
            assert time.monotonic() < end, f"waited for {wanted}, last saw {seen.status!r}"
            await asyncio.sleep(0.05)
            seen = await self.read(name)
        return seen

    async def report(self) -> ProviderReport:
        return ProviderReport.parse(await self.hub.get(REPORTS, self.provider, self.namespace))

    async def jobs(self) -> list[Object]:
        return (await self.member.list(ResourceType("batch", "v1", "Job", "jobs", True), self.member_namespace))[0]

    async def pods(self) -> list[Object]:
        return (await self.member.list(PODS, self.member_namespace))[0]


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """``await eventually("what", check)`` waits for a condition and never for a time."""
    return _eventually


@pytest.fixture
async def site(
    kinds: Cluster, hub: Cluster, members: Mapping[str, Cluster], unique_name: Callable[[str], str]
) -> AsyncIterator[Site]:
    """A provider whose member is alpha (16 H100), with nothing started."""
    async with AsyncExitStack() as stack:
        hub_client = KubeClient(member_client(hub.kubeconfig_text()))
        stack.push_async_callback(hub_client.close)
        member = KubeClient(member_client(members["alpha"].kubeconfig_text()))
        stack.push_async_callback(member.close)
        made = Site(unique_name("prov"), hub_client, member, members["alpha"], str(uuid4()))
        stack.push_async_callback(made.stop)
        hub.create_namespace(made.namespace)
        yield made
        # An operator that another test starts on this hub, with books of its own, would open nothing beside them.
        hub.kubectl("delete", "computeleases", "--all", "-n", made.namespace)
        members["alpha"].delete_namespace(made.member_namespace)
