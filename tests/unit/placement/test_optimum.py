"""Single-GPU jobs against exhaustive search: the true optimum, lawful and never oversold, on thousands of worlds."""

from __future__ import annotations

import copy
from random import Random

from tests.unit.placement.oracle import breaches, optimum, value_of
from tests.unit.placement.worlds import Raw, random_world, snapshot_of

from fedgpu_operator.placement import decide

Pair = tuple[str, str]


def placed_by(world: Raw) -> dict[str, Pair]:
    """`{job uid: (provider, product)}` as placement decides it."""
    return {
        each.job_uid: (each.chosen.provider, each.chosen.product)
        for each in decide(snapshot_of(world))
        if each.chosen is not None
    }


def singles_world(seed: int) -> Raw:
    """A world of single-GPU jobs in which nobody's funds are short, so that the optimum is defined by capacity."""
    world = random_world(Random(seed), jobs=8 if seed % 2 else 5, gangs=False)
    world["funds"] = dict.fromkeys(world["funds"])
    if seed % 2:  # every other world without guardrails, so that jobs really compete
        world["policies"], world["defaultDeny"] = [], False
    return world


def test_single_gpu_jobs_get_the_true_optimum(instances: int) -> None:
    contested = 0
    for seed in range(instances):
        world = singles_world(seed)
        placed = placed_by(world)
        assert breaches(world, placed) == [], f"seed {seed}"
        best = optimum(world)
        assert value_of(world, placed) == best, f"seed {seed}"
        contested += any(best[:-1]) and best[-1] > 0
    assert contested > instances // 4, "the worlds became too easy to prove anything"


def test_order_of_the_snapshot_never_matters(instances: int) -> None:
    for seed in range(instances // 10):
        world = random_world(Random(seed))
        before = decide(snapshot_of(world))
        for part in ("providers", "jobs", "policies"):
            Random(seed).shuffle(world[part])
        assert decide(snapshot_of(world)) == before, f"seed {seed}"


def test_one_more_provider_never_makes_it_worse(instances: int) -> None:
    for seed in range(instances // 10):
        world = singles_world(seed)
        before = value_of(world, placed_by(world))
        newcomer = singles_world(seed + 1_000_000)["providers"][0]
        newcomer["metadata"]["name"] = "newcomer"
        world["providers"].append(newcomer)
        assert value_of(world, placed_by(world)) <= before, f"seed {seed}"


def test_tighter_residency_never_makes_it_better(instances: int) -> None:
    for seed in range(instances // 10):
        world = singles_world(seed)
        before = value_of(world, placed_by(world))
        tighter = copy.deepcopy(world)
        for job in tighter["jobs"]:
            rules = job["spec"]["placement"]
            rules["excludedCountries"] = sorted({"US", *rules.get("excludedCountries", [])})
        assert value_of(tighter, placed_by(tighter)) >= before, f"seed {seed}"


def test_equal_offers_go_by_name() -> None:
    world = singles_world(1)
    model = {"product": "H100", "pricePerGPUHour": "1.25"}
    stock = {"H100": {"architecture": "hopper", "memoryMiB": 81559, "histogram": [{"free": 1, "nodes": 1}]}}
    world["providers"] = [
        {
            "metadata": {"name": name, "labels": {}},
            "spec": {"location": {"country": "DE", "region": ""}, "compliance": [], "offers": [model]},
            "status": {"ready": True, "leases": 0, "inventory": stock},
        }
        for name in ("gamma", "alpha", "beta")
    ]
    job = {"metadata": {"uid": "b", "name": "b", "namespace": "lab"}, "spec": {"runLimitSeconds": 60}}
    other = {"metadata": {"uid": "a", "name": "a", "namespace": "lab"}, "spec": {"runLimitSeconds": 60}}
    world["jobs"] = [job, other]
    assert placed_by(world) == {"a": ("alpha", "H100"), "b": ("beta", "H100")}
