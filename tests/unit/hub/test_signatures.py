"""Only usage that the accepted signer signed is billed, and what is not signed is seen."""

from __future__ import annotations

import pytest
from tests.unit.hub.signing import NEXT_SIGNER, PAYOUT, SIGNER, billed, funded, put_signature, sign
from tests.unit.hub.world import LEASES, PROVIDERS, World

from fedgpu_operator.adapters.chain.signers import LocalSigner
from fedgpu_operator.api.base import Finding
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.gpuprovider import GPUProvider
from fedgpu_operator.hub.services import signatures
from fedgpu_operator.hub.services.billing import SIGNATURE_PATIENCE
from fedgpu_operator.hub.services.signatures import UsageVerifier, accepted_signer, usage_signed
from fedgpu_operator.hub.services.writes import UNSIGNED_SINCE
from fedgpu_operator.settlement.typeddata import hub_domain, signed_by, usage_record


def provider(world: World) -> GPUProvider:
    return GPUProvider.parse(world.kube.objects[PROVIDERS.plural, "", "berlin"])


def verifier(world: World) -> UsageVerifier:
    return UsageVerifier(hub_domain(world.wallets.chain_id, world.wallets.escrow))


def condition(world: World) -> Finding:
    found = usage_signed(provider(world), world.leases, verifier(world))
    assert found is not None
    return found


async def running(world: World, seconds: int, gpu_seconds: int) -> None:
    world.clock.forward(seconds)
    await world.runs(world.lease, gpu_seconds)


async def test_signed_usage_is_billed_with_its_proof(world: World) -> None:
    lease = await funded(world)
    await running(world, 10, 10)
    await sign(world)
    await world.pass_once()
    last = await world.ledger.last_usage(lease.metadata.name)
    assert last is not None
    assert last.gpu_seconds == 10
    proof = last.signed
    assert proof is not None
    assert proof.signer == SIGNER.address
    again = usage_record(
        hub_domain(world.wallets.chain_id, world.wallets.escrow),
        lease=lease.metadata.name,
        sequence=proof.sequence,
        gpu_seconds=proof.gpu_seconds,
        observed_at=proof.observed_at,
        usage_hash=proof.usage_hash,
    )
    assert signed_by(SIGNER.address, again.digest, proof.signature), "anyone can check it from the ledger alone"
    assert (condition(world).status, condition(world).reason) == ("True", "Signed")


async def test_usage_that_nobody_signed_is_not_billed(world: World) -> None:
    await funded(world)
    await running(world, 10, 10)
    await world.pass_once()
    assert await billed(world) == 0
    found = condition(world)
    assert (found.status, found.reason) == ("False", "NotSigned")
    assert world.lease.metadata.name in found.message
    await sign(world)
    await world.pass_once()
    assert await billed(world) == 10, "late is early enough"


@pytest.mark.parametrize("figure", [{"gpuSeconds": 11}, {"gpuSeconds": 9}, {"foldedGPUSeconds": 1}, {"pods": []}])
async def test_a_figure_changed_after_the_signature_is_not_billed(world: World, figure: dict[str, object]) -> None:
    """Raised by a provider, or lowered by whoever stands between."""
    await funded(world)
    await running(world, 20, 10)
    await sign(world)
    meta = world.lease.metadata
    await world.kube.patch_status(LEASES, meta.name, meta.namespace, {"status": {"usage": figure}})
    await world.pass_once()
    assert await billed(world) == 0
    assert condition(world).reason == "BadSignature"


async def test_a_signature_of_another_lease_or_sequence_is_not_billed(world: World) -> None:
    await funded(world)
    await running(world, 10, 10)
    await sign(world, lease="11111111-2222-3333-4444-555555555555-1")
    await world.pass_once()
    await sign(world, sequence=5)
    await world.pass_once()
    assert await billed(world) == 0
    assert condition(world).reason == "BadSignature"


async def test_an_old_signature_does_not_carry_new_figures(world: World) -> None:
    await funded(world)
    await running(world, 10, 10)
    await sign(world)
    await world.pass_once()
    await running(world, 10, 20)
    await world.pass_once()
    assert await billed(world) == 10, "what was billed stays, what is not signed waits"
    assert condition(world).reason == "BadSignature"


async def test_a_forged_signature_is_not_billed(world: World) -> None:
    await funded(world)
    await running(world, 10, 10)
    for forged in (bytes(65), bytes(64) + b"\x1b", b"\xff" * 65, b"\x01", b"\x00" * 200):
        await put_signature(world, forged)
        await world.pass_once()
        assert condition(world).reason == "BadSignature"
    await sign(world, NEXT_SIGNER)
    await world.pass_once()
    assert await billed(world) == 0


async def test_a_provider_without_a_signer_is_billed_on_its_word_and_told_so(world: World) -> None:
    await funded(world, signer=None)
    await running(world, 10, 10)
    await world.pass_once()
    assert await billed(world) == 10
    assert (condition(world).status, condition(world).reason) == ("False", "NoSigner")


async def test_a_rotation_counts_from_its_acceptance(world: World) -> None:
    """Until then the key before signs; nobody gets past it by changing the spec, or by taking the signer out."""
    await funded(world)
    before = provider(world)
    accepted = {"hash": before.spec.acceptance_hash(), "signer": SIGNER.address}
    await world.kube.patch_status(PROVIDERS, "berlin", "", {"status": {"acceptance": accepted}})
    for payout in ({"signer": None}, {"signer": NEXT_SIGNER.address}):
        await world.kube.patch(PROVIDERS, "berlin", "", {"spec": {"payout": payout}})
        assert accepted_signer(provider(world)) == SIGNER.address
    await running(world, 10, 10)
    await sign(world, NEXT_SIGNER)
    await world.pass_once()
    assert await billed(world) == 0
    await sign(world, SIGNER)
    await world.pass_once()
    assert await billed(world) == 10
    again = {"hash": provider(world).spec.acceptance_hash(), "signer": NEXT_SIGNER.address}
    await world.kube.patch_status(PROVIDERS, "berlin", "", {"status": {"acceptance": again}})
    await running(world, 10, 20)
    await sign(world, SIGNER)
    await world.pass_once()
    assert await billed(world) == 10
    await sign(world, NEXT_SIGNER)
    await world.pass_once()
    assert await billed(world) == 20


async def test_the_last_reading_waits_for_its_signature_but_not_for_ever(world: World) -> None:
    lease = await funded(world)
    world.clock.forward(10)
    await world.ends(lease, gpu_seconds=10)
    await world.pass_once()
    assert world.see().status.state != "Succeeded"
    world.clock.forward(SIGNATURE_PATIENCE.total_seconds() - 1)
    await world.pass_once()
    assert world.see().status.state != "Succeeded"
    world.clock.forward(1)
    await world.pass_once()
    assert world.see().status.state == "Succeeded"
    assert await billed(world) == 0
    (left,) = await world.ledger.usage_disputes(lease_name=lease.metadata.name)
    assert (left.claimed, left.payable, left.why) == (10, 0, "NotSigned"), "the claim is not lost, it waits"


NO_CLOCK_SHOWS = ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", "2200-01-01T00:00:00Z", "2026-01-01T12:00:00")


async def status(world: World, lease: ComputeLease, usage: dict[str, object]) -> None:
    await world.kube.patch_status(LEASES, lease.metadata.name, lease.metadata.namespace, {"status": {"usage": usage}})


@pytest.mark.parametrize("signer", [SIGNER, None])
@pytest.mark.parametrize("field", ["observedAt", "startedAt", "finishedAt", "pod"])
@pytest.mark.parametrize("instant", NO_CLOCK_SHOWS)
async def test_an_instant_that_no_clock_shows_stops_nobody_and_is_given_up(
    world: World, instant: str, field: str, signer: LocalSigner | None
) -> None:
    lease = await funded(world, signer=signer)
    world.clock.forward(10)
    await world.ends(lease, gpu_seconds=10)
    pods = [{"name": "pod-0", "gpus": 1, "seconds": 10, "startedAt": instant}]
    await status(world, lease, {"pods": pods} if field == "pod" else {field: instant})
    await world.job("another")
    await world.pass_once()
    assert world.see("another").status.state == "Placed", "one provider's instants are no other job's trouble"
    if signer is not None:
        found = usage_signed(provider(world), [lease for lease in world.leases if lease.status.ended], verifier(world))
        assert found is not None
        assert (found.status, found.reason) == ("False", "BadReading")
    world.clock.forward(SIGNATURE_PATIENCE.total_seconds() - 1)
    await world.pass_once()
    assert world.see().status.state == "Running" or world.see().status.state == "Placed"
    world.clock.forward(1)
    await world.pass_once()
    assert world.see().status.state == "Succeeded"
    assert await world.ledger.last_usage(lease.metadata.name) is None


@pytest.mark.parametrize("observed", ["2100-01-01T00:00:00Z", "2000-01-01T00:00:00Z"])
async def test_the_wait_for_a_signature_is_by_our_own_clock(world: World, observed: str) -> None:
    """Neither prolonged nor cut short by what the provider says of the time; every pass here is a restart as well."""
    lease = await funded(world)
    world.clock.forward(10)
    await world.ends(lease, gpu_seconds=10)
    for seconds in (0.0, SIGNATURE_PATIENCE.total_seconds() - 1):
        world.clock.forward(seconds)
        await status(world, lease, {"observedAt": observed})
        await world.pass_once()
        assert world.see().status.state != "Succeeded"
    world.clock.forward(1)
    await world.pass_once()
    assert world.see().status.state == "Succeeded"
    (left,) = await world.ledger.usage_disputes(lease_name=lease.metadata.name)
    assert left.claimed == 10


@pytest.mark.parametrize("note", ["", "soon", "2999-01-01T00:00:00+00:00", "2026-01-01T12:00:00"])
async def test_a_note_of_the_end_that_cannot_be_ours_is_made_anew(world: World, note: str) -> None:
    lease = await funded(world)
    patch = {"metadata": {"annotations": {UNSIGNED_SINCE: note}}}
    await world.kube.patch(LEASES, lease.metadata.name, lease.metadata.namespace, patch)
    world.clock.forward(10)
    await world.ends(lease, gpu_seconds=10)
    await world.pass_once()
    assert world.lease.metadata.annotations[UNSIGNED_SINCE] == world.clock.now().isoformat(timespec="microseconds")
    world.clock.forward(SIGNATURE_PATIENCE.total_seconds())
    await world.pass_once()
    assert world.see().status.state == "Succeeded"


async def test_a_reading_that_is_dated_ahead_is_kept_under_our_own_time(world: World) -> None:
    """Else its provider's next receipt would be of a period that lies ahead, and newer than all that follow."""
    lease = await funded(world)
    await running(world, 10, 10)
    await status(world, lease, {"observedAt": "2199-01-01T00:00:00Z"})
    await sign(world)
    await world.pass_once()
    last = await world.ledger.last_usage(lease.metadata.name)
    assert last is not None
    assert last.observed_at == world.clock.now()
    assert last.signed is not None
    assert last.signed.observed_at == 7_226_582_400, "the signed instant is evidence as it stands"


async def test_the_last_reading_is_taken_as_soon_as_it_is_signed(world: World) -> None:
    lease = await funded(world)
    world.clock.forward(10)
    await world.ends(lease, gpu_seconds=10)
    await world.pass_once()
    await sign(world)
    await world.pass_once()
    assert world.see().status.state == "Succeeded"
    assert await billed(world) == 10


async def test_the_lease_names_the_wallets_between_which_it_is_charged(world: World) -> None:
    spec = (await funded(world)).spec
    (attempt,) = await world.ledger.open_attempts()
    terms = attempt.attempt.terms
    assert (spec.tenant_wallet, spec.provider_wallet) == (terms.tenant_wallet, terms.provider_wallet)
    assert spec.provider_wallet == PAYOUT


async def test_a_quiet_lease_is_verified_once_and_its_older_readings_are_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await funded(world)
    await running(world, 10, 10)
    await sign(world)
    asked: list[bytes] = []

    def recovered(digest: bytes, _signature: str) -> str:
        asked.append(digest)
        return SIGNER.address

    monkeypatch.setattr(signatures, "recover", recovered)
    monkeypatch.setattr(signatures, "MOST_REMEMBERED", 2)
    first, judged = world.lease, verifier(world)
    verdict = judged.judge(first, provider(world))
    assert judged.judge(first, provider(world)) is verdict
    assert len(asked) == 1

    def version(uid: str, number: int) -> ComputeLease:
        meta = first.metadata.model_copy(update={"uid": uid, "resource_version": f"v{number}"})
        return first.model_copy(update={"metadata": meta})

    for number in range(50):
        judged.judge(version("chatty", number), provider(world))
    assert judged.judge(first, provider(world)) is verdict, "one lease that changes often displaces no other"
    assert len(asked) == 51
    for number in range(4):
        judged.judge(version(f"other-{number}", 1), provider(world))
    judged.judge(first, provider(world))
    assert len(asked) == 56, "what is remembered has a bound"
