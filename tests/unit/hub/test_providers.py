"""What the hub says of a provider: acceptance binds, silence is unknown, refusal is false, nothing is verified yet."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.world import H100, PROVIDERS, World, condition

from fedgpu_operator.adapters.ledger import SqlLedger
from fedgpu_operator.agent.decide import ConditionState
from fedgpu_operator.agent.report import conditions_of
from fedgpu_operator.api.base import PASSING, find
from fedgpu_operator.api.computelease import PROVIDER_LABEL
from fedgpu_operator.api.gpuprovider import (
    GPUProvider,
    GPUProviderStatus,
    Inventory,
)
from fedgpu_operator.api.providerreport import ProviderReport
from fedgpu_operator.errors import InvalidResourceError, LedgerUnreachableError
from fedgpu_operator.hub.views.accounts import ProofVerdict
from fedgpu_operator.hub.views.providers import ProviderFacts, awaits_report, is_ready, provider_status
from fedgpu_operator.ports import NAMESPACES, ResourceType

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TIMEOUT = timedelta(seconds=30)
Mode = Literal["OnCreate", "Manual"]
STOCK = [Inventory(product=H100, nodes=1, total=8, free=5)]


def provider(
    status: GPUProviderStatus | None = None,
    acceptance: dict[str, Any] | None = None,
    deleted: bool = False,
    **spec: Any,
) -> GPUProvider:
    body = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "berlin"}},
        "offers": [{"product": H100, "pricePerGPUHour": "1.25"}],
        "acceptance": acceptance or {},
        **spec,
    }
    meta: dict[str, Any] = {"name": "berlin", "generation": 1}
    if deleted:
        meta["deletionTimestamp"] = "2026-01-01T11:00:00Z"
    made = GPUProvider.parse({"metadata": meta, "spec": body})
    return made if status is None else made.model_copy(update={"status": status})


def report(reachable: str = "True", reason: str = "Answering", trips: list[float] | None = None) -> ProviderReport:
    status = {
        "conditions": [condition("Reachable", reachable, reason, NOW)],
        "observedAt": "2026-01-01T12:00:00Z",
        "roundTripsMs": trips or [],
    }
    return ProviderReport.parse({"metadata": {"name": "berlin"}, "spec": {"provider": "berlin"}, "status": status})


WELL = ProviderFacts(provider(), report(), NOW, None, "fedgpu-provider-berlin", STOCK, 1)
REFUSED = InvalidResourceError("KubeconfigRefused", "user.exec is refused: it would run a program")
TAKEN = InvalidResourceError("NamespaceTaken", "namespace exists")
NO_SECRET = InvalidResourceError("SecretNotFound", "Secret acme does not exist")
HINDERED = InvalidResourceError("AgentNotStarted", "Unreachable: GET secrets/acme: 500")


def judge(facts: ProviderFacts, now: datetime = NOW, mode: Mode = "OnCreate") -> GPUProviderStatus:
    return provider_status(facts, now, acceptance=mode, enforced=True, timeout=TIMEOUT)


def says(status: GPUProviderStatus, kind: str) -> str:
    found = find(status.conditions, kind)
    return f"{found.status} {found.reason}" if found else ""


@pytest.mark.parametrize(
    ("facts", "after", "connected", "state"),
    [
        (WELL, 0, "True Answering", "Ready"),
        (WELL, 30, "True Answering", "Ready"),
        (WELL, 31, "Unknown MemberSilent", "Unreachable"),
        (replace(WELL, heartbeat=None, report=None), 0, "Unknown AwaitingReport", "Pending"),
        (replace(WELL, heartbeat=None), 0, "Unknown AwaitingReport", "Pending"),
        (replace(WELL, report=report("Unknown", "Timeout")), 0, "Unknown Timeout", "Unreachable"),
        (replace(WELL, report=report("False", "Forbidden")), 0, "False Forbidden", "NotReady"),
        (replace(WELL, refusal=REFUSED), 0, "False KubeconfigRefused", "NotReady"),
        (replace(WELL, stock=[]), 0, "True Answering", "NotReady"),
        (replace(WELL, provider=provider(deleted=True)), 0, "True Answering", "NotReady"),
    ],
)
def test_silence_is_unknown_and_refusal_is_false(facts: ProviderFacts, after: int, connected: str, state: str) -> None:
    status = judge(facts, NOW + timedelta(seconds=after))
    assert says(status, "Connected") == connected
    assert status.state == state
    assert status.free_gpus == (5 if state == "Ready" else 0), "free is what can be let"


@pytest.mark.parametrize(
    ("leases", "running", "reason", "words"),
    [
        (2, 1, "Draining", "takes no new work; 2 leases left"),
        (0, 1, "Draining", "takes no new work; 1 lease left"),
        (0, 0, "Drained", "takes no new work, and none is left"),
    ],
)
def test_a_provider_that_is_drained_says_so_and_how_far_it_is(
    leases: int, running: int, reason: str, words: str
) -> None:
    facts = replace(WELL, leases=leases, running=running)
    drained = judge(replace(facts, provider=provider(drain=True)))
    found = find(drained.conditions, "Draining")
    assert found is not None
    assert (found.status, found.reason, found.message) == ("True", reason, words)
    assert (drained.state, drained.free_gpus, says(drained, "Ready")) == ("Draining", 0, "True Ready")
    back = judge(replace(facts, provider=provider(drained)))
    assert (back.state, back.free_gpus, says(back, "Draining")) == ("Ready", 5, "")
    silent = judge(replace(facts, provider=provider(drain=True), heartbeat=None, report=None))
    assert (silent.state, says(silent, "Draining")) == ("Pending", f"True {reason}")


REFUSALS = {
    "Reconciling": ("AgentNotStarted", "SecretNotFound"),
    "Stalled": (
        *("SecretRefused", "SecretTaken", "KubeconfigRefused", "NamespaceTaken"),
        *("NoSignerKey", "SignerKeyRefused", "SignerMismatch", "SignerRefused"),
    ),
}
REPORTED = {
    "False": ("Unauthorized", "Forbidden", "CertificateRefused", "MemberTooLarge"),
    "Unknown": ("Unreachable", "AnswerTooLarge", "BudgetExceeded"),
}


@pytest.mark.parametrize(("kind", "why"), [(kind, why) for kind, found in REFUSALS.items() for why in found])
def test_only_what_waiting_does_not_mend_is_stalled(kind: str, why: str) -> None:
    status = judge(replace(WELL, refusal=InvalidResourceError(why, "in words")))
    assert says(status, "Ready") == f"False {why}"
    assert [each.type for each in status.conditions if each.type in PASSING] == [kind]


@pytest.mark.parametrize(("known", "why"), [(known, why) for known, found in REPORTED.items() for why in found])
def test_a_provider_is_stalled_by_the_reasons_that_stall_its_report(known: Any, why: str) -> None:
    status = judge(replace(WELL, report=report(known, why)))
    reported = conditions_of([], ConditionState(known, why), now=NOW, generation=1)
    kind = "Stalled" if known == "False" else "Reconciling"
    for conditions in (status.conditions, reported):
        assert [each.type for each in conditions if each.type in PASSING] == [kind]


def test_a_member_without_the_offered_gpus_is_not_ready() -> None:
    assert says(judge(replace(WELL, stock=[])), "Ready") == "False NoGPUs"


PAID = {"address": "0x" + "66" * 20}


@pytest.mark.parametrize(
    ("payout", "proof", "ready"),
    [
        (None, None, "True Ready"),
        (PAID, None, "True Ready"),
        (None, ProofVerdict("False", "set spec.payout.address"), "False NoPayout"),
        (PAID, ProofVerdict("False", "run fedgpu provider prove berlin"), "False WalletUnproven"),
        (PAID, ProofVerdict("Unknown", "the chain does not say"), "Unknown ChainUnreachable"),
        (PAID, ProofVerdict("True", "agreed"), "True Ready"),
    ],
)
def test_where_there_is_settlement_the_payout_wallet_must_agree(
    payout: dict[str, str] | None, proof: ProofVerdict | None, ready: str
) -> None:
    named = provider(payout=payout) if payout else provider()
    status = judge(replace(WELL, provider=named, proof=proof))
    assert says(status, "Ready") == ready
    assert (status.state == "Ready") == (ready == "True Ready")
    found = find(status.conditions, "Ready")
    assert found is not None
    if proof is not None and not proof.proven:
        assert found.message == proof.message, "it says what to run"


@given(
    st.sampled_from([WELL, replace(WELL, refusal=REFUSED), replace(WELL, report=None), replace(WELL, stock=[])]),
    st.integers(0, 100_000),
    st.sampled_from(["OnCreate", "Manual"]),
)
def test_verified_stays_unknown_and_ready_needs_all_the_others(facts: ProviderFacts, after: int, mode: Mode) -> None:
    status = judge(facts, NOW + timedelta(seconds=after), mode)
    assert says(status, "Verified") == "Unknown NotProbed"
    if says(status, "Ready").startswith("True"):
        assert says(status, "Accepted").startswith("True")
        assert says(status, "Connected").startswith("True")
        assert status.state == "Ready"


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"offers": [{"product": H100, "pricePerGPUHour": "9.99"}]}, True),
        ({"displayName": "Berlin"}, True),
        ({"location": {"country": "US"}}, False),
        ({"compliance": ["HIPAA"]}, False),
        ({"payout": {"address": "0x" + "66" * 20}}, False),
        ({"connection": {"kubeconfigSecretRef": {"name": "other"}}}, False),
    ],
)
def test_acceptance_binds_location_claims_wallet_and_endpoint(change: dict[str, Any], kept: bool) -> None:
    accepted = judge(WELL)
    changed = provider(accepted, **change)
    status = judge(replace(WELL, provider=changed))
    assert says(status, "Accepted") == ("True Accepted" if kept else "False OfferChanged")
    assert is_ready(changed.model_copy(update={"status": status})) == kept
    assert status.acceptance == accepted.acceptance, "what was accepted is remembered"
    if not kept:
        digest = changed.spec.acceptance_hash()
        found = find(status.conditions, "Accepted")
        assert found is not None
        assert f"accepts {digest} with: fedgpu provider accept" in found.message, "the fix is in the message"
        again = judge(replace(WELL, provider=provider(status, {"hash": digest}, **change)))
        assert says(again, "Accepted") == "True Accepted"
        assert again.acceptance is not None
        assert again.acceptance.hash == digest


def test_in_manual_mode_only_the_right_hash_accepts() -> None:
    assert says(judge(WELL, mode="Manual"), "Accepted") == "False AwaitingAcceptance"
    assert judge(WELL, mode="Manual").acceptance is None
    wrong = replace(WELL, provider=provider(acceptance={"hash": "0" * 32}))
    assert says(judge(wrong, mode="Manual"), "Accepted") == "False AwaitingAcceptance"
    digest = provider().spec.acceptance_hash()
    right = replace(WELL, provider=provider(acceptance={"hash": digest}))
    assert says(judge(right, mode="Manual"), "Accepted") == "True Accepted"


def test_a_taken_namespace_is_not_accepted() -> None:
    status = judge(replace(WELL, refusal=TAKEN))
    assert says(status, "Accepted") == "False NamespaceTaken"
    assert status.acceptance is None


@pytest.mark.parametrize(
    ("offers", "products", "price"),
    [
        ({"H100": "1.25"}, "H100", "1.25"),
        ({"H100": "1.25", "L4": "0.40", "A100": "10.5"}, "H100 +2", "0.40-10.5"),
        ({"H100": "1.25", "L4": "1.250"}, "H100 +1", "1.25"),
    ],
)
def test_the_columns_speak_of_all_products(offers: dict[str, str], products: str, price: str) -> None:
    named = provider(offers=[{"product": name, "pricePerGPUHour": usd} for name, usd in offers.items()])
    status = judge(replace(WELL, provider=named))
    assert (status.products, status.price) == (products, price)
    paths = {column.name: column.path for column in GPUProvider.info.columns}
    assert (paths["Products"], paths["Price"]) == (".status.products", ".status.price")


def test_latency_is_of_the_samples_and_outlives_them() -> None:
    status = judge(replace(WELL, report=report(trips=[10, 20, 30, 40, 1000])))
    assert status.latency is not None
    assert (status.latency.p50_ms, status.latency.p95_ms) == (30, 808)
    later = judge(replace(WELL, provider=provider(status), report=None))
    assert later.latency == status.latency
    one = judge(replace(WELL, report=report(trips=[7])))
    assert one.latency is not None
    assert (one.latency.p50_ms, one.latency.p95_ms) == (7, 7)


def test_who_has_not_reported_is_waited_for() -> None:
    assert awaits_report(provider())
    first = judge(replace(WELL, report=None, heartbeat=None))
    assert awaits_report(provider(first))
    assert not awaits_report(provider(judge(WELL)))
    assert not awaits_report(provider(judge(WELL, NOW + timedelta(minutes=9)))), "silent is not new"


class Hub:
    """The provider loop over a hub in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.refusals: dict[str, InvalidResourceError] = {}

    async def passes(self, times: int = 1) -> None:
        for _ in range(times):
            factory = self.world.factory()
            factory.proofs = self.world.proofs
            factory.supervisor.refusals = self.refusals
            assert await factory.provider_loop().pass_once() == 10

    async def add(self, name: str = "berlin") -> None:
        spec = provider().spec.to_wire()
        await self.world.kube.create(ResourceType.of(GPUProvider.info), {"metadata": {"name": name}, "spec": spec})

    def see(self, name: str = "berlin") -> GPUProvider:
        return GPUProvider.parse(self.world.kube.objects["gpuproviders", "", name])


@pytest.fixture
def hub(world: World) -> Hub:
    return Hub(world)


async def test_a_new_provider_gets_its_namespace_and_a_status(hub: Hub) -> None:
    await hub.add()
    await hub.passes(3)
    space = hub.world.kube.objects["namespaces", "", "fedgpu-provider-berlin"]
    assert space["metadata"]["labels"] == {PROVIDER_LABEL: "berlin"}
    status = hub.see().status
    assert (status.state, status.namespace) == ("Pending", "fedgpu-provider-berlin")
    assert says(status, "Accepted") == "True Accepted"
    assert hub.world.events() == [], "that nothing is known yet is no news"
    writes = len(hub.world.kube.writes)
    await hub.passes(2)
    assert len(hub.world.kube.writes) == writes, "nothing new is written again"


async def test_a_namespace_that_was_there_before_is_refused_and_left_alone(hub: Hub) -> None:
    await hub.world.kube.create(NAMESPACES, {"metadata": {"name": "fedgpu-provider-berlin"}})
    await hub.add()
    await hub.passes(3)
    assert says(hub.see().status, "Accepted") == "False NamespaceTaken"
    assert "labels" not in hub.world.kube.objects["namespaces", "", "fedgpu-provider-berlin"]["metadata"]
    assert ("Warning", "NamespaceTaken") in hub.world.events()


async def test_a_refused_kubeconfig_is_told_once(hub: Hub) -> None:
    await hub.add()
    hub.refusals["berlin"] = REFUSED
    await hub.passes(4)
    assert says(hub.see().status, "Connected") == "False KubeconfigRefused"
    assert hub.world.events() == [("Warning", "KubeconfigRefused")]


async def test_a_deleted_provider_stays_until_its_work_has_ended(hub: Hub, ledger: SqlLedger, clock: FakeClock) -> None:
    world = hub.world
    await world.provider("berlin")
    await hub.passes(2)
    await world.ready("berlin")
    await world.job()
    await world.pass_once()
    await world.kube.delete(PROVIDERS, "berlin")
    await hub.passes(2)
    assert says(hub.see().status, "Ready") == "False Terminating"
    clock.forward(2)
    await world.ends(world.lease, gpu_seconds=2)
    await world.pass_once()
    await hub.passes(2)
    assert ("gpuproviders", "", "berlin") not in world.kube.objects
    assert await ledger.open_attempts() == ()


async def test_a_tombstone_that_nobody_can_clear_holds_no_provider(hub: Hub, clock: FakeClock) -> None:
    """Its lease was deleted by hand and its member has gone for good: there is no work and no money in it."""
    world = hub.world
    await world.provider("berlin")
    await hub.passes(2)
    await world.ready("berlin")
    await world.job()
    await world.pass_once()
    clock.forward(2)
    await world.ends(world.lease, gpu_seconds=2)
    await world.pass_once()
    world.lose(world.lease)
    await world.ready("berlin", "Unknown", "MemberSilent", state="Unreachable")
    await world.delete("train")
    await world.pass_once()
    assert (world.exists(), world.lease.spec.desired) == (False, "Stop")
    await world.kube.delete(PROVIDERS, "berlin")
    await hub.passes(2)
    assert ("gpuproviders", "", "berlin") not in world.kube.objects
    await world.pass_once()
    assert world.leases == []


async def test_while_the_ledger_does_not_answer_conditions_go_on_and_nobody_is_let_go(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: SqlLedger) -> None:
        raise LedgerUnreachableError("the ledger does not answer")

    await hub.world.provider("berlin")
    await hub.add("paris")
    await hub.passes(2)
    hub.refusals["paris"] = REFUSED
    await hub.world.kube.delete(PROVIDERS, "berlin")
    with monkeypatch.context() as patched:
        patched.setattr(SqlLedger, "open_attempts", silent)
        await hub.passes(2)
    assert says(hub.see("paris").status, "Connected") == "False KubeconfigRefused"
    assert ("gpuproviders", "", "berlin") in hub.world.kube.objects, "what it still runs is not known"
    await hub.passes(2)
    assert ("gpuproviders", "", "berlin") not in hub.world.kube.objects
