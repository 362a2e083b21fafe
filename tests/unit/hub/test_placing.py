"""The snapshot that placement gets: budgets tightened, rejections avoided, offers less our own leases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.hub.world import World

from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.books import Attempt, AttemptRequest, LeaseUsage
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.hub.jobfacts import JobFacts
from fedgpu_operator.hub.placing import all_offers, domain_job
from fedgpu_operator.hub.store import load

COOLDOWN = timedelta(seconds=300)


def account(cap: str | None) -> ComputeAccount | None:
    spec = {"wallet": "0x" + "11" * 20, "maxPerJob": cap}
    return ComputeAccount.parse({"metadata": {"name": "default"}, "spec": spec}) if cap else None


@pytest.mark.parametrize(
    ("budget", "cap", "spent", "left"),
    [
        (None, None, 3600, None),
        ("5.00", None, 0, 5_000_000),
        ("5.00", None, 3600, 3_750_000),
        ("1.00", None, 3600, 0),
        (None, "5.00", 3600, 3_750_000),
        ("3.00", "5.00", 0, 3_000_000),
        ("9.00", "5.00", 3600, 3_750_000),
    ],
)
async def test_budget_and_cap_are_less_what_was_spent(
    world: World, budget: str | None, cap: str | None, spent: int, left: int | None
) -> None:
    job = await world.job(**({"budget": budget} if budget else {}))
    facts = JobFacts(job, (attempt(world, "berlin", "Suspended", spent),))
    assert domain_job(facts, account(cap), world.clock.now(), COOLDOWN).budget_left == left


def attempt(world: World, provider: str, outcome: str, used: int = 0, ago: float = 0) -> LeaseUsage:
    terms = AttemptRequest("0" * 36, "r", "team-a", "train", provider, "H100", MicroUSD(1_250_000), 1, 3600)
    ended = world.clock.now() - timedelta(seconds=ago)
    return LeaseUsage(Attempt(terms, 1, ended, ended, outcome), used, 1)


async def test_only_fresh_rejections_are_avoided(world: World) -> None:
    usage = (
        attempt(world, "old", "MemberRejected", ago=300),
        attempt(world, "fresh", "MemberRejected", ago=299),
        attempt(world, "fine", "Suspended"),
        attempt(world, "broke", "ExitCode"),
    )
    asked = domain_job(JobFacts(await world.job(), usage), None, world.clock.now(), COOLDOWN)
    assert set(asked.avoid) == {"fresh"}
    assert asked.avoid["fresh"] == "the member rejected attempt 1 at 2026-01-01T11:55:01Z"


async def test_offers_are_less_what_our_own_leases_hold(world: World) -> None:
    await world.provider("berlin", free={8: 2})
    await world.job(gpu={"count": 3})
    await world.pass_once()
    (offer,) = all_offers(await load(world.kube))
    assert offer.free == {8: 1, 5: 1}
    assert offer.lease_slots == 99
    await world.ends(world.lease)
    (offer,) = all_offers(await load(world.kube))
    assert offer.free == {8: 2}, "an ended lease holds nothing"


async def test_what_one_pass_sold_the_next_does_not_sell_again(world: World) -> None:
    await world.provider("berlin", free={8: 1})
    for name in ("a", "b", "c"):
        await world.job(name, gpu={"count": 4})
    await world.pass_once()
    await world.pass_once()
    assert len(world.leases) == 2
    waiting = [name for name in ("a", "b", "c") if world.says("Placed", name)[0] == "False"]
    assert [world.says("Placed", name) for name in waiting] == [("False", "InsufficientGPUs")]
