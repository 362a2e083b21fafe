"""By whose word a provider is accepted: its creator's, if that creator had the right, or a hash that somebody set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fedgpu_operator.api.gpuprovider import Acceptance, GPUProvider
from fedgpu_operator.hub.views.trust import Mode, judge_acceptance, secret_owners

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD: dict[str, Any] = {"compliance": []}
NEW: dict[str, Any] = {"compliance": ["HIPAA"]}
WITHDRAWN = "withdrawn"


def provider(
    change: dict[str, Any] = OLD,
    *,
    accept: str | None = None,
    awaits: bool = False,
    generation: int = 1,
    accepted: dict[str, Any] | None = None,
    withdrawn: bool = False,
    name: str = "berlin",
    after: float = 0,
) -> GPUProvider:
    """One whose spec has that change; `accepted` is the change that the hub accepted, `after` when (seconds).

    `accept` is the hash that a platform admin wrote, or `WITHDRAWN`.
    """
    said = {"withdrawn": True} if accept == WITHDRAWN else {"hash": accept}
    body = {
        "location": {"country": "DE"},
        "connection": {"kubeconfigSecretRef": {"name": "berlin"}},
        "offers": [{"product": "NVIDIA-L4", "pricePerGPUHour": "1.25"}],
        "acceptance": {"awaited": awaits, **said},
        **change,
    }
    meta = {"name": name, "generation": generation}
    made = GPUProvider.parse({"metadata": meta, "spec": body})
    if accepted is None:
        return made
    record = Acceptance.of(provider(accepted).spec, NOW + timedelta(seconds=after))
    record = record.model_copy(update={"withdrawn_at": NOW if withdrawn else None})
    return made.model_copy(update={"status": made.status.model_copy(update={"acceptance": record})})


HASH = {"old": provider(OLD).spec.acceptance_hash(), "new": provider(NEW).spec.acceptance_hash()}


@pytest.mark.parametrize(
    ("made", "on_create", "manual"),
    [
        (provider(), "Accepted", "AwaitingAcceptance"),
        (provider(awaits=True), "AwaitingAcceptance", "AwaitingAcceptance"),
        # Whoever changed it had the right: without it, it says that it awaits acceptance.
        (provider(generation=2), "Accepted", "AwaitingAcceptance"),
        (provider(generation=2, awaits=True), "AwaitingAcceptance", "AwaitingAcceptance"),
        (provider(accept=HASH["old"], awaits=True, generation=7), "Accepted", "Accepted"),
        (provider(accept="0" * 32), "AwaitingAcceptance", "AwaitingAcceptance"),
        (provider(accept=WITHDRAWN), "Withdrawn", "Withdrawn"),
        (provider(accepted=OLD, generation=2), "Accepted", "Accepted"),
        (provider(accepted=OLD, awaits=True, generation=9), "Accepted", "Accepted"),
        (provider(NEW, accepted=OLD), "OfferChanged", "OfferChanged"),
        (provider(NEW, accept=HASH["old"], accepted=OLD), "OfferChanged", "OfferChanged"),
        (provider(NEW, accept=HASH["new"], accepted=OLD), "Accepted", "Accepted"),
        # Back to what was accepted once, and is not what was accepted last.
        (provider(OLD, accept=HASH["new"], accepted=NEW), "OfferChanged", "OfferChanged"),
        (provider(accept=WITHDRAWN, accepted=OLD), "Withdrawn", "Withdrawn"),
        (provider(accepted=OLD, withdrawn=True), "Withdrawn", "Withdrawn"),
        (provider(NEW, accept=HASH["old"], accepted=OLD, withdrawn=True), "Withdrawn", "Withdrawn"),
        (provider(accept=HASH["old"], accepted=OLD, withdrawn=True), "Accepted", "Accepted"),
    ],
)
def test_who_accepts_a_provider_and_what_takes_it_back(made: GPUProvider, on_create: str, manual: str) -> None:
    modes: dict[Mode, str] = {"OnCreate": on_create, "Manual": manual}
    for mode, reason in modes.items():
        finding, record = judge_acceptance(made, NOW, mode=mode, enforced=True, taken="")
        assert (finding.reason, finding.status) == (reason, "True" if reason == "Accepted" else "False")
        if reason == "Accepted":
            assert record is not None
            assert (record.hash, record.withdrawn_at) == (made.spec.acceptance_hash(), None)
        else:
            assert made.spec.acceptance_hash() in finding.message, "what would be accepted is in the message"
            assert "fedgpu provider accept berlin --confirm" in finding.message, "and so is how"
            assert (record is None) == (made.status.acceptance is None), "what was accepted stays on record"


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (provider(), "AcceptanceNotEnforced"),
        (provider(NEW, accept=HASH["new"], accepted=OLD), "AcceptanceNotEnforced"),
        (provider(accepted=OLD), "Accepted"),
        (provider(accept=WITHDRAWN, accepted=OLD), "Withdrawn"),
        (provider(awaits=True), "AwaitingAcceptance"),
    ],
)
def test_on_a_hub_where_owners_could_accept_themselves_nothing_new_is_accepted(made: GPUProvider, reason: str) -> None:
    finding, record = judge_acceptance(made, NOW, mode="OnCreate", enforced=False, taken="")
    assert finding.reason == reason
    if reason == "AcceptanceNotEnforced":
        assert record == made.status.acceptance
        assert "FEDGPU_ACCEPTANCE_ENFORCED" in finding.message


def test_a_secret_belongs_to_whom_was_accepted_with_it_first_and_to_nobody_by_being_named() -> None:
    later, first = provider(accepted=OLD, name="a", after=1), provider(accepted=OLD, name="z")
    assert secret_owners([later, first]) == {("berlin", "kubeconfig"): "z"}
    assert secret_owners([provider(name="a"), provider(name="b", accept=HASH["old"])]) == {}
    gone = provider(accepted=OLD, name="z", withdrawn=True)
    assert secret_owners([later, gone]) == {("berlin", "kubeconfig"): "z"}, "work may still run on it"


@pytest.mark.parametrize(
    "change",
    [
        {"location": {"country": "US"}},
        {"compliance": ["HIPAA"]},
        {"connection": {"kubeconfigSecretRef": {"name": "other"}}},
        {"connection": {"kubeconfigSecretRef": {"name": "berlin", "key": "other"}}},
        {"payout": {"address": "0x" + "66" * 20}},
        {"payout": {"address": "0x" + "66" * 20, "signer": "0x" + "77" * 20}},
        {
            "payout": {
                "address": "0x" + "66" * 20,
                "signer": "0x" + "77" * 20,
                "signerKeySecretRef": {"name": "other", "key": "key"},
            }
        },
    ],
)
def test_each_thing_that_an_acceptance_binds_changes_the_hash(change: dict[str, Any]) -> None:
    digests = {provider(each).spec.acceptance_hash() for each in (OLD, change)}
    assert len(digests) == 2
    record = Acceptance.of(provider(change).spec, NOW)
    payout = change.get("payout", {})
    assert (record.payout, record.signer) == (payout.get("address", ""), payout.get("signer", ""))
    assert len(record.secret_keys()) == (2 if "signerKeySecretRef" in payout else 1)


PAYOUT: dict[str, Any] = {
    "payout": {
        "address": "0x" + "66" * 20,
        "signer": "0x" + "77" * 20,
        "signerKeySecretRef": {"name": "berlin-signer"},
    }
}


@pytest.mark.parametrize(
    ("spec", "hashed"),
    [
        ({}, "60780f4718ff10a727e7fe513dff37d9"),
        (PAYOUT, provider(PAYOUT).spec.acceptance_hash(keys=False)),
    ],
)
def test_what_a_release_accepted_that_kept_the_hash_alone_stays_accepted(spec: dict[str, Any], hashed: str) -> None:
    """Its record is completed, so that the agent of what runs there goes on."""
    made = provider(spec)
    old = Acceptance(hash=hashed, accepted_at=NOW)
    made = made.model_copy(update={"status": made.status.model_copy(update={"acceptance": old})})
    finding, record = judge_acceptance(made, NOW + timedelta(days=1), mode="OnCreate", enforced=False, taken="")
    assert (finding.status, finding.reason) == ("True", "Accepted")
    assert record == Acceptance.of(made.spec, NOW)
    newer = record.model_copy(update={"hash": hashed})
    moved = provider({**spec, "connection": {"kubeconfigSecretRef": {"name": "elsewhere"}}})
    moved = moved.model_copy(update={"status": moved.status.model_copy(update={"acceptance": newer})})
    assert judge_acceptance(moved, NOW, mode="OnCreate", enforced=True, taken="")[0].reason == "OfferChanged"
