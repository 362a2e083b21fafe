"""The supervisor of the Push agents: the trouble of one provider stays with it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from tests.unit.hub.fakes import FakeClock, FakeKube

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.bootstrap.agents import AgentSupervisor
from fedgpu_operator.errors import ForbiddenError, UnreachableError
from fedgpu_operator.ports import NAMESPACES, SECRETS, ResourceType
from fedgpu_operator.settings import Settings

PROVIDERS = ResourceType.of(GPUProvider.info)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = """
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: 'https://member.example:6443'}}]
users: [{name: a, user: {token: x}}]
"""


class Hub(FakeKube):
    """Reading the Secret of a provider in `troubles` fails so."""

    def __init__(self) -> None:
        super().__init__(FakeClock(NOW))
        self.troubles: dict[str, Exception] = {}

    async def get(self, kind: ResourceType, name: str, namespace: str = "") -> JSONObject:
        if kind is SECRETS and name in self.troubles:
            raise self.troubles[name]
        return await super().get(kind, name, namespace)

    async def provider(self, name: str, kubeconfig: str = GOOD) -> None:
        """Accepted, with its namespace and its Secret."""
        offer = {"product": "NVIDIA-L4", "pricePerGPUHour": "1"}
        spec = {
            "location": {"country": "DE"},
            "connection": {"kubeconfigSecretRef": {"name": name}},
            "offers": [offer],
        }
        made = GPUProvider.parse(await self.create(PROVIDERS, {"metadata": {"name": name}, "spec": spec}))
        acceptance = {"hash": made.spec.acceptance_hash(), "acceptedAt": NOW.isoformat()}
        await self.patch_status(PROVIDERS, name, "", {"status": {"acceptance": acceptance}})
        await self.create(NAMESPACES, {"metadata": {"name": f"fedgpu-provider-{name}"}})
        data = {"kubeconfig": base64.b64encode(kubeconfig.encode()).decode()}
        await self.create(SECRETS, {"metadata": {"name": name, "namespace": "fedgpu-system"}, "data": data})


class Supervisor(AgentSupervisor):
    """Notes the agents it would start."""

    def __init__(self, hub: Hub) -> None:
        settings = Settings.from_env({"FEDGPU_NAMESPACE": "fedgpu-system"})
        super().__init__(hub, FakeClock(NOW), settings, "hub")
        self.started: list[str] = []

    def _start(self, name: str, member: KubeClient, version: str) -> None:
        self.started.append(name)


@pytest.mark.parametrize(
    ("kubeconfig", "trouble", "why"),
    [
        (GOOD + "x: &a b\n", None, "KubeconfigRefused"),
        ("[" * 20_000, None, "KubeconfigRefused"),
        (GOOD.replace("https://member.example:6443", "https://[::1"), None, "KubeconfigRefused"),
        (GOOD.replace("token: x", 'token: "x\\nX-Evil: 1"'), None, "KubeconfigRefused"),
        (GOOD, ForbiddenError("GET secrets/acme: 403", status=403), "AgentNotStarted"),
        (GOOD, UnreachableError("GET secrets/acme: 500", status=500), "AgentNotStarted"),
        (GOOD, ZeroDivisionError("of our own making"), "AgentNotStarted"),
    ],
)
async def test_the_trouble_of_one_provider_stops_no_other(kubeconfig: str, trouble: Exception | None, why: str) -> None:
    hub = Hub()
    await hub.provider("acme", kubeconfig)
    await hub.provider("berlin")
    if trouble is not None:
        hub.troubles["acme"] = trouble
    supervisor = Supervisor(hub)
    await supervisor.pass_once()
    assert supervisor.started == ["berlin"]
    assert {name: refusal.why for name, refusal in supervisor.refusals.items()} == {"acme": why}
    assert "of our own making" not in str(supervisor.refusals["acme"])


async def test_dates_and_numbers_nobody_asked_for_stop_nothing() -> None:
    """A loader that makes values of them raises errors of its own."""
    hub = Hub()
    await hub.provider("acme", GOOD + "x: 2020-99-99\n")
    await hub.provider("berlin", GOOD + "x: " + "1" * 5000 + "\n")
    supervisor = Supervisor(hub)
    await supervisor.pass_once()
    assert supervisor.started == ["acme", "berlin"]


async def test_nobody_sells_the_cluster_that_an_older_provider_named() -> None:
    hub = Hub()
    await hub.provider("berlin")
    await hub.provider("acme")
    spec = {"connection": {"kubeconfigSecretRef": {"name": "berlin"}}}
    thief = GPUProvider.parse(await hub.patch(PROVIDERS, "acme", "", {"spec": spec}))
    accepted = {"hash": thief.spec.acceptance_hash(), "acceptedAt": NOW.isoformat()}
    await hub.patch_status(PROVIDERS, "acme", "", {"status": {"acceptance": accepted}})
    hub.objects[PROVIDERS.plural, "", "acme"]["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    supervisor = Supervisor(hub)
    await supervisor.pass_once()
    assert supervisor.started == ["berlin"]
    assert supervisor.refusals["acme"].why == "SecretTaken"


async def test_a_refusal_goes_when_its_cause_does() -> None:
    hub = Hub()
    await hub.provider("acme")
    hub.troubles["acme"] = UnreachableError("no answer")
    supervisor = Supervisor(hub)
    await supervisor.pass_once()
    assert "acme" in supervisor.refusals
    hub.troubles.clear()
    await supervisor.pass_once()
    assert supervisor.started == ["acme"]
    assert not supervisor.refusals


async def test_an_agent_that_runs_outlives_a_hub_that_does_not_answer() -> None:
    hub = Hub()
    await hub.provider("acme")
    settings = Settings.from_env({"FEDGPU_NAMESPACE": "fedgpu-system"})
    supervisor = AgentSupervisor(hub, FakeClock(NOW), settings, "hub")
    try:
        await supervisor.pass_once()
        (before,) = supervisor._running.values()
        hub.troubles["acme"] = UnreachableError("no answer")
        await supervisor.pass_once()
        assert list(supervisor._running.values()) == [before]
        assert not supervisor.refusals
    finally:
        await supervisor.aclose()
    assert before.task.done()
