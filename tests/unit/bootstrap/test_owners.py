"""Two owners and their Secrets: what was accepted first stays, in whatever order things happen."""

from __future__ import annotations

import asyncio
from itertools import permutations
from typing import Any

import pytest
from tests.unit.bootstrap.test_agents import GOOD, LEASES, NOW, PROVIDERS, Hub
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.world import condition

from fedgpu_operator.adapters.kube.client import KubeClient
from fedgpu_operator.agent import Signing
from fedgpu_operator.api.base import find
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.bootstrap import agents
from fedgpu_operator.bootstrap.agents import AgentSupervisor, PushAgent
from fedgpu_operator.bootstrap.factory import Factory
from fedgpu_operator.hub.loops.providers import ProviderLoop
from fedgpu_operator.hub.views.providers import is_ready
from fedgpu_operator.settings import Settings

HONEST, THIEF = "honest", "a-thief"
"""Created at the same second, and the thief comes first by name."""


class Idle:
    """An agent that does nothing until it is closed."""

    def __init__(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600))

    def wake(self) -> None:
        return

    async def aclose(self) -> None:
        self.task.cancel()


class Supervisor(AgentSupervisor):
    """Real but for the agents, which are idle."""

    def _start(self, provider: GPUProvider, member: KubeClient, signing: Signing | None, made_of: str) -> None:
        agent: Any = Idle()
        self._running[provider.metadata.name] = PushAgent(agent, member, agent.task, made_of, provider.metadata.uid)

    @property
    def on(self) -> dict[str, str]:
        """By provider, the Secret whose kubeconfig its agent uses."""
        return {name: running.made_of.split("/")[0] for name, running in self._running.items()}


class NoLedger:
    """Nothing was ever let."""

    async def open_attempts(self) -> tuple[()]:
        return ()


class Owners:
    """A hub in memory with the provider loop and the supervisor over it, and what people do there."""

    def __init__(self) -> None:
        self.hub, self.clock = Hub(), FakeClock(NOW)
        self.supervisor = Supervisor(self.hub, self.clock, Settings.from_env({}), "hub")
        self.loop = self.provider_loop()

    def provider_loop(self) -> ProviderLoop:
        ledger: Any = NoLedger()
        settings = Settings.from_env({"FEDGPU_ACCEPTANCE_ENFORCED": "true"})
        factory = Factory(settings, self.hub, ledger, clock=self.clock)
        factory.supervisor = self.supervisor
        return factory.provider_loop()

    async def settle(self) -> None:
        """Until nothing more is written."""
        before = -1
        while before != len(self.hub.writes):
            before = len(self.hub.writes)
            await self.loop.pass_once()
            await self.supervisor.pass_once()

    def there(self, name: str) -> bool:
        return (PROVIDERS.plural, "", name) in self.hub.objects

    def see(self, name: str) -> GPUProvider:
        return GPUProvider.parse(self.hub.objects[PROVIDERS.plural, "", name])

    def keeps(self, name: str, uid: str) -> bool:
        """Whether that object is there still and was not accepted with another Secret since."""
        if not self.there(name) or self.see(name).metadata.uid != uid:
            return False
        known = self.see(name).status.acceptance
        return known is None or known.kubeconfig_secret_ref is None or known.kubeconfig_secret_ref.name == HONEST

    def says(self, name: str, kind: str = "Accepted") -> tuple[str, str]:
        found = find(self.see(name).status.conditions, kind)
        return (found.status, found.reason) if found is not None else ("", "")

    async def create(self, name: str, secret: str, *, awaits: bool) -> None:
        spec = {
            "location": {"country": "DE"},
            "connection": {"kubeconfigSecretRef": {"name": secret}},
            "offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": "1"}],
            "acceptance": {"awaited": awaits},
        }
        await self.hub.create(PROVIDERS, {"metadata": {"name": name}, "spec": spec})

    async def name_secret(self, name: str, secret: str) -> None:
        await self.hub.change(name, connection={"kubeconfigSecretRef": {"name": secret}})

    async def accept(self, name: str) -> None:
        said = {"hash": self.see(name).spec.acceptance_hash(), "withdrawn": None}
        await self.hub.patch(PROVIDERS, name, "", {"spec": {"acceptance": said}})

    async def withdraw(self, name: str) -> None:
        await self.hub.patch(PROVIDERS, name, "", {"spec": {"acceptance": {"hash": None, "withdrawn": True}}})

    async def wipe(self, name: str) -> None:
        self.hub.objects[PROVIDERS.plural, "", name].pop("status", None)

    async def remove(self, name: str) -> None:
        await self.hub.patch(PROVIDERS, name, "", {"metadata": {"finalizers": []}})
        await self.hub.delete(PROVIDERS, name)


@pytest.fixture
async def owners() -> Any:
    made = Owners()
    for secret in (HONEST, THIEF):
        await made.hub.secret(secret, kubeconfig=GOOD)
    yield made
    await made.supervisor.aclose()


# ---- every order


async def step(owners: Owners, what: str) -> None:
    """One thing that the thief does, or that an admin does in error or for the honest owner."""
    if what == "the honest provider is created":
        return await owners.create(HONEST, HONEST, awaits=False)
    if what == "the honest status is wiped":
        return await owners.wipe(HONEST) if owners.there(HONEST) else None
    if what == "the thief is created":
        return None if owners.there(THIEF) else await owners.create(THIEF, THIEF, awaits=True)
    if not owners.there(THIEF):
        return None
    if what == "it names the other's Secret":
        await owners.name_secret(THIEF, HONEST)
    elif what == "an admin accepts it":
        await owners.accept(THIEF)
    elif what == "it is created again":
        await owners.remove(THIEF)
        await owners.create(THIEF, HONEST, awaits=True)
    elif what == "its status is wiped":
        await owners.wipe(THIEF)
    return None


STEPS = (
    "it names the other's Secret",
    "an admin accepts it",
    "it is created again",
    "its status is wiped",
    "the honest status is wiped",
)


class NoClient:
    """Of a member that nobody dials: making a real one takes longer than all else here."""

    async def close(self) -> None:
        return


async def test_whatever_the_order_what_was_accepted_first_keeps_its_secret_and_its_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All orders of three of the thief's steps, with the honest provider coming at each place among them."""
    monkeypatch.setattr(agents, "member_client", lambda text, **_: text)
    monkeypatch.setattr(KubeClient, "of_member", lambda *_: NoClient())
    count = 0
    for chosen in permutations(STEPS, 3):
        for at in range(len(chosen) + 2):
            order = ["the thief is created", *chosen]
            order.insert(at, "the honest provider is created")
            await _play(order)
            count += 1
    assert count == 300


async def _play(order: list[str]) -> None:
    owners = Owners()
    first: tuple[str, str] | None = None
    for secret in (HONEST, THIEF):
        await owners.hub.secret(secret, kubeconfig=GOOD)
    try:
        for number, what in enumerate(order):
            await step(owners, what)
            await owners.settle()
            on, told = owners.supervisor.on, order[: number + 1]
            held = {name for name, secret in on.items() if secret == HONEST}
            assert len(held) <= 1, f"two agents on one member after {told}"
            if first and not owners.keeps(*first):
                first = None
            if first is None and held:
                (name,) = held
                first = name, owners.see(name).metadata.uid
            if first is not None:
                assert held == {first[0]}, f"{first[0]} lost its agent after {told}"
                assert first[0] not in owners.supervisor.refusals, told
            if owners.there(HONEST) and (first is None or first[0] == HONEST):
                assert owners.says(HONEST) == ("True", "Accepted"), told
                assert on.get(HONEST) == HONEST, f"the honest agent does not run after {told}"
    finally:
        await owners.supervisor.aclose()


async def test_an_owner_that_names_the_others_secret_is_refused_alone(owners: Owners) -> None:
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.create(THIEF, THIEF, awaits=True)
    await owners.settle()
    assert owners.says(THIEF) == ("False", "AwaitingAcceptance")
    await owners.accept(THIEF)
    await owners.settle()
    assert owners.supervisor.on == {HONEST: HONEST, THIEF: THIEF}
    before = {name: running.agent for name, running in owners.supervisor._running.items()}

    await owners.name_secret(THIEF, HONEST)
    await owners.hub.lease(THIEF)
    await owners.settle()
    assert owners.says(THIEF) == ("False", "SecretTaken")
    assert {name: running.agent for name, running in owners.supervisor._running.items()} == before, (
        "nobody's agent ends"
    )
    assert owners.supervisor.refusals == {}
    await owners.accept(THIEF)
    await owners.settle()
    assert owners.says(THIEF) == ("False", "SecretTaken"), "not even an admin's word takes it"
    assert owners.supervisor.on == {HONEST: HONEST, THIEF: THIEF}
    found = find(owners.see(THIEF).status.conditions, "Accepted")
    assert found is not None
    assert f"belongs to provider {HONEST}" in found.message
    assert owners.says(HONEST) == ("True", "Accepted")

    await owners.remove(HONEST)
    await owners.settle()
    assert owners.says(THIEF) == ("True", "Accepted"), "it is free, and an admin has accepted it"


async def test_of_two_that_come_together_one_is_accepted_and_keeps_it(owners: Owners) -> None:
    await owners.create(HONEST, "shared", awaits=False)
    await owners.create(THIEF, "shared", awaits=False)
    await owners.hub.secret("shared", kubeconfig=GOOD)
    await owners.settle()
    assert (owners.says(THIEF), owners.says(HONEST)) == (("True", "Accepted"), ("False", "SecretTaken"))
    for _ in range(2):
        owners.loop = owners.provider_loop()
        owners.clock.forward(1)
        await owners.settle()
        assert owners.supervisor.on == {THIEF: "shared"}


async def test_the_key_of_a_signer_has_one_owner_too(owners: Owners) -> None:
    wallet, signer = "0x" + "66" * 20, "0x" + "77" * 20
    payout = {"address": wallet, "signer": signer, "signerKeySecretRef": {"name": "signer", "key": "key"}}
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.hub.change(HONEST, payout=payout)
    await owners.accept(HONEST)
    await owners.create(THIEF, THIEF, awaits=False)
    await owners.settle()
    await owners.hub.change(THIEF, payout=payout)
    await owners.accept(THIEF)
    await owners.settle()
    assert (owners.says(HONEST), owners.says(THIEF)) == (("True", "Accepted"), ("False", "SecretTaken"))
    changed = {**payout, "signerKeySecretRef": {"name": "other", "key": "key"}}
    await owners.hub.change(HONEST, payout=changed)
    await owners.settle()
    assert owners.says(HONEST) == ("False", "OfferChanged"), "which key signs is accepted as well"


# ---- what is not accepted has no effect


@pytest.mark.parametrize(
    "change",
    [
        {"location": {"country": "SG"}, "compliance": ["HIPAA"]},
        {"payout": {"address": "0x" + "66" * 20}},
    ],
)
async def test_a_change_that_waits_leaves_the_agent_as_it_is_and_places_nothing(
    owners: Owners, change: dict[str, Any]
) -> None:
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.settle()
    before = owners.supervisor._running[HONEST]
    await owners.hub.change(HONEST, **change)
    await owners.settle()
    assert owners.says(HONEST) == ("False", "OfferChanged")
    assert not is_ready(owners.see(HONEST))
    assert owners.supervisor._running[HONEST] is before
    await owners.hub.secret(HONEST, kubeconfig=GOOD.replace("6443", "443"))
    await owners.settle()
    assert owners.supervisor._running[HONEST] is not before, "credentials of the accepted connection rotate meanwhile"


async def test_another_connection_is_not_dialled_before_it_is_accepted(owners: Owners) -> None:
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.settle()
    await owners.hub.lease(HONEST)
    await owners.hub.secret("next", kubeconfig=GOOD)
    await owners.name_secret(HONEST, "next")
    await owners.settle()
    assert owners.supervisor.on == {HONEST: HONEST}, "what runs is metered and stopped where it runs"
    await owners.hub.delete(LEASES, "one", f"fedgpu-provider-{HONEST}")
    await owners.settle()
    assert owners.supervisor.on == {}
    assert owners.says(HONEST, "Connected") == ("Unknown", "NotAccepted")
    await owners.accept(HONEST)
    await owners.settle()
    assert owners.supervisor.on == {HONEST: "next"}


# ---- withdrawn


async def test_a_withdrawn_provider_keeps_its_agent_until_its_last_lease_is_gone(owners: Owners) -> None:
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.settle()
    await owners.hub.lease(HONEST)
    await owners.withdraw(HONEST)
    await owners.settle()
    assert owners.says(HONEST) == ("False", "Withdrawn")
    assert not is_ready(owners.see(HONEST))
    assert owners.supervisor.on == {HONEST: HONEST}
    assert owners.supervisor.winds_down(f"fedgpu-provider-{HONEST}"), "the end of its last lease wakes the supervisor"

    again = Supervisor(owners.hub, owners.clock, Settings.from_env({}), "hub")
    await again.pass_once()
    assert again.on == {HONEST: HONEST}, "a restart of the operator in between leaves nothing unmetered"
    await again.aclose()

    await owners.hub.delete(LEASES, "one", f"fedgpu-provider-{HONEST}")
    await owners.settle()
    assert owners.supervisor.on == {}
    assert not owners.supervisor.winds_down(f"fedgpu-provider-{HONEST}")


async def test_a_lease_that_ended_needs_the_agent_again_when_its_member_is_to_be_cleared(owners: Owners) -> None:
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.settle()
    await owners.hub.lease(HONEST)
    await owners.withdraw(HONEST)
    ended = owners.hub.objects[LEASES.plural, f"fedgpu-provider-{HONEST}", "one"]
    complete = condition("Complete", "True", "Succeeded", owners.clock.now())
    ended["status"] = {"state": "Succeeded", "observedGeneration": 1, "conditions": [complete]}
    await owners.settle()
    assert owners.supervisor.on == {}, "its finished Job stays for its owner to look at"
    ended["spec"]["desired"] = "Stop"
    ended["metadata"]["generation"] = 2
    await owners.settle()
    assert owners.supervisor.on == {HONEST: HONEST}
    ended["status"]["observedGeneration"] = 2
    await owners.settle()
    assert owners.supervisor.on == {}


async def test_without_leases_the_agent_of_a_withdrawn_provider_ends_at_the_next_pass(owners: Owners) -> None:
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.settle()
    await owners.withdraw(HONEST)
    await owners.settle()
    assert owners.supervisor.on == {}
    record = owners.see(HONEST).status.acceptance
    assert record is not None
    assert record.withdrawn_at == NOW, "what was accepted stays on record"

    await owners.create(THIEF, HONEST, awaits=False)
    await owners.hub.patch(PROVIDERS, HONEST, "", {"spec": {"acceptance": None}})
    await owners.hub.change(HONEST, displayName="Honest")
    await owners.settle()
    assert owners.says(HONEST) == ("False", "Withdrawn"), "no owner and no creation undoes it"
    assert owners.says(THIEF) == ("False", "SecretTaken")
    await owners.accept(HONEST)
    await owners.settle()
    assert owners.says(HONEST) == ("True", "Accepted")
    assert owners.supervisor.on == {HONEST: HONEST}


async def test_an_object_of_the_same_name_inherits_no_agent(owners: Owners) -> None:
    await owners.create(HONEST, HONEST, awaits=False)
    await owners.settle()
    await owners.hub.lease(HONEST)
    await owners.remove(HONEST)
    await owners.create(HONEST, HONEST, awaits=True)
    await owners.settle()
    assert owners.supervisor.on == {}
    assert owners.says(HONEST) == ("False", "AwaitingAcceptance")
