"""Two readings that differ: what both agree on is billed, the rest is one dispute with its evidence, told once."""

from __future__ import annotations

import json

import pytest
from tests.unit.hub.signing import billed, funded, sign
from tests.unit.hub.world import Crash, World

from fedgpu_operator.domain.ledger import UsageDispute, UsageDisputeState


async def disputes(world: World, *, open_only: bool = True) -> tuple[UsageDispute, ...]:
    return await world.ledger.usage_disputes(lease_name=world.lease.metadata.name, open_only=open_only)


async def claims(world: World, seconds: int, gpu_seconds: int) -> None:
    """The member claims so much after so many more seconds, and the hub looks."""
    world.clock.forward(seconds)
    await world.runs(world.lease, gpu_seconds)
    await sign(world)
    await world.pass_once()


@pytest.mark.parametrize(("claimed", "disputed"), [(100, 0), (102, 0), (103, 1), (5000, 1)])
async def test_within_the_tolerance_the_smaller_figure_stands(world: World, claimed: int, disputed: int) -> None:
    await funded(world)
    await claims(world, 100, claimed)
    assert await billed(world) == 100
    assert len(await disputes(world)) == disputed
    assert world.events().count(("Warning", "UsageDisputed")) == 2 * disputed, "on the lease and on its job"


async def test_the_evidence_holds_both_readings_and_the_signature(world: World) -> None:
    lease = await funded(world)
    await claims(world, 100, 5000)
    (dispute,) = await disputes(world)
    assert (dispute.lease_name, dispute.claimed, dispute.payable) == (lease.metadata.name, 5000, 100)
    assert dispute.why == "HubClock"
    evidence = json.loads(dispute.evidence)
    assert evidence["member"]["gpuSeconds"] == 5000
    assert evidence["member"]["signature"] == world.lease.status.usage.signature
    assert json.loads(evidence["member"]["detail"])["pods"][0]["seconds"] == 5000
    assert evidence["hub"]["gpus"] == 1
    assert evidence["hub"]["observedAt"] == "2026-01-01T12:01:40.000000Z"


async def test_a_dispute_grows_with_the_claim_and_is_told_once(world: World) -> None:
    await funded(world)
    await claims(world, 100, 5000)
    await claims(world, 10, 9000)
    (dispute,) = await disputes(world)
    assert (dispute.claimed, dispute.payable) == (9000, 110)
    await claims(world, 10, 9010)
    assert (await disputes(world)) == (dispute,), "no row for each look at the same quarrel"
    assert await billed(world) == 120
    assert world.events().count(("Warning", "UsageDisputed")) == 2


async def test_the_last_reading_is_what_the_dispute_ends_with(world: World) -> None:
    lease = await funded(world)
    await claims(world, 100, 5000)
    world.clock.forward(1)
    await world.ends(lease, gpu_seconds=5001)
    await sign(world)
    await world.pass_once()
    (dispute,) = await disputes(world)
    assert (dispute.claimed, dispute.payable) == (5001, 101)
    assert world.see().status.state == "Succeeded"


async def test_a_claim_that_time_makes_true_is_granted(world: World) -> None:
    """A member's clock that ran ahead: later the hub's own clock allows all of it."""
    await funded(world)
    await claims(world, 10, 60)
    assert len(await disputes(world)) == 1
    await claims(world, 60, 65)
    assert await billed(world) == 65
    assert await disputes(world) == ()
    (settled,) = await disputes(world, open_only=False)
    assert settled.state is UsageDisputeState.GRANTED


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("method", ["dispute_usage", "record_usage"])
async def test_a_death_between_the_dispute_and_the_record_loses_neither(
    world: World, method: str, final: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await funded(world)
    world.clock.forward(100)
    await (world.ends(world.lease, gpu_seconds=5000) if final else world.runs(world.lease, 5000))
    await sign(world)

    async def die(*_: object, **__: object) -> None:
        raise Crash(method)

    with monkeypatch.context() as dying:
        dying.setattr(world.ledger, method, die)
        with pytest.raises(Crash):
            await world.pass_once()
    world.clock.forward(30)
    await world.pass_once()
    (dispute,) = await disputes(world)
    assert dispute.claimed == 5000
    assert await billed(world) in (100, 130)
    assert world.events().count(("Warning", "UsageDisputed")) == 2
