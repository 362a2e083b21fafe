"""Which jobs count as equal, in which order their classes stand, and what funds they may reserve."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from fedgpu_operator.domain.geo import Location
from fedgpu_operator.domain.job import DataSet, ExchangeRates, Job, LatencyRule, PlacementRules, Policy
from fedgpu_operator.domain.money import MicroUSD, charge
from fedgpu_operator.domain.offer import GpuModel, GpuNeed, Offer
from fedgpu_operator.placement import Engine, Placement, Snapshot, place
from fedgpu_operator.placement.classes import alike

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE = Job("base", "lab", "base", GpuNeed(), 1, 3600)
OFFERS = tuple(
    Offer(f"p{i}", GpuModel("H100", 81559, "hopper"), MicroUSD(1_000_000 * (1 + i)), Location("DE"), {4: 1})
    for i in range(4)
)


def placed(*jobs: Job, offers: tuple[Offer, ...] = OFFERS, **more: Any) -> Placement:
    return place(Snapshot(NOW, jobs, offers, **{"funds": {"lab": None, "web": None}} | more))


def members(placement: Placement) -> list[list[str]]:
    return [list(each.members) for each in placement.classes]


def copy_of(job: Job, uid: str) -> Job:
    """An equal job of which no part is the same object."""
    return replace(
        job,
        uid=uid,
        name=uid,
        gpu=replace(job.gpu),
        rules=replace(job.rules),
        rates=replace(job.rates),
        latency=None if job.latency is None else replace(job.latency),
        avoid=dict(job.avoid),
        data=tuple(replace(each) for each in job.data),
    )


FULL = replace(
    BASE,
    latency=LatencyRule(Location("DE", "eu-central-1"), 50, True),
    avoid={"p3/H100": "rejected"},
    data=(DataSet("set", 1024, country="DE"),),
    rates=ExchangeRates(1, 1),
    rules=PlacementRules(countries=frozenset({"DE"})),
)


@pytest.mark.parametrize("job", [BASE, FULL])
def test_equal_jobs_are_one_class_whether_or_not_they_share_objects(job: Job) -> None:
    jobs = [replace(job, uid=f"shared-{i}") for i in range(3)] + [copy_of(job, f"own-{i}") for i in range(3)]
    assert members(placed(*jobs)) == [["own-0", "own-1", "own-2", "shared-0", "shared-1", "shared-2"]]


DIFFERENT: dict[str, Any] = {
    "gpu": GpuNeed(2),
    "replicas": 2,
    "run_limit": 60,
    "priority": 7,
    "rules": PlacementRules(countries=frozenset({"DE"})),
    "latency": LatencyRule(Location("DE", "eu-central-1")),
    "max_price": MicroUSD(5),
    "budget_left": MicroUSD(5),
    "deadline": NOW - timedelta(days=1),
    "rates": ExchangeRates(per_kg_co2e=5),
    "avoid": {"p0/H100": "rejected"},
    "data": (DataSet("set", 10_000, country="DE", countries=frozenset({"DE"})),),
    "output_mib": 10_000,
}
UNSEEN = {"uid", "name", "namespace", "checkpoint_country", "preempts", "checkpoint_seconds"}
"""What no rule of a plain job without data looks at: the checkpoint counts with what was interrupted."""


def test_every_field_that_a_rule_looks_at_parts_jobs() -> None:
    assert {each.name for each in fields(Job)} == DIFFERENT.keys() | UNSEEN, "a new field of Job: is it looked at?"
    for name, value in DIFFERENT.items():
        other = replace(BASE, uid="other", **{name: value})
        assert len(placed(BASE, other).classes) == 2, name


def test_every_field_but_uid_and_name_parts_jobs_at_first_sight() -> None:
    other = DIFFERENT | {"namespace": "web", "checkpoint_seconds": 60, "checkpoint_country": "FR", "preempts": True}
    assert {each.name for each in fields(Job)} == other.keys() | {"uid", "name"}, "a new field of Job"
    changed = [replace(BASE, **{name: value}) for name, value in other.items()]
    assert len(alike([BASE, replace(BASE, uid="other", name="other"), *changed])) == 1 + len(changed)


def test_checkpoints_part_jobs_and_namespaces_only_by_what_binds_them() -> None:
    often = replace(BASE, uid="often", checkpoint_seconds=600)
    assert len(placed(BASE, often).classes) == 2
    other = replace(BASE, uid="other", namespace="web")
    assert len(placed(BASE, other).classes) == 1
    assert len(placed(BASE, other, policies={"web": (Policy("any", 1),)}).classes) == 2
    assert len(placed(BASE, other, funds={"lab": None, "web": MicroUSD(10**12)}).classes) == 2
    same = {"web": (Policy("any", 1), Policy("b", 2)), "lab": (Policy("b", 2), Policy("any", 1))}
    assert len(placed(BASE, other, policies=same).classes) == 1


def test_a_deadline_far_ahead_parts_nobody() -> None:
    jobs = [replace(BASE, uid=f"u{i}", deadline=NOW + timedelta(days=1 + i)) for i in range(5)]
    assert len(placed(*jobs).classes) == 1


def test_classes_stand_by_priority_and_least_uid_whatever_the_order_of_the_jobs() -> None:
    rng = Random(5)
    jobs = [
        replace(BASE, uid=f"u{i:03d}", priority=i % 3, run_limit=rng.choice([60, 3600]), max_price=MicroUSD(3_000_000))
        for i in range(60)
    ]
    orders = []
    for _ in range(4):
        rng.shuffle(jobs)
        result = placed(*jobs)
        orders.append((members(result), result.assigned()))
        keys = [(-each.ctx.job.priority, each.members[0]) for each in result.classes]
        assert keys == sorted(keys)
        assert all(list(each.members) == sorted(each.members) for each in result.classes)
    assert all(order == orders[0] for order in orders)


def test_equal_rows_are_the_same_arrays_and_read_only() -> None:
    jobs = [replace(BASE, uid=f"u{i}", run_limit=60 + i, rules=PlacementRules()) for i in range(20)]
    classes = placed(*jobs).classes
    assert len(classes) == 20
    assert len({id(each.eligible) for each in classes}) == len({id(each.price) for each in classes}) == 1
    with pytest.raises(ValueError, match="read-only"):
        classes[0].eligible[0] = False
    with pytest.raises(ValueError, match="read-only"):
        classes[0].price[0] = 0


def naive_reserve(jobs: list[Job], funds: int) -> dict[str, set[str]]:
    """Which providers each job may still get when it comes to it: each reserves the dearest that it can pay."""
    result = {}
    for job in sorted(jobs, key=lambda each: (-each.priority, each.uid)):
        costs = {each.provider: charge(each.price, job.gpus * job.run_limit) for each in OFFERS}
        result[job.uid] = {name for name, cost in costs.items() if cost <= funds}
        funds -= max((cost for cost in costs.values() if cost <= funds), default=0)
    return result


def test_funds_are_reserved_job_by_job_where_they_do_not_cover_all() -> None:
    rng, parted = Random(3), 0
    for _ in range(200):
        jobs = [
            replace(BASE, uid=f"u{i}", priority=rng.choice([0, 0, 1]), run_limit=rng.choice([900, 3600, 7200]))
            for i in range(rng.randint(1, 8))
        ]
        funds = rng.randrange(0, 40_000_000)
        result = placed(*jobs, funds={"lab": MicroUSD(funds)})
        may = {
            uid: {OFFERS[i].provider for i in range(len(OFFERS)) if each.eligible[i]}
            for each in result.classes
            for uid in each.members
        }
        assert may == naive_reserve(jobs, funds)
        parted += len(result.lefts) > 0
        prices = [OFFERS[offer].price for offer in result.assigned().values()]
        assert sum(prices) * 900 // 3600 <= funds
    assert 50 < parted < 200


def test_a_pass_after_another_finds_the_same_classes_as_a_fresh_one() -> None:
    rng, engine = Random(11), Engine()
    parts = [(GpuNeed(count), ExchangeRates(count)) for count in (1, 2, 3)]
    number = 0

    def fresh() -> Job:
        nonlocal number
        number += 1
        gpu, rates = rng.choice(parts)
        return replace(BASE, uid=f"u{rng.randrange(10**9)}-{number}", gpu=gpu, rates=rates, run_limit=60)

    jobs = [fresh() for _ in range(100)]
    for turn in range(30):
        for _ in range(rng.randrange(12)):
            change = rng.random()
            if change < 0.3 and jobs:
                jobs.pop(rng.randrange(len(jobs)))
            elif change < 0.6:
                jobs.insert(rng.randrange(len(jobs) + 1), fresh())
            else:
                i = rng.randrange(len(jobs))
                jobs[i] = copy_of(jobs[i], jobs[i].uid) if change < 0.8 else fresh()
        if turn % 7 == 3:
            rng.shuffle(jobs)
        if turn % 11 == 5:
            jobs = jobs[:10]
        snapshot = Snapshot(NOW, tuple(jobs), OFFERS, funds={"lab": None})
        assert members(engine.place(snapshot)) == members(place(snapshot))
