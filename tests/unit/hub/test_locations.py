"""An audit binds the location that was shown: any change of it, and nothing else, takes the audit away."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.hub.fakes import FakeClock
from tests.unit.hub.world import H100, PROVIDERS, World

from fedgpu_operator.api.base import find
from fedgpu_operator.api.gpuprovider import GPUProvider, GPUProviderStatus
from fedgpu_operator.hub.loops.providers import ProviderLoop
from fedgpu_operator.hub.services.hubstate import offers
from fedgpu_operator.hub.views.trust import location_finding

BERLIN = {"country": "DE", "region": "eu-central-1", "latitude": "52.5", "longitude": "13.4"}


def provider(audited: dict[str, Any] | None = None, **spec: Any) -> GPUProvider:
    """A provider whose location was confirmed when it was `audited`."""
    body = {
        "location": BERLIN,
        "connection": {"kubeconfigSecretRef": {"name": "berlin"}},
        "offers": [{"product": H100, "pricePerGPUHour": "1.25"}],
        **spec,
    }
    if audited is not None:
        body["locationAudit"] = {"hash": provider(location=audited).spec.location.audit_hash()}
    return GPUProvider.parse({"metadata": {"name": "berlin"}, "spec": body})


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (provider(), "SelfDeclared"),
        (provider(BERLIN), "Audited"),
        (provider(BERLIN, compliance=["HIPAA"]), "Audited"),
        (provider(BERLIN, offers=[{"product": H100, "pricePerGPUHour": "9"}]), "Audited"),
        (provider(BERLIN, location={**BERLIN, "country": "US"}), "LocationChanged"),
        (provider(BERLIN, location={**BERLIN, "region": "eu-central-2"}), "LocationChanged"),
        (provider(BERLIN, location={**BERLIN, "latitude": "52.6"}), "LocationChanged"),
        (provider(BERLIN, location={"country": "DE"}), "LocationChanged"),
    ],
)
def test_only_the_location_that_was_confirmed_is_audited(made: GPUProvider, reason: str) -> None:
    finding = location_finding(made, audits=True)
    assert (finding.status, finding.reason) == ("True" if reason == "Audited" else "False", reason)
    told = made.model_copy(update={"status": GPUProviderStatus(location_audited=True, conditions=[])})
    assert [each.location_audited for each in offers(told, None, [], ready=True)] == [reason == "Audited"]
    assert reason == "Audited" or "fedgpu provider audit berlin --confirm" in finding.message, "the fix is in the words"


def loop_of(world: World, *, audits: bool) -> ProviderLoop:
    return world.factory(location_audit=audits).provider_loop()


async def test_where_owners_could_confirm_themselves_nothing_is_audited(world: World, clock: FakeClock) -> None:
    await world.provider("berlin", free={8: 1})
    seen = GPUProvider.parse(world.kube.objects[PROVIDERS.plural, "", "berlin"])
    note = {"spec": {"locationAudit": {"hash": seen.spec.location.audit_hash()}}}
    await world.kube.patch(PROVIDERS, "berlin", "", note)

    async def judged(*, audits: bool) -> tuple[str, bool, bool]:
        await loop_of(world, audits=audits).pass_once()
        await loop_of(world, audits=audits).pass_once()
        found = GPUProvider.parse(world.kube.objects[PROVIDERS.plural, "", "berlin"])
        finding = find(found.status.conditions, "LocationAudited")
        (offer,) = offers(found, None, [], ready=True)
        return finding.reason if finding else "", found.status.location_audited, offer.location_audited

    assert await judged(audits=False) == ("AuditNotEnforced", False, False)
    assert await judged(audits=True) == ("Audited", True, True)
    assert await judged(audits=False) == ("AuditNotEnforced", False, False), "the policy was taken away"


async def test_status_shows_it_and_an_event_tells_of_the_loss(world: World, clock: FakeClock) -> None:
    await world.provider("berlin", free={8: 1})
    loop = loop_of(world, audits=True)

    async def judged(patch: dict[str, Any]) -> tuple[bool, str]:
        await world.kube.patch(PROVIDERS, "berlin", "", patch)
        await loop.pass_once()
        await loop.pass_once()
        status = GPUProvider.parse(world.kube.objects[PROVIDERS.plural, "", "berlin"]).status
        found = find(status.conditions, "LocationAudited")
        return status.location_audited, found.reason if found else ""

    seen = GPUProvider.parse(world.kube.objects[PROVIDERS.plural, "", "berlin"])
    note = {"spec": {"locationAudit": {"hash": seen.spec.location.audit_hash()}}}
    assert await judged({}) == (False, "SelfDeclared")
    assert await judged(note) == (True, "Audited")
    assert ("Warning", "LocationChanged") not in world.events()
    assert await judged({"spec": {"location": {"country": "US"}}}) == (False, "LocationChanged")
    assert world.events().count(("Warning", "LocationChanged")) == 1
    assert await judged({"spec": {"location": {"country": "DE"}}}) == (True, "Audited"), "it is what was confirmed"
