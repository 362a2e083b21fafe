"""What is decided about jobs that may not, cannot or need not run, each told in its own words; nothing is reserved."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.integration.operator.conftest import clear
from tests.integration.operator.federation import (
    API,
    PRICES,
    SECONDS_PER_HOUR,
    Federation,
    Tenant,
    eventually,
    manifest,
    micro,
)


@pytest.fixture(scope="module")
def decided(federation: Federation) -> Iterator[Tenant]:
    """One tenant whose jobs were all applied at once."""
    tenant = federation.tenant(usd=100)
    tenant.apply(
        tenant.job("capped", maxPricePerGPUHour="0.50"),
        tenant.job("europe", placement={"groups": ["EU"]}),
        tenant.job("nowhere", placement={"countries": ["JP"]}),
        tenant.job("dry", dryRun=True, runLimit="1h"),
        tenant.job("budget", budget="0.10", runLimit="1h"),
        tenant.job("rich", runLimit="200h"),
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


def test_a_wallet_of_somebody_else_pays_for_nothing(running: Federation, tenant: Tenant) -> None:
    thief = running.tenant()
    path = f"{API}/namespaces/{tenant.namespace}/computeaccounts/default"
    made = datetime.fromisoformat(running.hub.api.get(path)["metadata"]["creationTimestamp"])
    # Creation times are whole seconds: within the same one nobody is older.
    eventually("the next second", lambda: datetime.now(UTC) - made > timedelta(seconds=1.1))
    running.hub.apply([manifest("ComputeAccount", "default", {"wallet": tenant.wallet}, thief.namespace)])
    eventually("the refusal", lambda: thief.account().get("state") == "Unfunded")
    (funded,) = thief.account()["conditions"]
    assert funded["reason"] == "WalletTaken"
    thief.apply(thief.job("work"))
    try:
        thief.until("work", "Placed", "False", "Unfunded")
    finally:
        clear(thief)
