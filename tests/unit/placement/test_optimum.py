"""Single-GPU jobs against exhaustive search: the true optimum, lawful and never oversold, on thousands of worlds."""

from __future__ import annotations

from tests.unit.placement.chance import singles_world
from tests.unit.placement.optimum import optimum, value_of
from tests.unit.placement.oracle import breaches
from tests.unit.placement.worlds import placed_by


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
