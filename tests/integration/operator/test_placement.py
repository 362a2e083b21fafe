"""What is decided about jobs that may not, cannot or need not run, each told in its own words; nothing is reserved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from eth_account import Account
from tests.integration.operator.conftest import clear
from tests.integration.operator.federation import (
    PRICES,
    SECONDS_PER_HOUR,
    Federation,
    Tenant,
    eventually,
    manifest,
    micro,
)

from fedgpu_lab.chart import NAMESPACE


@pytest.fixture(scope="module")
def decided(federation: Federation) -> Iterator[Tenant]:
    """One tenant whose jobs were all applied at once."""
    tenant = federation.tenant(usd=100)
    tenant.apply(
        tenant.job("capped", maxPricePerGPUHour="0.50"),
        tenant.job("europe", placement={"groups": ["EU"]}),
        tenant.job("nowhere", placement={"countries": ["JP"]}),
        tenant.job("dry", dryRun=True, runLimitSeconds=3600),
        tenant.job("budget", budget="0.10", runLimitSeconds=3600),
        tenant.job("rich", runLimitSeconds=720000),
        tenant.job("huge", gpu={"count": 16}),
        tenant.job("hipaa", placement={"compliance": ["HIPAA"]}),
    )
    yield tenant
    clear(tenant)


@pytest.mark.parametrize(
    ("name", "reason", "histogram"),
    [
        ("capped", "PriceAboveLimit", "2 PriceAboveLimit"),
        ("nowhere", "ResidencyDenied", "2 ResidencyDenied"),
        ("budget", "OverBudget", "2 OverBudget"),
        ("rich", "Unfunded", "2 Unfunded"),
        ("huge", "InsufficientGPUs", "2 InsufficientGPUs"),
        ("hipaa", "ComplianceMissing", "2 ComplianceMissing"),
    ],
)
def test_what_nobody_may_run_gets_a_reason_and_a_histogram(
    decided: Tenant, name: str, reason: str, histogram: str
) -> None:
    placed = decided.until(name, "Placed", "False", reason)
    assert placed["message"] == f"0/2 providers fit: {histogram}"
    status = decided.status(name)
    assert status["state"] == "Pending"
    assert {candidate["reason"] for candidate in status["candidates"]} == {reason}
    assert all(candidate["message"] for candidate in status["candidates"])
    assert decided.leases(name) == []
    eventually("an Event for people", lambda: reason in decided.events(name))


def test_residency_wins_over_price(decided: Tenant) -> None:
    decided.until_state("europe", "Succeeded")
    status = decided.status("europe")
    assert status["placement"]["provider"] == "alpha"
    refused = {candidate["provider"]: candidate["reason"] for candidate in status["candidates"]}
    assert refused["beta"] == "ResidencyDenied"


def test_dry_run_answers_with_offers_and_cost_and_reserves_nothing(decided: Tenant) -> None:
    placed = decided.until("dry", "Placed", "False", "DryRun")
    assert "beta" in placed["message"]
    status = decided.status("dry")
    assert status["state"] == "DryRun"
    # At most the run limit and the five seconds of grace that a stop may take.
    most = {name: micro(price) * (3600 + 5) // SECONDS_PER_HOUR for name, price in PRICES.items()}
    assert {c["provider"]: micro(c["cost"]) for c in status["candidates"]} == most
    assert {c["provider"]: c["price"] for c in status["candidates"]} == PRICES
    assert decided.leases("dry") == []
    assert "placement" not in status
    assert "finalizers" not in decided.get("dry")["metadata"]


def test_a_policy_binds_the_namespaces_that_carry_its_label(running: Federation) -> None:
    label = {"law": "strict"}
    policy = {"namespaceSelector": {"matchLabels": label}, "placement": {"countries": ["DE"]}}
    running.hub.apply([manifest("PlacementPolicy", "strict", policy)])
    bound = running.tenant(usd=100, labels=label)
    try:
        bound.apply(bound.job("here"), bound.job("overseas", placement={"countries": ["US"]}))
        status = bound.until_state("here", "Succeeded")
        assert status["placement"]["provider"] == "alpha"
        assert status["placement"]["policies"] == ["strict@1"]
        placed = bound.until("overseas", "Placed", "False")
        assert "PolicyDenied" in placed["message"], "a job can tighten the law, never loosen it"
        assert bound.leases("overseas") == []
    finally:
        clear(bound)
        running.hub.kubectl("delete", "ppol", "strict")


def test_a_namespace_without_an_account_waits_for_money_and_starts_when_there_is_some(running: Federation) -> None:
    poor = running.tenant()
    try:
        poor.apply(poor.job("work", run="1s"))
        poor.until("work", "Placed", "False", "Unfunded")
        assert poor.condition("work", "Admitted")["status"] == "False"
        assert poor.leases() == []
        running.fund(poor, 1)
        poor.until_state("work", "Succeeded")
    finally:
        clear(poor)


def test_a_wallet_of_somebody_else_pays_for_nothing(running: Federation) -> None:
    """Not even to who names it first, or copies the proof of its owner; and the owner is not kept out."""
    owner, squatter, thief, key = running.tenant(), running.tenant(), running.tenant(), Account.create().key.hex()
    wallet = Account.from_key(key).address
    nobodys = running.account_proof(Account.create().key, squatter.namespace)
    running.name_wallet(squatter, wallet, nobodys)
    eventually("the refusal", lambda: squatter.account().get("state") == "Unfunded")
    running.fund(owner, 5, key)
    running.name_wallet(thief, wallet, running.account_proof(key, owner.namespace))
    eventually("the refusal", lambda: thief.account().get("state") == "Unfunded")
    try:
        for one in (squatter, thief):
            funded = next(each for each in one.account()["conditions"] if each["type"] == "Funded")
            assert (funded["status"], funded["reason"]) == ("False", "WalletUnproven")
            assert f"fedgpu account prove -n {one.namespace}" in funded["message"]
            one.apply(one.job("work"))
            one.until("work", "Placed", "False", "Unfunded")
        assert owner.account()["state"] == "Funded"
    finally:
        for one in (squatter, thief):
            clear(one)


ACCEPTS_ALL = "0x631626ba7e60e01b60005260206000f3"
"""A contract that answers ERC-1271's magic word to whatever it is asked."""
ACCEPTS_NONE = "0x60206000f3"
"""One that answers a word of zeros."""


@pytest.mark.parametrize(
    ("code", "reason"), [(ACCEPTS_ALL, "NoSpendLimit"), (ACCEPTS_NONE, "WalletUnproven"), ("0x", "WalletUnproven")]
)
def test_a_contract_wallet_is_asked_on_the_chain(running: Federation, code: str, reason: str) -> None:
    wallet, tenant = str(Account.create().address), running.tenant()
    running.chain.rpc("anvil_setCode", wallet, code)
    running.chain.mine(3)
    running.name_wallet(tenant, wallet, {"signature": "0x01", "issuedAt": 1})

    def said() -> str:
        return next((str(one["reason"]) for one in tenant.account().get("conditions", [])), "")

    assert eventually("a word on the account", said) == reason


def test_everybody_can_read_where_the_hub_settles(running: Federation) -> None:
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/fedgpu-settlement"
    hub = running.hub.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    chain = {"chainID": str(running.chain.chain_id), "escrow": running.deployment.escrow}
    assert running.hub.api.get(path)["data"] == {"hub": hub, **chain}
