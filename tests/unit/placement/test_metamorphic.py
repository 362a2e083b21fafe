"""How an answer must change when the question does: laws that hold without knowing the answer.

For single-GPU jobs they hold exactly, because the optimum obeys them. With gangs, placement is not exact, and may
obey them only as far as its own bounds say: there the laws are tested on the bounds, which must hold always.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from random import Random

import pytest
from benchmarks.placement.worlds import Size, make
from tests.unit.placement.chance import random_world, singles_world
from tests.unit.placement.optimum import value_of
from tests.unit.placement.worlds import Raw, placed_by, snapshot_of

from fedgpu_operator.domain.money import format_usd, parse_usd
from fedgpu_operator.placement import decide, place
from fedgpu_operator.placement.gangs.exact import MAX_PAIRS

SHARE = 20
"""These laws are looked at on this fraction of the instances."""


def gangs_world(seed: int) -> Raw:
    world = random_world(Random(seed), jobs=7)
    world["funds"] = dict.fromkeys(world["funds"])
    return world


def with_newcomer(world: Raw, seed: int) -> Raw:
    newcomer = singles_world(seed + 1_000_000)["providers"][0]
    newcomer["metadata"]["name"] = "newcomer"
    return {**world, "providers": [*world["providers"], newcomer]}


def tightened(world: Raw) -> Raw:
    tighter = copy.deepcopy(world)
    for job in tighter["jobs"]:
        rules = job["spec"]["placement"]
        rules["excludedCountries"] = sorted({"US", *rules.get("excludedCountries", [])})
    return tighter


def bare(world: Raw) -> Raw:
    """The same with nothing in its costs but prices, which are whole and so scale without rounding."""
    world = copy.deepcopy(world)
    for job in world["jobs"]:
        for part in ("strategy", "data", "checkpoint"):
            job["spec"].pop(part, None)
    for provider in world["providers"]:
        provider["status"].pop("gasShare", None)
    return world


def scaled(world: Raw, times: int) -> Raw:
    """Every amount of money in the world, so many times."""
    world = copy.deepcopy(world)

    def more(spec: Raw, *names: str) -> None:
        for name in names:
            if spec.get(name) is not None:
                spec[name] = format_usd(parse_usd(spec[name]) * times)

    more(world["funds"], *world["funds"])
    for each in (*world["jobs"], *world["policies"]):
        more(each["spec"], "maxPricePerGPUHour", "budget")
    for provider in world["providers"]:
        for offer in provider["spec"]["offers"]:
            more(offer, "pricePerGPUHour")
    return world


def test_order_of_the_snapshot_never_matters(instances: int) -> None:
    for seed in range(instances // SHARE):
        world = random_world(Random(seed))
        before = decide(snapshot_of(world))
        for part in ("providers", "jobs", "policies"):
            Random(seed).shuffle(world[part])
        assert decide(snapshot_of(world)) == before, f"seed {seed}"


@pytest.mark.parametrize(("seed", "load"), [(1, 0.8), (2, 0.8), (3, 1.25)])
def test_with_many_gangs_the_order_of_jobs_and_offers_never_matters(seed: int, load: float) -> None:
    """Too many for the exact search: they are placed by prices, whose sums over arrays depend on their order."""
    world = make(Size(jobs=1_500, offers=300, classes=120, load=load, multi=0.5, seed=seed))
    before = place(world)
    assert sum(int(each.eligible.sum()) for each in before.problem.classes) > MAX_PAIRS
    jobs, offers = list(world.jobs), list(world.offers)
    Random(seed).shuffle(jobs)
    Random(seed).shuffle(offers)
    after = place(replace(world, jobs=tuple(jobs), offers=tuple(offers)))
    assert after.assigned() == before.assigned()
    assert after.table.offers == before.table.offers
    for what in ("cost", "placed", "most", "floor"):
        assert getattr(after.solution, what) == getattr(before.solution, what)


def test_one_more_provider_never_makes_it_worse(instances: int) -> None:
    for seed in range(instances // SHARE):
        world = singles_world(seed)
        more = with_newcomer(world, seed)
        assert value_of(more, placed_by(more)) <= value_of(world, placed_by(world)), f"seed {seed}"


def test_one_more_provider_never_raises_the_cost_of_the_same_jobs(instances: int) -> None:
    """Where more jobs are placed the total may rise; those that were placed before must not cost more by themselves."""
    for seed in range(instances // SHARE):
        world = singles_world(seed)
        before = placed_by(world)
        world["jobs"] = [job for job in world["jobs"] if job["metadata"]["uid"] in before]
        more = with_newcomer(world, seed)
        after = placed_by(more)
        assert after.keys() == before.keys(), f"seed {seed}"
        assert value_of(more, after)[-1] <= value_of(world, before)[-1], f"seed {seed}"


def test_tighter_residency_never_makes_it_better(instances: int) -> None:
    for seed in range(instances // SHARE):
        world = singles_world(seed)
        tighter = tightened(world)
        assert value_of(tighter, placed_by(tighter)) >= value_of(world, placed_by(world)), f"seed {seed}"


def test_prices_scaled_scale_the_cost(instances: int) -> None:
    """Who goes where may differ among equals; how many of each priority run and what they cost may not."""
    for seed in range(instances // SHARE):
        world = bare(singles_world(seed))
        dearer = scaled(world, 7)
        *left, cost = value_of(world, placed_by(world))
        assert value_of(dearer, placed_by(dearer)) == (*left, 7 * cost), f"seed {seed}"


def test_with_gangs_prices_scaled_scale_the_cost_within_the_gap(instances: int) -> None:
    for seed in range(instances // SHARE):
        world = bare(gangs_world(seed))
        answer, dearer = place(snapshot_of(world)).solution, place(snapshot_of(scaled(world, 7))).solution
        assert dearer.placed == answer.placed, f"seed {seed}"
        assert dearer.cost <= 7 * answer.cost * (1 + answer.gap), f"seed {seed}"
        assert 7 * answer.cost <= dearer.cost * (1 + dearer.gap), f"seed {seed}"


def test_with_gangs_the_bounds_obey_what_the_answer_need_not(instances: int) -> None:
    """A provider more, or a rule less, can never make impossible what was placed: the bound on jobs must cover it."""
    for seed in range(instances // SHARE):
        world = gangs_world(seed)
        answer = place(snapshot_of(world)).solution
        more = place(snapshot_of(with_newcomer(world, seed))).solution
        tighter = place(snapshot_of(tightened(world))).solution
        if len({job["spec"]["priority"] for job in world["jobs"]}) == 1:
            assert tighter.placed <= answer.most, f"seed {seed}"
            assert answer.placed <= more.most, f"seed {seed}"
        for each in (answer, more, tighter):
            assert each.floor <= each.cost, f"seed {seed}"
            assert each.placed <= each.most, f"seed {seed}"
