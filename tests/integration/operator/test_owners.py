"""What one owner changes reaches no other, and a withdrawn provider is metered and stopped to its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.operator.federation import API, COUNTRIES, Federation, Tenant, eventually, manifest, offer

from fedgpu_operator.api.gpuprovider import GPUProvider

ALPHA = f"{API}/gpuproviders/alpha"
ALONE = {"countries": [COUNTRIES["alpha"]]}


def accept(federation: Federation, name: str) -> None:
    """As a platform admin does it: the spec of this moment."""
    path = f"{API}/gpuproviders/{name}"
    digest = GPUProvider.parse(federation.hub.api.get(path)).spec.acceptance_hash()
    federation.hub.api.patch(path, {"spec": {"acceptance": {"hash": digest, "withdrawn": None}}})


def withdraw(federation: Federation, name: str) -> None:
    federation.hub.api.patch(f"{API}/gpuproviders/{name}", {"spec": {"acceptance": {"hash": None, "withdrawn": True}}})


def until_reason(federation: Federation, name: str, kind: str, reason: str) -> None:
    eventually(f"{name} to say {kind} {reason}", lambda: federation.provider_says(name, kind).get("reason") == reason)


def gpu_seconds(tenant: Tenant) -> int:
    (lease,) = tenant.leases()
    return int(lease.get("status", {}).get("usage", {}).get("gpuSeconds", 0))


@pytest.fixture
def thief(running: Federation) -> Iterator[str]:
    """A provider whose owner may not accept it, and which names alpha's Secret."""
    name = "a-thief"
    body = manifest("GPUProvider", name, offer("DE", "alpha", "0.01"))
    body["spec"]["acceptance"] = {"awaited": True}
    running.hub.api.create(f"{API}/gpuproviders", body)
    yield name
    running.hub.api.delete(f"{API}/gpuproviders/{name}")
    eventually("the thief to be gone", lambda: name not in _names(running))


def _names(federation: Federation) -> list[str]:
    return [each["metadata"]["name"] for each in federation.hub.api.get(f"{API}/gpuproviders")["items"]]


def test_who_names_the_secret_of_another_is_refused_alone(tenant: Tenant, running: Federation, thief: str) -> None:
    tenant.apply(tenant.job("long", run="", placement=ALONE))
    tenant.until_state("long", "Running")
    started = running.operator.log.read_text().count("agent of provider alpha started")
    until_reason(running, thief, "Accepted", "SecretTaken")
    accept(running, thief)
    for country in ("SG", "DE"):
        running.hub.api.patch(f"{API}/gpuproviders/{thief}", {"spec": {"location": {"country": country}}})
        until_reason(running, thief, "Accepted", "SecretTaken")
    before = gpu_seconds(tenant)
    eventually("usage to go on", lambda: gpu_seconds(tenant) > before + 1)
    assert running.provider_says("alpha", "Ready")["status"] == "True"
    log = running.operator.log.read_text()
    assert log.count("agent of provider alpha started") == started
    assert f"agent of provider {thief} started" not in log
    tenant.patch("long", suspend=True)
    tenant.until_state("long", "Suspended")


def test_a_withdrawn_provider_is_metered_and_stopped_and_then_left_alone(tenant: Tenant, running: Federation) -> None:
    tenant.apply(tenant.job("long", run="", placement=ALONE))
    tenant.until_state("long", "Running")
    ended = running.operator.log.read_text().count("agent of provider alpha ended")
    withdraw(running, "alpha")
    try:
        until_reason(running, "alpha", "Accepted", "Withdrawn")
        tenant.apply(tenant.job("next", placement=ALONE))
        tenant.until("next", "Placed", "False")
        running.operator.kill()
        running.operator.start()
        before = gpu_seconds(tenant)
        eventually(
            "usage to go on, by an operator that began after the withdrawal", lambda: gpu_seconds(tenant) > before
        )
        assert len(tenant.workloads("alpha")) == 1
        tenant.delete("long")
        eventually("the work to be stopped", lambda: tenant.gone("long") and not tenant.workloads("alpha"))
        until_reason(running, "alpha", "Connected", "NotAccepted")
        eventually(
            "its agent to end",
            lambda: running.operator.log.read_text().count("agent of provider alpha ended") == ended + 1,
        )
        assert tenant.leases("next") == []
    finally:
        accept(running, "alpha")
    running.until_provider("alpha", "Ready", "True")
    tenant.until_state("next", "Succeeded")


def test_an_unaccepted_change_of_ones_own_leaves_what_runs_as_it_was_accepted(
    tenant: Tenant, running: Federation
) -> None:
    tenant.apply(tenant.job("long", run="", placement=ALONE))
    tenant.until_state("long", "Running")
    spec = running.hub.api.get(ALPHA)["spec"]
    try:
        changed = {"payout": {"signer": "0x" + "12" * 20}, "connection": {"kubeconfigSecretRef": {"name": "beta"}}}
        running.hub.api.patch(ALPHA, {"spec": changed})
        until_reason(running, "alpha", "Accepted", "SecretTaken")
        before = gpu_seconds(tenant)
        eventually("usage to go on, signed as accepted", lambda: gpu_seconds(tenant) > before + 1)
        assert running.provider_says("alpha", "UsageSigned")["status"] == "True"
        assert running.provider_says("beta", "Ready")["status"] == "True"
    finally:
        running.hub.api.patch(ALPHA, {"spec": {part: spec[part] for part in ("payout", "connection")}})
    running.until_provider("alpha", "Ready", "True")
