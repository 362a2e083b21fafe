"""The supervisor of the Push agents: the trouble of one provider stays with it."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.hub.fakes import FakeClock, FakeKube

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.adapters.kube.client import MEMBER, KubeClient
from fedgpu_operator.agent import KEPT, Signing
from fedgpu_operator.api.base import JSONObject
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider
from fedgpu_operator.bootstrap.agents import AgentSupervisor
from fedgpu_operator.errors import ForbiddenError, UnreachableError
from fedgpu_operator.ports import NAMESPACES, NODES, SECRETS, ResourceType
from fedgpu_operator.settings import Settings

KEY, OTHER_KEY = "0x" + "c3" * 32, "0x" + "d4" * 32
SIGNER, OTHER, METER = LocalSigner(KEY), LocalSigner(OTHER_KEY), LocalSigner("0x" + "e5" * 32)
PAYOUT = LocalSigner("0x" + "b2" * 32).address
PROVIDERS = ResourceType.of(GPUProvider.info)
LEASES = ResourceType.of(ComputeLease.info)
OBJECTS = Path(__file__).resolve().parents[2] / "integration" / "api" / "objects" / "minimal"
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

    async def provider(self, name: str, kubeconfig: str = GOOD, **spec: Any) -> None:
        """Accepted, with its namespace and its Secret."""
        offer = {"product": "NVIDIA-L4", "pricePerGPUHour": "1"}
        body = {
            "location": {"country": "DE"},
            "connection": {"kubeconfigSecretRef": {"name": name}},
            "offers": [offer],
            **spec,
        }
        await self.create(PROVIDERS, {"metadata": {"name": name}, "spec": body})
        await self.accept(name)
        await self.create(NAMESPACES, {"metadata": {"name": f"fedgpu-provider-{name}"}})
        await self.secret(name, kubeconfig=kubeconfig)

    async def accept(self, name: str, after: float = 0, **spec: Any) -> None:
        """With these changes of its spec, so many seconds from now."""
        changed = GPUProvider.parse(await self.patch(PROVIDERS, name, "", {"spec": spec}))
        acceptance = Acceptance.of(changed.spec, NOW + timedelta(seconds=after)).to_wire()
        await self.patch_status(PROVIDERS, name, "", {"status": {"acceptance": None}})
        await self.patch_status(PROVIDERS, name, "", {"status": {"acceptance": acceptance}})

    async def change(self, name: str, **spec: Any) -> None:
        """What the owner may do: another spec, which nobody has accepted."""
        await self.patch(PROVIDERS, name, "", {"spec": spec})

    async def withdraw(self, name: str) -> None:
        await self.patch_status(PROVIDERS, name, "", {"status": {"acceptance": {"withdrawnAt": NOW.isoformat()}}})

    async def lease(self, provider: str, name: str = "one") -> None:
        """Something that must be metered and stopped there."""
        body = yaml.safe_load((OBJECTS / "computelease.yaml").read_text())
        body["metadata"] |= {"name": name, "namespace": f"fedgpu-provider-{provider}"}
        body["spec"]["provider"] = provider
        await self.create(LEASES, body)

    async def secret(self, name: str, **texts: str) -> None:
        data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        meta = {"name": name, "namespace": "fedgpu-system"}
        await self.apply(SECRETS, {"metadata": meta, "data": data})


class Supervisor(AgentSupervisor):
    """Notes the agents it would start."""

    def __init__(self, hub: Hub, environ: dict[str, str] | None = None) -> None:
        settings = Settings.from_env({"FEDGPU_NAMESPACE": "fedgpu-system", **(environ or {})})
        super().__init__(hub, FakeClock(NOW), settings, "hub", reserved=[METER.address])
        self.started: list[str] = []
        self.signings: list[Signing | None] = []
        self.members: list[KubeClient] = []
        self.made_of: list[str] = []

    def _start(self, provider: GPUProvider, member: KubeClient, signing: Signing | None, made_of: str) -> None:
        self.started.append(provider.metadata.name)
        self.signings.append(signing)
        self.members.append(member)
        self.made_of.append(made_of)


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
    await hub.accept("acme", connection={"kubeconfigSecretRef": {"name": "berlin"}})
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


async def test_certificates_are_checked_as_strictly_as_the_provider_was_accepted_with() -> None:
    hub = Hub()
    await hub.provider("acme")
    await hub.provider("berlin", connection={"kubeconfigSecretRef": {"name": "berlin"}, "tls": {"x509Strict": False}})
    supervisor = Supervisor(hub)
    await supervisor.pass_once()

    def strict() -> dict[str, bool]:
        flags = [member._api.rest_client.ssl_context.verify_flags for member in supervisor.members]
        return dict(zip(supervisor.started, (bool(each & ssl.VERIFY_X509_STRICT) for each in flags), strict=True))

    assert strict() == {"acme": True, "berlin": False}
    await hub.patch(PROVIDERS, "acme", "", {"spec": {"connection": {"tls": {"x509Strict": False}}}})
    supervisor.started.clear()
    supervisor.members.clear()
    await supervisor.pass_once()
    assert strict() == {"acme": True, "berlin": False}, "what nobody accepted changes nothing"


async def test_what_an_owner_says_of_its_nodes_takes_effect_with_the_next_pass() -> None:
    hub = Hub()
    await hub.provider("acme")
    supervisor = Supervisor(hub)
    await supervisor.pass_once()
    inventory = {"rules": [{"matchLabels": {"pool": "big"}, "product": "NVIDIA-L40S"}]}
    await hub.patch(PROVIDERS, "acme", "", {"spec": {"inventory": inventory}})
    await supervisor.pass_once()
    await supervisor.pass_once()
    before, after, same = supervisor.made_of
    assert before != after == same, "an agent that is made of something else is started again"
    node = {"metadata": {"name": "n", "labels": {"pool": "big", "other": "x"}}}
    keep = supervisor.members[-1]._keeps[NODES]
    assert keep(node)["metadata"]["labels"] == {"pool": "big"}


async def test_every_member_has_the_limits_and_a_budget_of_a_stranger() -> None:
    hub = Hub()
    await hub.provider("acme")
    await hub.provider("berlin")
    supervisor = Supervisor(hub)
    await supervisor.pass_once()
    one, other = supervisor.members
    assert (one._limits, one._cleans, one._keeps) == (MEMBER, True, KEPT)
    assert one._budget is not None
    assert one._budget is not other._budget
    await hub.secret("acme", kubeconfig=GOOD + "\n")
    await supervisor.pass_once()
    assert supervisor.members[2]._budget is one._budget, "starting again refills nothing"


# ---- the key that signs usage


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, str]:
    """Settings of an operator that settles on chain."""
    key = tmp_path / "settler"
    key.write_text("0x" + "77" * 32)
    return {
        "FEDGPU_CHAIN_RPC_URL": "http://127.0.0.1:8545",
        "FEDGPU_CHAIN_ID": "31337",
        "FEDGPU_ESCROW_ADDRESS": "0x" + "11" * 20,
        "FEDGPU_SETTLER_KEY_FILE": str(key),
    }


def payout(signer: str = SIGNER.address, ref: str | None = "acme-signer") -> dict[str, Any]:
    named = {"signerKeySecretRef": {"name": ref, "key": "key"}} if ref is not None else {}
    return {"address": PAYOUT, "signer": signer, **named}


async def test_the_agent_signs_with_the_key_that_its_provider_names(chain: dict[str, str]) -> None:
    hub = Hub()
    await hub.provider("acme", payout=payout())
    await hub.secret("acme-signer", key=KEY + "\n")
    supervisor = Supervisor(hub, chain)
    await supervisor.pass_once()
    (signing,) = supervisor.signings
    assert signing is not None
    assert signing.signer.address == SIGNER.address
    assert (signing.payout, signing.chain_id, signing.escrow) == (PAYOUT, 31337, "0x" + "11" * 20)


async def test_without_settlement_no_key_is_read() -> None:
    hub = Hub()
    await hub.provider("acme", payout=payout())
    hub.troubles["acme-signer"] = ZeroDivisionError("read")
    supervisor = Supervisor(hub)
    await supervisor.pass_once()
    assert supervisor.signings == [None]


@pytest.mark.parametrize(
    ("spec", "held", "why"),
    [
        (payout(), OTHER_KEY, "SignerMismatch"),
        (payout(), "no key at all", "SignerKeyRefused"),
        (payout(), "0x" + "00" * 32, "SignerKeyRefused"),
        (payout(), None, "SecretNotFound"),
        (payout(ref=None), KEY, "NoSignerKey"),
        (payout(METER.address), "0x" + "e5" * 32, "SignerRefused"),
    ],
)
async def test_a_key_that_is_not_the_signers_starts_nothing_and_is_not_told(
    spec: dict[str, Any], held: str | None, why: str, chain: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    await hub.provider("acme", payout=spec)
    await hub.provider("berlin")
    if held is not None:
        await hub.secret("acme-signer", key=held)
    supervisor = Supervisor(hub, chain)
    await supervisor.pass_once()
    assert supervisor.started == ["berlin"]
    refusal = supervisor.refusals["acme"]
    assert refusal.why == why
    told = str(refusal) + caplog.text
    assert held is None or held.removeprefix("0x") not in told


async def test_a_secret_that_is_no_text_starts_nothing(chain: dict[str, str]) -> None:
    hub = Hub()
    await hub.provider("acme", payout=payout())
    await hub.secret("acme-signer", key=KEY)
    hub.objects[SECRETS.plural, "fedgpu-system", "acme-signer"]["data"]["key"] = "/w=="
    supervisor = Supervisor(hub, chain)
    await supervisor.pass_once()
    assert (supervisor.started, supervisor.refusals["acme"].why) == ([], "SecretRefused")


async def test_nobody_signs_with_the_key_that_an_older_provider_named(chain: dict[str, str]) -> None:
    hub = Hub()
    await hub.provider("acme", payout=payout())
    await hub.secret("acme-signer", key=KEY)
    await hub.provider("thief", payout=payout())
    hub.objects[PROVIDERS.plural, "", "thief"]["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
    supervisor = Supervisor(hub, chain)
    await supervisor.pass_once()
    assert supervisor.started == ["acme"]
    assert supervisor.refusals["thief"].why == "SecretTaken"


async def test_a_rotation_starts_the_agent_anew_and_a_wrong_key_ends_no_work(chain: dict[str, str]) -> None:
    hub = Hub()
    await hub.provider("acme", payout=payout())
    await hub.secret("acme-signer", key=KEY)
    settings = Settings.from_env({"FEDGPU_NAMESPACE": "fedgpu-system", **chain})
    supervisor = AgentSupervisor(hub, FakeClock(NOW), settings, "hub")
    try:
        await supervisor.pass_once()
        first = supervisor._running["acme"]
        await supervisor.pass_once()
        assert supervisor._running["acme"] is first
        await hub.accept("acme", payout=payout(OTHER.address))
        await supervisor.pass_once()
        assert supervisor._running["acme"] is first, "the Secret still holds the old key: what runs goes on"
        assert supervisor.refusals["acme"].why == "SignerMismatch"
        await hub.secret("acme-signer", key=OTHER_KEY)
        await supervisor.pass_once()
        assert supervisor._running["acme"] is not first
        assert first.task.done()
        assert not supervisor.refusals
    finally:
        await supervisor.aclose()
