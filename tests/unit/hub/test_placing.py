"""The snapshot that placement gets: budgets tightened, rejections avoided, offers less our own leases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.hub.world import World

from fedgpu_operator.api.base import find
from fedgpu_operator.api.computeaccount import ComputeAccount
from fedgpu_operator.domain.attempts import Attempt, AttemptRequest, AttemptUsage
from fedgpu_operator.domain.money import MicroUSD
from fedgpu_operator.hub.services.costs import RunCosts
from fedgpu_operator.hub.services.hubstate import load
from fedgpu_operator.hub.services.snapshot import all_offers, domain_job, hosts_of
from fedgpu_operator.hub.views.jobfacts import JobFacts

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
    assert domain_job(facts, account(cap), world.clock.now(), COOLDOWN, hosts={}).budget_left == left


def attempt(world: World, provider: str, outcome: str, used: int = 0, ago: float = 0) -> AttemptUsage:
    terms = AttemptRequest("0" * 36, "r", "team-a", "train", provider, "H100", MicroUSD(1_250_000), 1, 3600)
    ended = world.clock.now() - timedelta(seconds=ago)
    return AttemptUsage(Attempt(terms, 1, ended, ended, outcome), used, 1)


async def test_only_fresh_rejections_are_avoided(world: World) -> None:
    usage = (
        attempt(world, "old", "MemberRejected", ago=300),
        attempt(world, "fresh", "MemberRejected", ago=299),
        attempt(world, "fine", "Suspended"),
        attempt(world, "broke", "ExitCode"),
    )
    asked = domain_job(JobFacts(await world.job(), usage), None, world.clock.now(), COOLDOWN, hosts={})
    assert asked.avoid == {
        "fresh/H100": "MemberRejected at 2026-01-01T11:55:01Z; cooling down until 2026-01-01T12:00:01Z"
    }


async def test_a_job_that_runs_does_not_keep_away_from_where_it_runs(world: World) -> None:
    """Or a fault of another job there would make every move of this one look like a rescue."""
    terms = attempt(world, "berlin", "Suspended").attempt.terms
    runs = AttemptUsage(Attempt(terms, 2, world.clock.now()), 0, 0)
    facts = JobFacts(await world.job(), (attempt(world, "berlin", "NodeRejected", ago=1), runs))
    cooling = {"berlin/H100": "why", "oslo/H100": "why"}
    asked = domain_job(facts, None, world.clock.now(), COOLDOWN, hosts={}, cooling=cooling)
    assert set(asked.avoid) == {"oslo/H100"}


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


@pytest.mark.parametrize(
    ("network", "price", "expected"),
    [
        ({"egressPricePerGiB": "0.05"}, None, 50_000),
        ({"egressPricePerGiB": "0.05"}, "0.07", 70_000),
        ({"egressPricePerGiB": "0.05"}, "0", 0),
        ({"ingressMbps": 10}, None, None),
        (None, None, None),
    ],
)
async def test_data_at_a_provider_costs_what_that_one_states_unless_the_job_says_otherwise(
    world: World, network: dict[str, Any] | None, price: str | None, expected: int | None
) -> None:
    extra: dict[str, Any] = {"network": network} if network else {}
    await world.provider("berlin", **extra)
    data = {"name": "scans", "provider": "berlin"} | ({"egressPricePerGiB": price} if price else {})
    facts = JobFacts(await world.job(data={"sets": [data, {"name": "weights", "country": "US"}]}))
    state = await load(world.kube)
    scans, weights = domain_job(facts, None, world.clock.now(), COOLDOWN, hosts=hosts_of(state.providers)).data
    assert (scans.egress_per_gib, weights.egress_per_gib) == (expected, 0)


async def test_the_hub_offers_what_owners_state_and_what_it_knows_of_them(world: World) -> None:
    await world.provider("berlin", network={"egressPricePerGiB": "0.02", "ingressMbps": 1000})
    await world.provider("oslo", country="NO")
    costs = RunCosts({"berlin": 250}, MicroUSD(77))
    berlin, oslo = all_offers(replace(await load(world.kube), costs=costs))
    assert (berlin.egress_per_gib, berlin.ingress_mbps, berlin.interruptions_per_mh) == (20_000, 1000, 250)
    assert (oslo.egress_per_gib, oslo.ingress_mbps, oslo.interruptions_per_mh) == (None, None, None)
    assert (berlin.gas_share, oslo.gas_share) == (77, 77)
    assert not berlin.location_audited


SCANS = {"name": "scans", "residency": {"groups": ["EEA"]}}


@pytest.mark.parametrize(
    ("spec", "reason", "said"),
    [
        ({"latency": {"from": {"vantage": "mars"}, "maxMs": 5}}, "UnknownPlace", "unknown vantage 'mars'"),
        ({"data": {"sets": [{"name": "x", "provider": "ghost"}]}}, "UnknownProvider", "no GPUProvider ghost"),
        (
            {"data": {"sets": [SCANS]}, "checkpoint": {"intervalSeconds": 600, "country": "CH"}},
            "CheckpointOutsideResidency",
            "CH is no country in which data set scans may be kept",
        ),
        (
            {"data": {"sets": [SCANS]}, "checkpoint": {"intervalSeconds": 600}},
            "CheckpointOutsideResidency",
            "it is not known",
        ),
        (
            {"data": {"sets": [SCANS]}, "placement": {"countries": ["US"]}},
            "ResidencyConflict",
            "spec.placement and the residency of scans",
        ),
        (
            {"data": {"sets": [SCANS, {"name": "b", "residency": {"countries": ["US"]}}]}},
            "ResidencyConflict",
            "b, scans",
        ),
        (
            {"data": {"sets": [SCANS]}, "placement": {"countries": ["DE"], "excludedCountries": ["DE"]}},
            "ResidencyConflict",
            "no country is left",
        ),
    ],
)
async def test_a_job_that_no_place_can_serve_is_told_so_at_once(
    world: World, spec: dict[str, Any], reason: str, said: str
) -> None:
    await world.provider("berlin")
    await world.job(**spec)
    await world.pass_once()
    assert world.says("Failed") == ("True", reason)
    placed = find(world.see().status.conditions, "Placed")
    assert placed is not None
    assert said in placed.message


async def test_a_job_waits_no_longer_once_the_provider_of_its_data_is_there(world: World) -> None:
    await world.provider("berlin")
    await world.job(data={"sets": [{"name": "x", "provider": "late"}]})
    await world.pass_once()
    assert world.says("Failed") == ("True", "UnknownProvider")
    await world.provider("late", free={1: 1})
    await world.pass_once()
    assert world.says("Placed") == ("True", "Placed")
    assert world.says("Failed") == ("", "")
